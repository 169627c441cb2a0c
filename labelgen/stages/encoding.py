"""The encode stage: photos to shards of features, evidence and truth, whoever's share they are."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ml_collections import ConfigDict

from labelgen.core.config import identity
from labelgen.core.errors import PhotoError, UserError
from labelgen.core.files import check_same, read_json, write_json
from labelgen.core.geometry import HW
from labelgen.core.ontology import Ontology
from labelgen.core.progress import Progress, StageTimes, say
from labelgen.core.threads import Later, in_order
from labelgen.data.arrivals import FOLDER, keep_first, later_counts
from labelgen.data.manifest import (
    DTYPE,
    FAMILIES,
    begun_dtype,
    check_dtype,
    check_dtype_is,
    claim,
    covered,
    digest_of_list,
    finish_data,
    first_dtype,
    is_begun,
    is_complete,
    list_failures,
    used_but,
)
from labelgen.data.records import FORMAT, PhotoRows
from labelgen.data.shards import EncodeShard, Finished, Shard, plan
from labelgen.sources.coco import remarks_of
from labelgen.sources.decoding import Liberty, liberties
from labelgen.sources.finding import LeftOut
from labelgen.sources.photos import Photo, Source
from labelgen.sources.registry import open_source
from labelgen.stages.growing import grown

READERS, READ_AHEAD, WRITE_BEHIND = 2, 4, 4
"""Threads that read photos; photos read and not yet taken; rows of photos not yet written."""
_FIX = "take another --out, or repeat the command that DATA was begun with (its --limit too)"


class PhotoEncoder(Protocol):
    """What labelgen.models.teachers.Encoders is to this stage."""

    times: StageTimes

    @property
    def grid_hw(self) -> tuple[int, int]:
        """The fixed patch grid h, w."""

    @property
    def feature_width(self) -> int:
        """D."""

    @property
    def text_width(self) -> int:
        """E."""

    def encode_photo(self, photo: Photo) -> PhotoRows:
        """The rows of one photo: a function of the photo alone."""

    def encode_photos(self, photos: Iterator[Photo]) -> Generator[PhotoRows, None, None]:
        """The same of each photo, in order; photos are drawn ahead of their rows, a few at most."""

    def identity(self) -> dict[str, Any]:
        """What the rows depend on besides the photo, as JSON."""


Loader = Callable[[ConfigDict], PhotoEncoder]
"""What opens the models of a config."""


def load_encoders(config: ConfigDict) -> PhotoEncoder:
    """The three frozen models."""
    from labelgen.models.teachers import Encoders  # torch and the models: only for who has photos left to encode

    return Encoders(config)


@dataclass(frozen=True)
class EncodeStage:
    """Photos to features, evidence and truth."""

    name: ClassVar[str] = "encode"
    config: ConfigDict
    data: Path
    limit: int | None
    """Only so many photos of each split; None: all."""
    words: Ontology | None
    """Name the classes of masks whose values are lines of the file of words: DATA keeps these names."""
    load: Loader = load_encoders
    shared: bool = False
    """Other workers may begin DATA at the same time, on machines of other kinds."""

    def begin(self, times: StageTimes) -> "Encoding":
        """Lists the photos and claims DATA for this config. UserError when it is another's, or photos are missing."""
        recorded = _recorded(self.data, self.words)
        photos = list_photos(self.config, self.limit, self.words, recorded)
        if recorded is not None:
            there = read_json(self.data / "config.json", _FIX)
            check_same({"config": there["config"]}, {"config": identity(self.config)}, str(self.data), _FIX)
            photos = _with_arrivals(self, photos, recorded)
        marker = _claim(self.config, self.data, photos, recorded)
        for split, count in photos.counts.items():
            keep_first(self.data, split, islice(photos.photo_ids[split], count))
        return Encoding(self, photos, marker, photos.shards(self.config.encode.photos_per_shard), times)


