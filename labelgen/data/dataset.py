"""DATA as a folder: its names, its readers, and the file whose presence says that it is complete.

DATA/dataset.json                            splits, counts, encoders; written last
DATA/FAMILY/SPLIT-00003-of-00016.tfrecord    features, evidence, truth; each with .index
DATA/labels/NAME/                            ontology.json, prototypes.npy, shards, labels.json (written last)

Features, almost all of a record's bytes, can be read straight into the array that wants them (DirectReader): a record's
first bytes say where its features stand, those are read into their place, the few others are parsed, and nothing is
copied on the way. What is not as FeatureRow.encode lays it out is left to FeatureRow.decode.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.core.files import listed, read_json
from labelgen.core.geometry import HW
from labelgen.core.ontology import Ontology
from labelgen.data import records
from labelgen.data.records import FORMAT
from labelgen.data.tfrecord import HEADER, OVERHEAD, ShardReader, framing, shard_names


class SplitReader:
    """The rows of one split of one family, over all its shards: len() and [i] -> bytes. Picklable."""

    def __init__(
        self,
        folder: Path,
        split: str,
        rows: list[int],
        open_shard: Callable[[Path], ShardReader] = ShardReader,
        later: Sequence[int] = (),
    ):
        """rows: how many each shard has, as the finishing run counted them; later: see shard_names.

        A shard is opened when the first of its rows is read: a large DATA has more shards than a start should open.
        UserError where one is missing; a shard with other rows is one when it is opened.
        """
        self._folder, self._open = folder, open_shard
        self._names = shard_names(split, len(rows), later)
        self._ends = np.cumsum([0, *rows])
        self._shards: dict[int, ShardReader] = {}
        there = set(listed(folder))
        for name in self._names:
            if name not in there or f"{name}.index" not in there:
                open_shard(folder / name)  # says what is missing

    def _shard(self, shard: int) -> ShardReader:
        if shard not in self._shards:
            reader = self._open(self._folder / self._names[shard])
            expected = self._ends[shard + 1] - self._ends[shard]
            if len(reader) != expected:
                raise UserError(
                    f"{reader.name}: has {len(reader)} rows, {expected} are expected; it is of another run: "
                    "delete it and run labelgen.run again"
                )
            self._shards[shard] = reader
        return self._shards[shard]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, row: int) -> bytes:
        shard, record = self.locate(row)
        return shard[record]

    def locate(self, row: int) -> tuple[ShardReader, int]:
        """The shard that holds `row`, and which of its records that is."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        shard = int(np.searchsorted(self._ends, row, "right")) - 1
        return self._shard(shard), row - int(self._ends[shard])


class Labels(NamedTuple):
    """The words of labels/NAME."""

    ontology: Ontology
    prototypes: NDArray[np.float32]
    """[K, E] unit rows."""


