"""Data sets that TensorFlow Datasets (tfds) prepared on disk, read without TensorFlow.

ArrayRecord and Parquet are read by tfds' own data sources; TFRecord, for which tfds needs TensorFlow, by offsets: the
record headers of each shard are scanned once, since those that others wrote have no index.
"""

import builtins
import dataclasses
import io
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelgen.core.errors import PhotoError, UserError
from labelgen.data.tfrecord import HEADER, OVERHEAD, masked_crc
from labelgen.sources.decoding import decode_photo
from labelgen.sources.finding import LeftOut
from labelgen.sources.photos import IndexTruth, Photo, Source, check_size, check_there, packed

_INFO = "dataset_info.json"
_FIX = "copy it again, or prepare the data set again"


class Columns(NamedTuple):
    """Names of the features that are read; masks is empty where there is no truth."""

    image: str
    masks: str


class Records(Protocol):
    """The serialized examples of a split."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Any: ...


def tfds_source(root: Path, name: str, split: str, masks: str, values: IndexTruth, max_pixels: int) -> Source:
    """Photos of a split of the data set `name`: NAME, NAME/CONFIG, NAME:VERSION or both; of versions the newest.

    root: tfds' data_dir, or the folder of the version itself; split: "validation", "train[:100]"; masks: the
    segmentation feature, or "" for no truth; values: what its values mean where the feature has no names of classes.
    A photo's id is its number in the split, six digits: texts in the records need not be unique, and to look at them
    would take reading all photos. UserError for what is not prepared, or is not there.
    """
    tfds = _module()
    folder = find_version(root, name)
    try:
        builder = tfds.builder_from_directory(str(folder))
    except Exception as error:  # of many kinds: files missing, other versions of the format, broken json
        raise UserError(f"{folder}: tfds cannot read it ({_line(error)}); copy it again, or prepare it again") from None
    if builder.info.name != re.split("[/:]", name)[0]:
        raise UserError(f"{folder}: holds the data set {builder.info.name}, not {name}; fix photos.source")
    columns = find_columns(tfds, folder, builder.info.features, masks)
    if not masks:
        return TfdsSource(tfds, builder, split, columns, None, max_pixels)
    names = class_names(builder.info.features[masks])
    truth = dataclasses.replace(values, count=len(names), classes=names) if names else values
    return TfdsSource(tfds, builder, split, columns, truth, max_pixels)


def _module() -> Any:
    try:
        import tensorflow_datasets
    except ImportError:
        raise UserError(
            "photos.source = tfds:NAME needs a package that is not here: pip install tensorflow-datasets "
            "importlib_resources"
        ) from None
    return tensorflow_datasets


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def find_version(root: Path, name: str) -> Path:
    """The folder of a prepared version: the root, or root/NAME[/CONFIG]/VERSION. UserError when there is none."""
    if (root / _INFO).is_file():
        return root
    dataset, _, version = name.partition(":")
    there = {path.parent.name: path.parent for path in (root / dataset).glob(f"*/{_INFO}")}
    versions = sorted(filter(re.compile(r"\d+\.\d+\.\d+").fullmatch, there), key=lambda v: [*map(int, v.split("."))])
    if versions and (not version or version in versions):
        return there[version or versions[-1]]
    build = f"tfds build {dataset} --data_dir={root} --file_format=array_record"
    if versions:
        raise UserError(f"{root / dataset}: no version {version} in it, but {', '.join(versions)}; fix photos.source")
    configs = sorted({path.parent.parent.name for path in (root / dataset).glob(f"*/*/{_INFO}")})
    if configs:
        raise UserError(f"{root / dataset}: has configs {', '.join(configs)}; set photos.source = tfds:{name}/CONFIG")
    others = ", ".join(sorted({path.name for path in root.iterdir() if any(path.glob(f"**/{_INFO}"))})) or "none"
    raise UserError(
        f"{root / dataset}: no data set prepared by tfds (prepared in {root}: {others}); fix photos.root or "
        f"photos.source, or prepare it: {build}"
    )


def find_columns(tfds: Any, folder: Path, features: Any, masks: str) -> Columns:
    """The photo's feature and the masks'. UserError when there is none.

    Of several features with colours the photo is "image", else the first by name of those that begin so, else of all.
    """
    kinds = sorted(features.items())  # tfds gives them in another order each time
    images = [name for name, feature in kinds if isinstance(feature, tfds.features.Image)]
    columns = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in kinds)
    if masks and masks not in images:
        raise UserError(
            f"{folder}: photos.splits: masks = {masks!r} is not an image feature of it; it has {columns}; name one "
            "that holds class indices, or nothing"
        )
    photos = [name for name in images if name != masks and features[name].shape[-1] != 1]
    if not photos:
        raise UserError(f"{folder}: no image feature for the photo; it has {columns}; take a data set with photos")
    return Columns(min(photos, key=lambda name: (name != "image", not name.startswith("image"), name)), masks)


def class_names(feature: Any) -> tuple[str, ...] | None:
    """A LabeledImage's names; None where it has none (tfds then makes them up from numbers) or is a plain Image."""
    count = getattr(feature, "num_classes", None)
    names = tuple(map(str, feature.names)) if count else ()
    return names if names and names != tuple(map(str, range(len(names)))) else None