@dataclass(frozen=True)
class Photos:
    """What the sources of a config's splits list."""

    sources: Mapping[str, Source]
    photo_ids: Mapping[str, Sequence[str]]
    """All that the sources list, the shards' or more; where some came since, in the order of the rows."""
    counts: Mapping[str, int]
    """How many of them are encoded, the first ones."""
    truth_classes: Mapping[str, Sequence[str] | None]
    """Names of the classes of each split's truth; None where there is none, and in a DATA from before it kept names."""
    classes: int | None
    """How many classes truth has at most; None: not known."""
    later: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Of each arrival of photos after these: count, digest, came. Of splits that have some."""

    def shards(self, photos_per_shard: int) -> list[Shard]:
        """All of them."""
        return plan(self.counts, photos_per_shard, later_counts({s: {"later": each} for s, each in self.later.items()}))

    def describe(self) -> dict[str, Any]:
        """The photos of each split, for config.json."""
        return {
            split: {
                "count": self.counts[split],
                "digest": digest_of_list(islice(ids, self.counts[split])),
                "truth": self.sources[split].has_truth,
                "truth_classes": self.truth_classes[split],
                **({"later": list(self.later[split])} if split in self.later else {}),
            }
            for split, ids in self.photo_ids.items()
        }


def list_photos(
    config: ConfigDict, limit: int | None, words: Ontology | None, recorded: Mapping[str, Any] | None = None
) -> Photos:
    """recorded: what DATA says of its photos already; it keeps the names of its truth's classes, whatever words come.

    UserError when photos or masks are missing.
    """
    if not config.photos.splits:
        raise UserError("photos.splits is empty; name at least one split and its folder, as configs/my_photos.py does")
    names = {split: _names(split, words, recorded) for split in config.photos.splits}
    count = len(words.names) if words else None
    sources = {
        split: open_source(config.photos, split, count if kept is None else len(kept), names=kept or ())
        for split, kept in names.items()
    }
    truth_classes = {split: _truth_classes(split, source, names[split], recorded) for split, source in sources.items()}
    photo_ids = {split: source.list() for split, source in sources.items()}
    counts = {split: min(len(ids), limit or len(ids)) for split, ids in photo_ids.items()}
    named = [len(classes or ()) for classes in truth_classes.values()]
    return Photos(sources, photo_ids, counts, truth_classes, max(*named, count or 0, 0) or None)


def _names(split: str, words: Ontology | None, recorded: Mapping[str, Any] | None) -> Sequence[str] | None:
    """What class indices stand for where masks have no names of their own; None: DATA was begun without saying."""
    if recorded is not None and split in recorded:
        names: Sequence[str] | None = recorded[split]["truth_classes"]
        return names
    return words.names if words else None


def _truth_classes(
    split: str, source: Source, names: Sequence[str] | None, recorded: Mapping[str, Any] | None
) -> Sequence[str] | None:
    """The names that DATA keeps: the source's own, else `names`; none where it was begun without."""
    if not source.has_truth or (recorded is not None and names is None):
        return None
    return source.classes or names


def _recorded(data: Path, words: Ontology | None) -> Mapping[str, Any] | None:
    """What DATA says of the photos of its splits; None where nothing is encoded yet.

    While it is not complete, words name what nothing named yet, and those added at the end of the file are names too.
    """
    path = data / "config.json"
    if not path.exists() or not is_begun(data):
        return None
    photos: dict[str, dict[str, Any]] = read_json(path, _FIX)["photos"]
    if words is None or (data / "dataset.json").exists():
        return photos
    for fields in photos.values():
        names = fields["truth_classes"] or []
        if fields["truth"] and list(words.names[: len(names)]) == names:
            fields["truth_classes"] = list(words.names)
    return photos


def _with_arrivals(stage: EncodeStage, photos: Photos, recorded: Mapping[str, Any]) -> Photos:
    """The same with what came to splits that were begun. UserError when photos of DATA are gone."""
    per_shard = stage.config.encode.photos_per_shard
    splits = {
        split: found
        for split, listed in photos.photo_ids.items()
        if split in recorded and (found := grown(stage.data, split, recorded[split], listed, stage.limit, per_shard))
    }
    return replace(
        photos,
        photo_ids={**photos.photo_ids, **{split: each.ids for split, each in splits.items()}},
        counts={**photos.counts, **{split: each.first for split, each in splits.items()}},
        later={split: each.later for split, each in splits.items() if each.later},
    )


