"""The four rows a photo becomes, and their bytes. Row i of a split is the same photo in every family.

A row is a `tf.train.Example`, written and read without TensorFlow: the message is declared in a descriptor pool of its
own, so that TensorFlow can live in the same process. Arrays are kept as raw little-endian bytes under their name, with
NAME/shape and NAME/dtype beside them; those of which both h and w differ from photo to photo under NAME/value, as
TensorFlow Datasets has it. Decoded arrays are read-only.
"""

import functools
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from PIL import Image

from labelgen.core.errors import UserError
from labelgen.core.geometry import HW
from labelgen.data.rle import _MASK_ARRAYS, MaskSet

FORMAT = 1

FEATURE_DTYPES = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
}
SLOTS = 3
"""Classes kept for a patch's soft target."""
_THUMBNAIL = (8, 8, 3)
Value = bytes | NDArray[Any]
Row = TypeVar("Row")


def _as_written(decode: Callable[[bytes], Row]) -> Callable[[bytes], Row]:
    """Values that no row has become a UserError: bytes of another program's, whose checksums are right."""

    @functools.wraps(decode)
    def checked(data: bytes) -> Row:
        try:
            return decode(data)
        except UserError:
            raise
        except Exception as error:  # Pillow's and numpy's are of many kinds
            reason = f"{type(error).__name__}: {error}"
            raise UserError(
                f"a record holds what labelgen.run does not write ({reason}); copy the shard again"
            ) from error

    return checked


@dataclass(frozen=True)
class FeatureRow:
    """What the trainer reads of a photo."""

    photo_id: str
    size_hw: HW
    """The photo's px."""
    box_xyxy: tuple[float, float, float, float]
    """The view in the photo's px."""
    grid_hw: HW
    """Valid patches h', w': the top-left part of the fixed grid h x w."""
    features: NDArray[Any]
    """[h, w, D] bfloat16, float16 or float32; zeros outside grid_hw."""
    thumbnail: NDArray[np.uint8] | None = None
    """[8, 8, 3], see labelgen.data.thumbnail; None, as zeros, where it is not known: DATA from before it was kept."""

    @property
    def finite(self) -> bool:
        """Whether every feature is a finite number."""
        return _finite(self.features)

    def encode(self) -> bytes:
        """The bytes of a record, a tf.train.Example; the same ones each time."""
        return encode(
            {
                **_photo(self.photo_id, self.size_hw, self.grid_hw),
                "box_xyxy": np.array(self.box_xyxy, np.float32),
                **_pack("features", self.features),
                **_pack("thumbnail", np.zeros(_THUMBNAIL, np.uint8) if self.thumbnail is None else self.thumbnail),
            }
        )

    @staticmethod
    @_as_written
    def decode(data: bytes) -> "FeatureRow":
        """The row of a record. UserError where it is of another family, or damaged."""
        values = decode(data)
        box = _get(values, "box_xyxy").tolist()
        thumbnail = _unpack(values, "thumbnail") if "thumbnail" in values else np.zeros(_THUMBNAIL, np.uint8)
        return FeatureRow(
            _text(values, "photo_id"),
            _pair(values, "size_hw"),
            (box[0], box[1], box[2], box[3]),
            _pair(values, "grid_hw"),
            _unpack(values, "features"),
            thumbnail if thumbnail.any() else None,
        )


@dataclass(frozen=True)
class EvidenceRow:
    """What the labeller reads of a photo; it knows no words."""

    photo_id: str
    size_hw: HW
    grid_hw: HW
    """Valid patches h', w'."""
    crops: NDArray[np.float16]
    """[n, E] unit CLIP embeddings of overlapping crops at several scales."""
    crop_boxes: NDArray[np.float32]
    """[n, 4] xyxy as shares of the photo's width and height."""
    dense: dict[str, NDArray[np.float16]]
    """Variant -> [h', w', E] dense CLIP on the patch grid."""
    masks: MaskSet

    def encode(self) -> bytes:
        """The bytes of a record, a tf.train.Example; the same ones each time."""
        values = _photo(self.photo_id, self.size_hw, self.grid_hw)
        arrays: dict[str, NDArray[Any]] = {"crops": self.crops, "crop_boxes": self.crop_boxes}
        arrays |= {f"masks/{name}": getattr(self.masks, name) for name in _MASK_ARRAYS}
        for name, array in arrays.items():
            values |= _pack(name, array)
        for variant, tokens in self.dense.items():
            values |= _pack(f"dense/{variant}", tokens, "/value")
        return encode(values)

    @staticmethod
    @_as_written
    def decode(data: bytes) -> "EvidenceRow":
        """The row of a record. UserError where it is of another family, or damaged."""
        values = decode(data)
        size_hw = _pair(values, "size_hw")
        variants = sorted(key.split("/")[1] for key in values if key.startswith("dense/") and key.endswith("/value"))
        return EvidenceRow(
            _text(values, "photo_id"),
            size_hw,
            _pair(values, "grid_hw"),
            _unpack(values, "crops"),
            _unpack(values, "crop_boxes"),
            {variant: _unpack(values, f"dense/{variant}", "/value") for variant in variants},
            MaskSet(size_hw=size_hw, **{name: _unpack(values, f"masks/{name}") for name in _MASK_ARRAYS}),
        )