class TfdsSource:
    """Photos of one split of a prepared data set."""

    def __init__(
        self, tfds: Any, builder: Any, split: str, columns: Columns, truth: IndexTruth | None, max_pixels: int
    ) -> None:
        """columns: which features are read; truth: None where masks are not wanted."""
        self._records = open_records(tfds, builder, split)
        self._name = f"{builder.info.full_name}/{split}"
        wanted = [column for column in columns if column]
        self._features = tfds.features.FeaturesDict({column: builder.info.features[column] for column in wanted})
        self._decoders = {column: tfds.decode.SkipDecoding() for column in wanted}
        self._columns, self._truth, self._max_pixels = columns, truth, max_pixels

    @property
    def classes(self) -> tuple[str, ...] | None:
        """See labelgen.sources.photos.Source; so the other methods."""
        return self._truth.classes if self._truth else None

    @property
    def has_truth(self) -> bool:
        return self._truth is not None

    @property
    def left_out(self) -> LeftOut:
        return LeftOut()

    def list(self) -> builtins.list[str]:
        return [f"{row:06d}" for row in range(len(self._records))]

    def file(self, photo_id: str) -> str:
        return f"{self._name}/{photo_id}"

    def load(self, photo_id: str) -> Photo:
        example = self._example(int(photo_id))
        file = Path(self.file(photo_id))
        image = decode_photo(example[self._columns.image], file, self._max_pixels)
        if self._truth is None:
            return Photo(photo_id, image)
        name = f"{file} {self._columns.masks}"
        values = decode_values(example[self._columns.masks], name)
        check_size(name, values.shape, self._columns.image, image.shape[:2])
        indices = self._truth(Path(name), values)
        return Photo(photo_id, image, packed(indices, self._truth.count or int(indices.max(initial=0)) + 1))

    def _example(self, row: int) -> dict[str, bytes]:
        """The wanted features as the bytes of picture files."""
        try:
            example: dict[str, bytes] = self._features.deserialize_example_np(
                self._records[row], decoders=self._decoders
            )
        except (PhotoError, UserError, MemoryError):
            raise
        except Exception as error:  # ArrayRecord's and the parser's own kinds
            raise PhotoError(f"its record cannot be read ({_line(error)})", "prepare the data set again") from None
        return example