class Dataset:
    """A complete DATA. Opening reads dataset.json only; truth/ is opened when somebody asks for its reader."""

    def __init__(self, path: Path, info: dict[str, Any]):
        self.path = path
        self.info = info
        """What dataset.json says: encoders with digests, config, versions beside what the properties give."""

    @staticmethod
    def open(path: str | Path) -> "Dataset":
        """UserError when there is no complete DATA, or one of another format."""
        path = Path(path)
        fix = "DATA is not complete: run labelgen.run with it as --out until it says so"
        info = read_json(path / "dataset.json", fix)
        check_format(info, path / "dataset.json")
        return Dataset(path, info)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.info["splits"])

    @property
    def grid_hw(self) -> tuple[int, int]:
        """The fixed patch grid h, w."""
        height, width = self.info["grid_hw"]
        return int(height), int(width)

    @property
    def feature_width(self) -> int:
        """D."""
        return int(self.info["feature_width"])

    @property
    def text_width(self) -> int:
        """E."""
        return int(self.info["text_width"])

    def count(self, split: str) -> int:
        """Photos of a split, those that failed left out."""
        return sum(self._split(split)["rows"])

    def has_truth(self, split: str) -> bool:
        """Whether the source had masks for the split; does not open truth/."""
        return bool(self._split(split)["truth"])

    def truth_classes(self, split: str) -> tuple[str, ...] | None:
        """Names of the classes in truth/; None in a DATA from before it kept them: lines of some file of words."""
        names = self._split(split)["truth_classes"]
        return None if names is None else tuple(names)

    def reader(self, family: str, split: str) -> SplitReader:
        """family: features, evidence or truth. UserError for a split without truth, and for shards that do not fit."""
        if family == "truth" and not self.has_truth(split):
            raise UserError(
                f"{self.path}: split {split!r} has no truth; set photos.splits.{split}.masks and encode into a new DATA"
            )
        return self._open_split(family, split)

    def stage(
        self, split: str, families: Sequence[str], rows: Iterable[int], stopped: Callable[[], bool] = lambda: False
    ) -> bool:
        """Brings rows near before they are read; True once all are, False when `stopped` said to end it before.

        families: of reader, and labels/NAME. Here there is nothing to do; see labelgen.data.staging.
        """
        return True

    def labels_info(self, name: str) -> dict[str, Any]:
        """What labels/NAME/labels.json says: config, digest, splits."""
        fix = f"label first: python -m labelgen.run --stage=label --config.labels.name={name}{self._other_labels(name)}"
        return read_json(self.path / "labels" / name / "labels.json", fix)

    def labels(self, name: str) -> Labels:
        """The words and prototypes of labels/NAME, once these labels are complete (UserError before)."""
        self.labels_info(name)
        folder = self.path / "labels" / name
        ontology = Ontology.from_json(read_json(folder / "ontology.json", "label again"), str(folder / "ontology.json"))
        return Labels(ontology, read_prototypes(folder / "prototypes.npy", len(ontology.words), self.text_width))

    def labels_file(self, name: str, file: str) -> dict[str, Any]:
        """The fields of a JSON file of labels/NAME."""
        return read_json(self.path / "labels" / name / file, "label again, under another labels.name")

    def label_reader(self, name: str, split: str) -> SplitReader:
        """The LabelRows of a split; row i is the photo of row i everywhere else.

        UserError where photos came to the split after these labels were made.
        """
        info = self.labels_info(name)
        labelled, arrivals = info["splits"], self._split(split).get("later", [])
        if split not in labelled:
            raise UserError(
                f"{self.path}/labels/{name}: split {split!r} is not labelled, only {', '.join(labelled)}; "
                "add it to labels.splits and label under another labels.name"
            )
        if new := sum(each["count"] for each in arrivals[info.get("arrivals", {}).get(split, 0) :]):
            raise UserError(
                f"{self.path}/labels/{name}: {new} photos came to split {split!r} since; label them too: "
                f"python -m labelgen.run --stage=label --config.labels.name={name}"
            )
        return self._open_split(f"labels/{name}", split)

    def _open_split(self, folder: str, split: str) -> SplitReader:
        fields = self._split(split)
        return SplitReader(self.path / folder, split, fields["rows"], later=later_shards(fields))

    def _split(self, split: str) -> dict[str, Any]:
        try:
            fields: dict[str, Any] = self.info["splits"][split]
        except KeyError:
            raise UserError(f"{self.path}: no split {split!r}; it has {', '.join(self.splits)}") from None
        return fields

    def _other_labels(self, name: str) -> str:
        done = sorted(path.parent.name for path in self.path.glob("labels/*/labels.json"))
        return f" (there are: {', '.join(done)})" if done else ""


def later_shards(fields: Mapping[str, Any]) -> list[int]:
    """How many shards each arrival has, of what dataset.json says of a split."""
    return [each["shards"] for each in fields.get("later", ())]


def check_format(info: dict[str, Any], file: Path | str) -> None:
    """UserError when the fields of dataset.json are of another version, or name files elsewhere."""
    if info.get("format") != FORMAT:
        raise UserError(f"{file}: format {info.get('format')!r}, this version reads {FORMAT}; encode again")
    for split in info["splits"]:
        if split in ("", ".", "..") or {"/", "\\"} & set(split):
            raise UserError(f"{file}: split {split!r} is no name of a file; take no DATA from whom you do not trust")


def read_prototypes(path: str | Path, words: int, width: int | None) -> NDArray[np.float32]:
    """float32 [K, E] of a .npy file. UserError for another count or width and for rows without direction.

    width: None where any will do.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of text embeddings") from None
    except Exception:  # numpy's readers raise of many kinds
        raise UserError(f"{path}: not a .npy file of text embeddings; write it with numpy.save") from None
    fits = array.ndim == 2 and len(array) == words and width in (None, array.shape[1])
    if not fits or not np.issubdtype(array.dtype, np.floating):
        raise UserError(
            f"{path}: {array.dtype} {list(array.shape)}, but floats [{words}, {width or 'E'}] are wanted: "
            "a row a word, in the order of the words, as wide as CLIP's text embeddings"
        )
    prototypes: NDArray[np.float32] = array.astype(np.float32)
    norms = np.linalg.norm(prototypes, axis=1)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise UserError(f"{path}: row {int(np.argmin(norms > 0))} is zero or not finite; embed that word again")
    return prototypes


_HEAD = 1024  # bytes read first
_FIRST, _SECOND = 0x0A, 0x12  # protobuf's wire format: field 1 or 2, a length and as many bytes


class Place(NamedTuple):
    """Where a value's bytes stand in a serialized Example: offsets."""

    entries: int
    """Of the first entry, whichever value it is of."""
    entry: int
    """Of the value's entry, which ends where the value ends."""
    start: int
    end: int


class Known(NamedTuple):
    """A row that was read before: where its features are in the shard's file, and what else is wanted of it."""

    shard: ShardReader
    offset: int
    photo_id: str
    grid_hw: HW