@dataclass(frozen=True)
class TruthRow:
    """What only quality, evaluate and report read."""

    photo_id: str
    label_map: NDArray[Any]
    """[H, W] uint8 or uint16 class indices, 255 / 65535 not annotated."""

    def encode(self) -> bytes:
        """The bytes of a record, a tf.train.Example; the same ones each time."""
        return encode({"photo_id": self.photo_id.encode(), "label_map": png_bytes(self.label_map)})

    @staticmethod
    @_as_written
    def decode(data: bytes) -> "TruthRow":
        """The row of a record. UserError where it is of another family, or damaged."""
        values = decode(data)
        return TruthRow(_text(values, "photo_id"), png_array(_get_bytes(values, "label_map")))


@dataclass(frozen=True)
class LabelRow:
    """Free labels of a photo for one list of words."""

    photo_id: str
    classes: NDArray[np.int32]
    """[n] present classes."""
    scores: NDArray[np.float32]
    """[n] their scores."""
    label_map: NDArray[Any]
    """[H, W] uint8 or uint16 class indices, 255 / 65535 ignore."""
    confidence: NDArray[np.uint8]
    """[H, W] 255 = certain."""
    target_classes: NDArray[np.uint16]
    """[h, w, 3] classes of a patch, on the fixed grid."""
    target_shares: NDArray[np.uint8]
    """[h, w, 3] their shares of the patch, 255 = all of it; the sum is lower where part of it is ignore."""

    def encode(self) -> bytes:
        """The bytes of a record, a tf.train.Example; the same ones each time."""
        values: dict[str, Value] = {
            "photo_id": self.photo_id.encode(),
            "classes": self.classes,
            "scores": self.scores,
            "label_map": png_bytes(self.label_map),
            "confidence": png_bytes(self.confidence),
        }
        return encode(
            values | _pack("target_classes", self.target_classes) | _pack("target_shares", self.target_shares)
        )

    @staticmethod
    @_as_written
    def decode(data: bytes) -> "LabelRow":
        """The row of a record. UserError where it is of another family, or damaged."""
        values = decode(data)
        return LabelRow(
            _text(values, "photo_id"),
            _get(values, "classes").astype(np.int32),
            _get(values, "scores").astype(np.float32),
            png_array(_get_bytes(values, "label_map")),
            png_array(_get_bytes(values, "confidence")),
            _unpack(values, "target_classes"),
            _unpack(values, "target_shares"),
        )

    @staticmethod
    @_as_written
    def decode_targets(data: bytes) -> tuple[str, NDArray[np.uint16], NDArray[np.uint8]]:
        """photo_id, target_classes, target_shares alone: the trainer reads them often and needs no PNG decoded."""
        values = decode(data)
        return _text(values, "photo_id"), _unpack(values, "target_classes"), _unpack(values, "target_shares")


PhotoRows = tuple[FeatureRow, EvidenceRow, TruthRow | None]
"""What encoding makes of a photo, a row a family; no truth where the photo has no label map."""


def feature_row(
    photo_id: str,
    size_hw: HW,
    features: NDArray[np.float32],
    grid_hw: HW,
    dtype: np.dtype[Any],
    thumbnail: NDArray[np.uint8] | None = None,
) -> FeatureRow:
    """The features float32 [h', w', D] of a whole photo of size_hw px, laid on the fixed grid in the DATA's type.

    UserError where they are not finite there.
    """
    h, w, width = features.shape
    padded = np.zeros((*grid_hw, width), dtype)
    with np.errstate(over="ignore"):  # looked for below
        padded[:h, :w] = features
    whole = (0.0, 0.0, float(size_hw[1]), float(size_hw[0]))
    check_finite(photo_id, {"patch features": padded})
    return FeatureRow(photo_id, size_hw, whole, (h, w), padded, thumbnail)


