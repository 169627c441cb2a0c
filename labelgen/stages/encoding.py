"""The encode stage: photos to shards of features, evidence and truth, whoever's share they are."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from ml_collections import ConfigDict

from labelgen.core.config import identity
from labelgen.core.errors import UserError
from labelgen.core.files import read_json
from labelgen.core.ontology import Ontology
from labelgen.core.progress import Progress, StageTimes
from labelgen.core.threads import Later, in_order
from labelgen.data.manifest import FAMILIES, _begun, check_dtype, claim, digest_of_list, finish_data
from labelgen.data.records import FORMAT, EvidenceRow, FeatureRow, TruthRow
from labelgen.data.shards import EncodeShard, Finished, Shard, plan
from labelgen.data.tfrecord import ShardBusyError
from labelgen.sources.photos import Photo, PhotoError, Source
from labelgen.sources.registry import open_source

Rows = tuple[FeatureRow, EvidenceRow, TruthRow | None]
"""Of one photo, a row a family."""
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

    def encode_photo(self, photo: Photo) -> Rows:
        """The rows of one photo: a function of the photo alone."""

    def encode_photos(self, photos: Iterator[Photo]) -> Generator[Rows, None, None]:
        """The same of each photo, in order; photos are drawn ahead of their rows, a few at most."""

    def identity(self) -> dict[str, Any]:
        """What the rows depend on besides the photo, as JSON."""


Loader = Callable[[ConfigDict], PhotoEncoder]
"""What opens the models of a config."""


@dataclass(frozen=True)
class DataPlan:
    """DATA before it is written: who it is, and which photo goes where."""

    data: Path
    sources: Mapping[str, Source]
    photo_ids: Mapping[str, Sequence[str]]
    """All that the sources list, the shards' or more."""
    shards: Sequence[Shard]
    marker: Mapping[str, Any]
    classes: int | None
    """How many classes truth has at most; None: not known."""
    spare: bool = False
    """Whether shards that another process has are written too, beside it."""

    def families(self, split: str) -> tuple[str, ...]:
        """Families of files that a split has."""
        return FAMILIES if self.marker["photos"][split]["truth"] else FAMILIES[:2]


def prepare(config: ConfigDict, data: Path, limit: int | None, words: Ontology | None) -> DataPlan:
    """Lists the photos and claims `data` for this config. UserError when it is another's, or photos are missing."""
    if not config.photos.splits:
        raise UserError("photos.splits is empty; name at least one split and its folder, as configs/my_photos.py does")
    classes = len(words.names) if words else None
    sources = {split: open_source(config.photos, split, classes) for split in config.photos.splits}
    photo_ids = {split: source.list() for split, source in sources.items()}
    counts = {split: min(len(ids), limit or len(ids)) for split, ids in photo_ids.items()}
    photos = {
        split: {
            "count": counts[split],
            "digest": digest_of_list(islice(ids, counts[split])),
            "truth": sources[split].has_truth,
            "truth_classes": sources[split].classes,
        }
        for split, ids in photo_ids.items()
    }
    data.mkdir(parents=True, exist_ok=True)
    fields = {"format": FORMAT, "config": identity(config), "photos": photos}
    marker = claim(data / "config.json", fields, str(data), _FIX, _begun(data))
    check_dtype(config, data)
    named = [len(source.classes or ()) for source in sources.values()]
    most = max(*named, classes or 0, 0) or None
    return DataPlan(data, sources, photo_ids, plan(counts, config.encode.photos_per_shard), marker, most)


def load_encoders(config: ConfigDict) -> PhotoEncoder:
    """The three frozen models."""
    from labelgen.models.teachers import Encoders  # torch and the models: only for who has photos left to encode

    return Encoders(config)


def encode(
    config: ConfigDict,
    data_plan: DataPlan,
    mine: Sequence[Shard],
    times: StageTimes,
    load: Loader = load_encoders,
) -> str:
    """Encodes the shards of `mine` that are not finished, and finishes DATA when nobody's are left; what was done."""
    left = unfinished(data_plan, mine)
    if left:
        encoders = open_encoders(config, data_plan, times, load)
        progress = Progress(sum(shard.stop - shard.start for shard in left), "photos", "encode")
        for shard in left:
            try:
                encode_shard(data_plan, shard, encoders, times, progress)
            except ShardBusyError as busy:  # whoever has it finishes it, and DATA if it is the last
                progress.note(f"left to its owner: {busy}")
        progress.close()
    return complete(data_plan)


