"""The encode stage: photos to shards of features, evidence and truth, whoever's share they are."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ml_collections import ConfigDict

from labelgen.core.config import identity
from labelgen.core.errors import UserError
from labelgen.core.files import read_json
from labelgen.core.geometry import HW
from labelgen.core.ontology import Ontology
from labelgen.core.progress import Progress, StageTimes
from labelgen.core.threads import Later, in_order
from labelgen.data.manifest import FAMILIES, check_dtype, claim, digest_of_list, finish_data, is_begun, list_failures
from labelgen.data.records import FORMAT, PhotoRows
from labelgen.data.shards import EncodeShard, Finished, Shard, plan
from labelgen.sources.finding import LeftOut
from labelgen.sources.photos import Photo, PhotoError, Source
from labelgen.sources.registry import open_source

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
    """How many classes masks may have, where these are lines of the file of words."""
    load: Loader = load_encoders

    def begin(self, times: StageTimes) -> "Encoding":
        """Lists the photos and claims DATA for this config. UserError when it is another's, or photos are missing."""
        photos = list_photos(self.config, self.limit, self.words)
        marker = _claim(self.config, self.data, photos)
        return Encoding(self, photos, marker, plan(photos.counts, self.config.encode.photos_per_shard), times)


@dataclass(frozen=True)
class Photos:
    """What the sources of a config's splits list."""

    sources: Mapping[str, Source]
    photo_ids: Mapping[str, Sequence[str]]
    """All that the sources list, the shards' or more."""
    counts: Mapping[str, int]
    """How many of them are encoded, the first ones."""
    classes: int | None
    """How many classes truth has at most; None: not known."""

    def describe(self) -> dict[str, Any]:
        """The photos of each split, for config.json."""
        return {
            split: {
                "count": self.counts[split],
                "digest": digest_of_list(islice(ids, self.counts[split])),
                "truth": self.sources[split].has_truth,
                "truth_classes": self.sources[split].classes,
            }
            for split, ids in self.photo_ids.items()
        }


def list_photos(config: ConfigDict, limit: int | None, words: Ontology | None) -> Photos:
    """UserError when photos or masks are missing."""
    if not config.photos.splits:
        raise UserError("photos.splits is empty; name at least one split and its folder, as configs/my_photos.py does")
    classes = len(words.names) if words else None
    sources = {split: open_source(config.photos, split, classes) for split in config.photos.splits}
    photo_ids = {split: source.list() for split, source in sources.items()}
    counts = {split: min(len(ids), limit or len(ids)) for split, ids in photo_ids.items()}
    named = [len(source.classes or ()) for source in sources.values()]
    return Photos(sources, photo_ids, counts, max(*named, classes or 0, 0) or None)


def _claim(config: ConfigDict, data: Path, photos: Photos) -> Mapping[str, Any]:
    """What DATA/config.json says, of this config and these photos."""
    data.mkdir(parents=True, exist_ok=True)
    fields = {"format": FORMAT, "config": identity(config), "photos": photos.describe()}
    marker = claim(data / "config.json", fields, str(data), _FIX, is_begun(data))
    check_dtype(config, data)
    return marker


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
        (data / "dataset.json").unlink(missing_ok=True)  # its presence says complete
        with self.times("load models"):
            encoders = self.stage.load(self.stage.config)
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
        if new := not (data / "dataset.json").exists():
            encoders = read_json(data / "encoders.json", "delete DATA and encode again")
            list_failures(data, self.shards, self._left_out())
            finish_data(data, self.shards, self.marker, encoders, self.photos.classes)
        splits = read_json(data / "dataset.json", "run again")["splits"]
        rows = ", ".join(f"{sum(fields['rows'])} {split}" for split, fields in splits.items())
        skipped = sum(fields["count"] - sum(fields["rows"]) for fields in splits.values())
        left = LeftOut.of(source.left_out for source in self.photos.sources.values()).said()
        listed = f" (see {data / 'failures.jsonl'})"
        left = f", {left}{listed * new}" * bool(left)  # DATA that was there lists what was there then
        return f"{data}: encoded photos {rows}, {skipped} skipped{listed * bool(skipped)}{left}"

    def _left_out(self) -> Iterator[dict[str, str]]:
        for split, source in sorted(self.photos.sources.items()):
            yield from ({"split": split, **line} for line in source.left_out.lines())


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


def _outcomes(
    source: Source, photo_ids: Sequence[str], encoders: PhotoEncoder, times: StageTimes
) -> Iterator[PhotoRows | _Failed]:
    """What becomes of each photo, in their order."""

    def load(photo_id: str) -> Photo | _Failed:
        try:
            with times("read photos"):
                return source.load(photo_id)
        except PhotoError as error:
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
            yield rows


def _write(
    writing: EncodeShard, outcome: PhotoRows | _Failed, split: str, times: StageTimes, progress: Progress
) -> None:
    if isinstance(outcome, _Failed):
        failure = {"file": outcome.file, "reason": outcome.error.reason, "mend": outcome.error.fix}
        writing.fail({"photo": outcome.photo_id, "split": split, **failure})
        progress.note(f"skipped {failure['file']}: {failure['reason']}")
    else:
        with times("write"):
            writing.add({f: row.encode() for f, row in zip(FAMILIES, outcome, strict=True) if row})
    progress.add(1)
