"""`tf.train.Example` without TensorFlow.

It is declared in a descriptor pool of its own, so that TensorFlow can live in the same process.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from labelgen.core.errors import UserError

Value = bytes | NDArray[Any]


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