def unfinished(data_plan: DataPlan, shards: Sequence[Shard]) -> list[Shard]:
    """Those of `shards` that are not finished."""
    there = Finished(data_plan.data, FAMILIES)
    return [shard for shard in shards if not there.has(shard, data_plan.families(shard.split))]


def open_encoders(
    config: ConfigDict, data_plan: DataPlan, times: StageTimes, load: Loader = load_encoders
) -> PhotoEncoder:
    """The models of `config`, once DATA is known to be theirs and ready to be written into."""
    data = data_plan.data
    (data / "dataset.json").unlink(missing_ok=True)  # its presence says complete
    with times("load models"):
        encoders = load(config)
    _claim_encoders(data, encoders)
    times.inside("encode", encoders.times)
    for family in FAMILIES:
        if any(family in data_plan.families(shard.split) for shard in data_plan.shards):
            (data / family).mkdir(exist_ok=True)
    return encoders


def _claim_encoders(data: Path, encoders: PhotoEncoder) -> None:
    fields = {
        "grid_hw": list(encoders.grid_hw),
        "feature_width": encoders.feature_width,
        "text_width": encoders.text_width,
        "encoders": encoders.identity(),
    }
    fix = "put the weights it was begun with back, set --config.dtype= as it was, or take another --out"
    claim(data / "encoders.json", fields, str(data), fix, _begun(data))


def encode_shard(
    data_plan: DataPlan, shard: Shard, encoders: PhotoEncoder, times: StageTimes, progress: Progress
) -> None:
    """Encodes the photos of one shard that it does not have yet, and finishes it.

    Photos are read ahead, encoded and written at the same time: READ_AHEAD photos and WRITE_BEHIND rows at most lie
    between, besides those in the encoder. What is written, and in which order, does not depend on it.
    """
    source = data_plan.sources[shard.split]
    photo_ids = data_plan.photo_ids[shard.split][shard.start : shard.stop]
    with EncodeShard(data_plan.data, shard, data_plan.families(shard.split), photo_ids, data_plan.spare) as writing:
        progress.skip(writing.next)
        with Later(WRITE_BEHIND) as later:
            for outcome in _outcomes(source, photo_ids[writing.next :], encoders, times):
                later.do(partial(_write, writing, outcome, shard.split, times, progress))
        with times("write"):
            writing.finish()


@dataclass(frozen=True)
class _Failed:
    """A photo that cannot be used."""

    photo_id: str
    file: str
    error: PhotoError


def _outcomes(
    source: Source, photo_ids: Sequence[str], encoders: PhotoEncoder, times: StageTimes
) -> Iterator[Rows | _Failed]:
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


def _write(writing: EncodeShard, outcome: Rows | _Failed, split: str, times: StageTimes, progress: Progress) -> None:
    if isinstance(outcome, _Failed):
        failure = {"file": outcome.file, "reason": outcome.error.reason, "mend": outcome.error.fix}
        writing.fail({"photo": outcome.photo_id, "split": split, **failure})
        progress.note(f"skipped {failure['file']}: {failure['reason']}")
    else:
        with times("write"):
            writing.add({f: row.encode() for f, row in zip(FAMILIES, outcome, strict=True) if row})
    progress.add(1)


def complete(data_plan: DataPlan) -> str:
    """Writes dataset.json when every shard of every worker is finished; the line that says what there is."""
    data = data_plan.data
    if left := unfinished(data_plan, data_plan.shards):
        return f"{data}: {len(left)} of {len(data_plan.shards)} shards are left to other workers"
    if not (data / "dataset.json").exists():
        encoders = read_json(data / "encoders.json", "delete DATA and encode again")
        finish_data(data, data_plan.shards, data_plan.marker, encoders, data_plan.classes)
    splits = read_json(data / "dataset.json", "run again")["splits"]
    rows = ", ".join(f"{sum(fields['rows'])} {split}" for split, fields in splits.items())
    skipped = sum(fields["count"] - sum(fields["rows"]) for fields in splits.values())
    listed = f" (see {data / 'failures.jsonl'})" if skipped else ""
    return f"{data}: encoded photos {rows}, {skipped} skipped{listed}"