def check_finite(photo_id: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """UserError where one of the arrays (what it is -> array) has a value that is not a finite number."""
    for what, array in arrays.items():
        if not _finite(array):
            raise UserError(
                f"{photo_id}: its {what} are not finite as {array.dtype.name}; set --config.dtype=float32, and "
                "--config.encode.feature_dtype=float32 where that alone does not help"
            )


def _finite(array: NDArray[Any]) -> bool:
    return bool(np.isfinite(array.astype(np.float32)).all())


@_as_written
def photo_id_of(data: bytes) -> str:
    """The photo's id of any family's record."""
    return _text(decode(data), "photo_id")


def check_same_photo(split: str, row: int, *photo_ids: str) -> None:
    """UserError unless all ids of row `row` are one: files of different runs were mixed."""
    if len(set(photo_ids)) > 1:
        raise UserError(
            f"row {row} of split {split!r} is another photo in each family ({', '.join(photo_ids)}): "
            "files of different runs were mixed; write DATA anew with labelgen.run"
        )


def _photo(photo_id: str, size_hw: HW, grid_hw: HW) -> dict[str, Value]:
    return {"photo_id": photo_id.encode(), "size_hw": np.array(size_hw), "grid_hw": np.array(grid_hw)}


def _pack(name: str, array: NDArray[Any], suffix: str = "") -> dict[str, Value]:
    return {
        name + suffix: np.ascontiguousarray(array).tobytes(),
        f"{name}/shape": np.array(array.shape, np.int64),
        f"{name}/dtype": array.dtype.name.encode(),
    }


def _unpack(values: dict[str, Value], name: str, suffix: str = "") -> NDArray[Any]:
    dtype = np.dtype(FEATURE_DTYPES.get(_text(values, f"{name}/dtype"), _text(values, f"{name}/dtype")))
    return np.frombuffer(_get_bytes(values, name + suffix), dtype).reshape(_get(values, f"{name}/shape"))


def _get(values: dict[str, Value], name: str) -> Any:
    try:
        return values[name]
    except KeyError:
        raise UserError(f"a record has no {name!r}: the shard is of another family or an older version") from None


def _get_bytes(values: dict[str, Value], name: str) -> bytes:
    return bytes(_get(values, name))


def _text(values: dict[str, Value], name: str) -> str:
    return _get_bytes(values, name).decode()


def _pair(values: dict[str, Value], name: str) -> HW:
    first, second = _get(values, name).tolist()
    return first, second


def png_bytes(image: NDArray[Any]) -> bytes:
    """A PNG of a uint8 or uint16 [H, W] map."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def png_array(data: bytes) -> NDArray[Any]:
    """The uint8 or uint16 [H, W] map of a PNG that `png_bytes` made."""
    with Image.open(io.BytesIO(data)) as image:
        array = np.asarray(image)
    return array if array.dtype == np.uint8 else array.astype(np.uint16)


def _message_classes() -> tuple[Any, Any]:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="fmbseg", syntax="proto3")

    def add(parent: Any, name: str, number: int, kind: int, label: int = field.LABEL_OPTIONAL, of: str = "") -> Any:
        added = parent.field.add(name=name, number=number, type=kind, label=label)
        if of:
            added.type_name = f".fmbseg.{of}"
        return added

    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        add(file.message_type.add(name=name), "value", 1, kind, field.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes", "float", "int64"), 1):
        add(feature, f"{name}_list", number, field.TYPE_MESSAGE, of=f"{name.title()}List").oneof_index = 0
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_MESSAGE, of="Feature")
    add(features, "feature", 1, field.TYPE_MESSAGE, field.LABEL_REPEATED, "Features.FeatureEntry")
    add(file.message_type.add(name="Example"), "features", 1, field.TYPE_MESSAGE, of="Features")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    example, entries = (pool.FindMessageTypeByName(f"fmbseg.{name}") for name in ("Example", "Features"))
    return message_factory.GetMessageClass(example), message_factory.GetMessageClass(entries)


_Example, _Features = _message_classes()


def encode(values: Mapping[str, Value]) -> bytes:
    """A serialized Example: bytes become a bytes_list of one, arrays [n] an int64_list or a float_list."""
    example = _Example()
    for key, value in values.items():
        feature = example.features.feature[key]
        if isinstance(value, bytes):
            feature.bytes_list.value.append(value)
        elif np.issubdtype(value.dtype, np.integer):
            feature.int64_list.value.extend(value.tolist())
        else:
            feature.float_list.value.extend(value.tolist())
    return bytes(example.SerializeToString(deterministic=True))


def decode(data: bytes | memoryview) -> dict[str, Value]:
    """What `encode` was given, integers as int64 [n], floats as float32 [n]. UserError for other bytes."""
    return _values(_parsed(_Example(), data).features)


def decode_entries(data: bytes) -> dict[str, Value]:
    """`decode` of an Example's entries one after the other, without what stands around them."""
    return _values(_parsed(_Features(), data))


def _parsed(message: Any, data: bytes | memoryview) -> Any:
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise UserError("a record is no tf.train.Example; the shard was not written by labelgen.run") from None
    return message


def _values(features: Any) -> dict[str, Value]:
    return {key: _value(feature) for key, feature in features.feature.items()}


def _value(feature: Any) -> Value:
    kind = feature.WhichOneof("kind")
    if kind == "bytes_list":
        return bytes(feature.bytes_list.value[0])
    if kind == "int64_list":
        return np.array(feature.int64_list.value, np.int64)
    return np.array(feature.float_list.value, np.float32)