def decode_values(data: bytes, name: str) -> NDArray[Any]:
    """[H, W] values of a picture file: grey, palette, or grey as RGB (many builders declare three channels).

    UserError for colours: they are not class indices.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode, values = image.mode, np.asarray(image)
    except Exception as error:  # Pillow's decoders raise of many kinds on broken files
        raise UserError(f"{name}: the mask cannot be read ({_line(error)}); prepare the data set again") from None
    if mode == "RGB" and (values == values[..., :1]).all():
        return values[..., 0]
    if mode not in ("1", "L", "P", "I", "I;16"):
        raise UserError(f"{name}: a mask of mode {mode}; class indices are wanted; name another feature as masks")
    return values


def open_records(tfds: Any, builder: Any, split: str) -> Records:
    """The serialized examples of a split or slice. UserError when it is unknown, empty, incomplete or unreadable."""
    folder = Path(builder.data_dir)
    try:
        info = builder.info.splits[split]
        pieces = [Piece(Path(f.filename), f.skip, f.take, f.examples_in_shard) for f in info.file_instructions]
    except (ValueError, KeyError) as error:
        names = ", ".join(builder.info.splits) or "none"
        raise UserError(f"{folder}: no split {split!r} ({_line(error)}); it has {names}; fix photos.splits") from None
    if info.num_examples <= 0:
        raise UserError(f"{folder}: split {split!r} has no photo; fix photos.splits")
    check_there(folder, [piece.path.name for piece in pieces], "file", "copy the rest, or prepare the data set again")
    formats = {format.value for format in builder.info.available_file_formats()}
    records: Records
    if formats & {"array_record", "parquet"}:
        records = _as_data_source(tfds, builder, split)
    elif formats <= {"tfrecord"}:
        records = TfRecords(pieces)
    else:
        raise UserError(
            f"{folder}: prepared as {', '.join(sorted(formats))}; prepare it with --file_format=array_record"
        )
    if len(records) != info.num_examples:  # tfds' source of Parquet takes no notice of slices
        raise UserError(f"{folder}: {split!r} of this file format is read as a whole only; take a split without [ ]")
    return records


def _as_data_source(tfds: Any, builder: Any, split: str) -> Any:
    try:
        return builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    except Exception as error:  # of many kinds: a package missing, files cut short
        raise UserError(f"{builder.data_dir}: tfds cannot read it ({_line(error)}); prepare it again") from None


class Piece(NamedTuple):
    """Records skip to skip + take - 1 of a shard that has `count` of them."""

    path: Path
    skip: int
    take: int
    in_shard: int


class TfRecords:
    """len() and [row] -> bytes of the records of some shards, one piece after the other.

    A shard is scanned when a record of it is first wanted; records are as tf.io.TFRecordWriter frames them
    (labelgen.data.tfrecord says how).
    """

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces
        self._ends = np.cumsum([piece.take for piece in pieces])
        self._offsets: dict[Path, NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, row: int) -> bytes:
        """PhotoError when the record's bytes were altered, UserError when its shard is cut short."""
        number = int(np.searchsorted(self._ends, row, side="right"))
        piece = self._pieces[number]
        offsets = self._offsets.get(piece.path)
        if offsets is None:
            offsets = self._offsets[piece.path] = scan(piece.path, piece.in_shard)
        within = row - int(self._ends[number]) + piece.take + piece.skip
        with open(piece.path, "rb") as file:
            file.seek(int(offsets[within]))
            raw = file.read(int(offsets[within + 1] - offsets[within]))
        data = raw[HEADER:-4]
        if raw[-4:] != struct.pack("<I", masked_crc(data)):
            raise PhotoError(f"{piece.path.name}: record {within} is damaged (its checksum does not fit)", _FIX)
        return data


def scan(path: Path, count: int) -> NDArray[np.int64]:
    """int64 [count + 1] offsets of the records of a shard and its end. UserError unless it has `count` whole ones."""
    offsets, size = [0], os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
        while offsets[-1] + OVERHEAD <= size:
            (length,) = struct.unpack("<Q", os.pread(file.fileno(), 8, offsets[-1]))
            offsets.append(offsets[-1] + length + OVERHEAD)
    if offsets[-1] != size or len(offsets) != count + 1:
        raise UserError(
            f"{path}: {count} records should be in it, but the {size} bytes do not hold them: cut short or altered; "
            f"{_FIX}"
        )
    return np.array(offsets)