def _claim(config: ConfigDict, data: Path, photos: Photos, recorded: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What DATA/config.json says, of this config and these photos."""
    path = data / "config.json"
    data.mkdir(parents=True, exist_ok=True)
    fields = {"format": FORMAT, "config": identity(config), "photos": photos.describe()}
    if recorded is not None and (there := read_json(path, _FIX))["photos"] != recorded:
        check_same({**there, "photos": recorded}, fields, str(data), _FIX)
        write_json(path, fields)
    if is_begun(data) and path.exists() and (there := read_json(path, _FIX)) != fields:
        check_same(_first(there), _first(fields), str(data), _FIX)
        write_json(path, fields)  # more came
    marker = claim(path, fields, str(data), _FIX, is_begun(data))
    check_dtype(config, data)
    return marker


def _first(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says but for photos that came later."""
    photos = {s: {k: v for k, v in each.items() if k != "later"} for s, each in fields["photos"].items()}
    return {**fields, "photos": photos}


@dataclass
class Encoding:
    """The encode stage begun. See labelgen.stages.engine.Work."""

    stage: EncodeStage
    photos: Photos
    marker: Mapping[str, Any]
    """What config.json says."""
    shards: Sequence[Shard]
    times: StageTimes

    def families(self, split: str) -> tuple[str, ...]:
        """Families of files that a split has."""
        return FAMILIES if self.marker["photos"][split]["truth"] else FAMILIES[:2]

    def unfinished(self, shards: Sequence[Shard]) -> list[Shard]:
        """See Work; so the other methods."""
        finished = Finished(self.stage.data, FAMILIES)
        return [shard for shard in shards if not finished.has(shard, self.families(shard.split))]

    def open(self, shards: Sequence[Shard]) -> None:
        data = self.stage.data
        if any(shard.arrival <= covered(self._splits(), shard.split) for shard in shards):
            (data / "dataset.json").unlink(missing_ok=True)  # it says that these are finished
        with self.times("load models"):
            encoders = self._load()
        claim_encoders(
            data,
            encoders.grid_hw,
            encoders.feature_width,
            encoders.text_width,
            encoders.identity(),
            is_begun(data),
        )
        self.times.inside("encode", encoders.times)
        for family in {family for shard in self.shards for family in self.families(shard.split)}:
            (data / family).mkdir(exist_ok=True)
        self._encoders = encoders

    def _splits(self) -> Mapping[str, Any]:
        """What dataset.json says of the splits, while it is there."""
        path = self.stage.data / "dataset.json"
        splits: dict[str, Any] = read_json(path, "run again")["splits"] if path.exists() else {}
        return splits

    def _load(self) -> PhotoEncoder:
        """The models in DATA's dtype, whatever auto would be on this machine; in that of the first of all workers."""
        stage, config = self.stage, in_dtype_of(self.stage.config, self.stage.data, self.stage.shared)
        encoders = stage.load(config)
        ours: str = encoders.identity()["dtype"]
        if not stage.shared or is_begun(stage.data) or (first := first_dtype(stage.data, ours)) == ours:
            return encoders
        check_dtype_is(config, first, stage.data)
        return stage.load(with_dtype(config, first, stage.data))

    def do(self, shard: Shard, progress: Progress, spare: bool = False) -> None:
        """Photos are read ahead, encoded and written at the same time: READ_AHEAD photos and WRITE_BEHIND rows at most
        lie between, besides those in the encoder. What is written, and in which order, does not depend on it.
        """
        source, times = self.photos.sources[shard.split], self.times
        photo_ids = self.photos.photo_ids[shard.split][shard.start : shard.stop]
        with EncodeShard(self.stage.data, shard, self.families(shard.split), photo_ids, spare) as writing:
            progress.skip(writing.next)
            with Later(WRITE_BEHIND) as later:
                for outcome in _outcomes(source, photo_ids[writing.next :], self._encoders, times):
                    later.do(partial(_write, writing, outcome, shard.split, times, progress))
            with times("write"):
                writing.finish()

    def complete(self) -> str:
        data = self.stage.data
        if behind := self.unfinished(self.shards):
            return f"{data}: {len(behind)} of {len(self.shards)} shards are left to other workers"
        if later_counts(read_json(data / "config.json", _FIX)["photos"]) != later_counts(self.marker["photos"]):
            return f"{data}: photos came meanwhile, which are left to other workers"
        remarks = {split: list(remarks_of(source)) for split, source in self.photos.sources.items()}
        if new := not is_complete(data):
            encoders = read_json(data / "encoders.json", "delete DATA and encode again")
            list_failures(data, self.shards, self._left_out())
            finish_data(data, self.shards, _with(self.marker, remarks), encoders, self.photos.classes)
        (data / DTYPE).unlink(missing_ok=True)
        splits = read_json(data / "dataset.json", "run again")["splits"]
        rows = ", ".join(f"{sum(fields['rows'])} {split}" for split, fields in splits.items())
        said = "".join(f"; {remark}" for remark in dict.fromkeys(chain.from_iterable(remarks.values())))
        nameless = [split for split, fields in splits.items() if fields["truth"] and not fields["truth_classes"]]
        numbers = f"; truth of {', '.join(nameless)} is numbers, which the first words to label it name"
        came = sum(map(sum, later_counts(splits).values()))
        since = f"; {came} photos came after the first ({data / FOLDER} lists them)" * bool(came)
        return f"{data}: encoded photos {rows}, {self._skipped(splits, new)}{since}{said}{numbers * bool(nameless)}"

    def _skipped(self, splits: Mapping[str, Any], new: bool) -> str:
        """What is no row, and where that is listed; new: just now."""
        came = sum(map(sum, later_counts(splits).values()))
        skipped = came + sum(fields["count"] - sum(fields["rows"]) for fields in splits.values())
        left = LeftOut.of(source.left_out for source in self.photos.sources.values()).said()
        listed = f" (see {self.stage.data / 'failures.jsonl'})"
        left = f", {left}{listed * new}" * bool(left)  # DATA that was there lists what was there then
        taken = "".join(f", {count} {reason}" for reason, count in used_but(self.stage.data).items())
        return f"{skipped} skipped{listed * bool(skipped)}{left}{taken}{listed * bool(taken)}"

    def _left_out(self) -> Iterator[dict[str, str]]:
        for split, source in sorted(self.photos.sources.items()):
            yield from ({"split": split, **line} for line in source.left_out.lines())


def _with(marker: Mapping[str, Any], remarks: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What config.json says, and what is to be said of a split's truth: for dataset.json alone."""
    said = {split: {"remarks": lines} for split, lines in remarks.items() if lines}
    return {
        **marker,
        "photos": {split: {**fields, **said.get(split, {})} for split, fields in marker["photos"].items()},
    }


def in_dtype_of(config: ConfigDict, data: Path, shared: bool = False) -> ConfigDict:
    """The config with the dtype in which `data` was begun in place of auto. shared: see begun_dtype."""
    begun = begun_dtype(data, shared) if config.dtype == "auto" else ""
    return with_dtype(config, begun, data) if begun else config


def with_dtype(config: ConfigDict, dtype: str, data: Path) -> ConfigDict:
    """The config with the dtype of `data`, which is said."""
    say(f"{data} was begun in {dtype} and goes on in it")
    return ConfigDict(config.to_dict() | {"dtype": dtype})


def claim_encoders(
    data: Path, grid_hw: HW, feature_width: int, text_width: int, encoders: Mapping[str, Any], begun: bool
) -> None:
    """Claims `data` for these models, and for its arrays' shapes; begun: whether it has rows of some."""
    fields = {
        "grid_hw": list(grid_hw),
        "feature_width": feature_width,
        "text_width": text_width,
        "encoders": encoders,
    }
    fix = "put the weights it was begun with back, set --config.dtype= as it was, or take another --out"
    claim(data / "encoders.json", fields, str(data), fix, begun)


@dataclass(frozen=True)
class _Failed:
    """A photo that cannot be used."""

    photo_id: str
    file: str
    error: PhotoError


@dataclass(frozen=True)
class _Row:
    """A photo that is encoded, and the liberties taken with it."""

    rows: PhotoRows
    file: str
    liberties: Sequence[Liberty]


def _outcomes(
    source: Source, photo_ids: Sequence[str], encoders: PhotoEncoder, times: StageTimes
) -> Iterator[_Row | _Failed]:
    """What becomes of each photo, in their order."""
    taken: dict[str, Sequence[Liberty]] = {}

    def load(photo_id: str) -> Photo | _Failed:
        try:
            with times("read photos"), liberties() as taken[photo_id]:
                return source.load(photo_id)
        except PhotoError as error:
            del taken[photo_id]
            return _Failed(photo_id, source.file(photo_id), error)

    drawn: deque[_Failed | None] = deque()  # None: a photo that the encoder has

    def usable(loaded: Iterator[Photo | _Failed]) -> Iterator[Photo]:
        for photo in loaded:
            drawn.append(photo if isinstance(photo, _Failed) else None)
            if isinstance(photo, Photo):
                yield photo

    with (
        closing(in_order(photo_ids, load, READERS, READ_AHEAD)) as loaded,
        closing(encoders.encode_photos(usable(loaded))) as encoded,
    ):
        while True:
            with times("encode"):
                rows = next(encoded, None)
            while drawn and (failed := drawn[0]):
                drawn.popleft()
                yield failed
            if rows is None:
                return
            drawn.popleft()
            photo_id = rows[0].photo_id
            yield _Row(rows, source.file(photo_id), taken.pop(photo_id))


def _write(writing: EncodeShard, outcome: _Row | _Failed, split: str, times: StageTimes, progress: Progress) -> None:
    if isinstance(outcome, _Failed):
        failure = {"file": outcome.file, "reason": outcome.error.reason, "mend": outcome.error.fix}
        writing.fail({"photo": outcome.photo_id, "split": split, **failure})
        progress.note(f"skipped {failure['file']}: {failure['reason']}")
    else:
        photo = {"photo": outcome.rows[0].photo_id, "split": split, "file": outcome.file, "used": True}
        with times("write"):
            writing.add(
                {f: row.encode() for f, row in zip(FAMILIES, outcome.rows, strict=True) if row},
                [{**photo, **liberty._asdict()} for liberty in dict.fromkeys(outcome.liberties)],
            )
    progress.add(1)