class DirectReader:
    """The features of a split's rows, read into arrays. Threads may share it."""

    def __init__(self, reader: SplitReader):
        self._reader = reader
        self._known: dict[int, Known] = {}

    def read_into(self, row: int, out: NDArray[Any]) -> tuple[str, HW] | None:
        """(photo_id, grid_hw) of a row whose features [h, w, D] are then in `out`, which is contiguous.

        None, and anything in `out`, where they are of another shape or type, where the record is laid out in another
        way and where it is damaged: reader[row] tells. The checksum is computed when this first reads the row; from
        then on the file counts as unchanged, and nothing but the features is read of it.
        """
        data = out.reshape(-1).view(np.uint8)
        if row in self._known:
            return self._again(row, data)
        shard, record = self._reader.locate(row)
        found = _read(shard, record, "features", data)
        if found is None or not _fits(found[1], out):
            return None
        offset, values = found
        photo_id, grid_hw = bytes(values["photo_id"]).decode(), tuple(np.asarray(values["grid_hw"]).tolist())
        self._known[row] = Known(shard, offset, photo_id, grid_hw)
        return photo_id, grid_hw

    def _again(self, row: int, out: NDArray[np.uint8]) -> tuple[str, HW] | None:
        known = self._known[row]
        handle = known.shard.opened()
        whole = os.preadv(handle.number, [out.data], known.offset) == out.size
        return (known.photo_id, known.grid_hw) if whole else None


def photo_ids(path: Path) -> Iterator[str]:
    """The id of each row of a finished shard of features, by the first bytes of its record."""
    shard = ShardReader(path)
    for record in range(len(shard)):
        offset, end = shard.span(record, record)
        head = os.pread(shard.opened().number, min(_HEAD, end - offset), offset)[HEADER:]
        place = find(head, end - offset - OVERHEAD, "features")
        values = records.decode_entries(head[place.entries : place.entry]) if place else {}
        yield bytes(values["photo_id"]).decode() if "photo_id" in values else records.photo_id_of(shard[record])


def _fits(values: Mapping[str, records.Value], out: NDArray[Any]) -> bool:
    """Whether the features are of the shape and type of `out`."""
    if not values.keys() >= {"photo_id", "grid_hw", "features/shape", "features/dtype"}:
        return False
    shape = tuple(np.asarray(values["features/shape"]).tolist())
    return shape == out.shape and values["features/dtype"] == out.dtype.name.encode()


def _read(
    shard: ShardReader, record: int, name: str, out: NDArray[np.uint8]
) -> tuple[int, dict[str, records.Value]] | None:
    """The bytes called `name` into `out`: where they are in the file, and the other values. None as read_into says."""
    offset, end = shard.span(record, record)
    size, handle = end - offset - OVERHEAD, shard.opened()
    head = os.pread(handle.number, min(_HEAD, end - offset), offset)
    place = find(head[HEADER:], size, name)
    if place is None or place.end - place.start != out.size:
        return None
    start, before = offset + HEADER + place.start, head[HEADER : HEADER + place.start]
    rest = bytearray(size - place.end + OVERHEAD - HEADER)
    whole = os.preadv(handle.number, [out.data, rest], start) == out.size + len(rest)
    after, frame = bytes(rest[:-4]), head[:8] + rest[-4:]
    if not whole or frame != framing(size, before, _frozen(out), after):
        return None
    return start, records.decode_entries(before[place.entries : place.entry] + after)


def _frozen(x: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same memory, read-only."""
    view = x.view()
    view.flags.writeable = False
    return view


def find(head: bytes, size: int, name: str) -> Place | None:
    """Where the bytes called `name` stand in a serialized Example of `size` bytes that begins with `head`.

    None where `head` ends before they begin, and where they do not end their entry or the entries the Example.
    """
    try:
        entries, end = _inside(head, 0, _FIRST)
        return _find_entry(head, entries, name.encode()) if end == size else None
    except (IndexError, ValueError):
        return None


def _find_entry(head: bytes, entries: int, name: bytes) -> Place:
    at = entries
    while True:
        entry = at
        start, at = _inside(head, entry, _FIRST)
        key, start = _inside(head, start, _FIRST)
        if head[key:start] == name:
            break
    end = start
    for tag in (_SECOND, _FIRST, _FIRST):  # Feature, BytesList, its only value
        start, end = _inside(head, start, tag)
        if end != at:
            raise ValueError("not the entry's last bytes")
    return Place(entries, entry, start, end)


def _inside(data: bytes, at: int, tag: int) -> tuple[int, int]:
    """(start, end) of what the field at `at` holds. ValueError for another field, IndexError where `data` ends."""
    if data[at] != tag:
        raise ValueError("another field")
    size = shift = 0
    while True:
        at += 1
        size |= (data[at] & 0x7F) << shift
        shift += 7
        if data[at] < 0x80:
            return at + 1, at + 1 + size
