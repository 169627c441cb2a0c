"""TensorFlow Datasets finds the shards and reads our records by the description beside them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelgen.data import manifest as description
from labelgen.data.tfrecord import ShardWriter, shard_name
from tests.worlds.rows import evidence_row, feature_row, label_row, truth_row

tfds = pytest.importorskip("tensorflow_datasets", reason="an optional extra; installed, it reads the folders")

CASES = {
    "features": (feature_row(), description.feature_spec((4, 4), 6, "bfloat16")),
    "evidence": (evidence_row(), description.evidence_spec(5, ["maskclip", "naclip"])),
    "truth": (truth_row(), description.truth_spec("uint8")),
    "labels": (label_row(), description.label_spec((4, 4), "uint8")),
}


TENSORFLOW_DECODES = {
    *("float16", "float32", "float64", "bfloat16", "bool", "complex64", "complex128"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16"),
}
"""What tf.io.decode_raw takes, by which TensorFlow Datasets reads a tensor of bytes: TensorFlow 2.21."""


def declared(spec: Any) -> set[str]:
    """The types of all tensors of a features.json that are kept as bytes."""
    if not isinstance(spec, dict):
        return set()
    own = {spec["dtype"]} if spec.get("encoding") == "bytes" else set()
    return own.union(*map(declared, spec.values()))


@pytest.mark.parametrize("family", CASES)
def test_tensorflow_can_decode_what_is_declared(family: str) -> None:
    spec = CASES[family][1]
    assert declared(spec) <= TENSORFLOW_DECODES
    assert (declared(spec) == set()) == (family == "truth")


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        value = vars(value) if hasattr(value, "runs") else value
        found |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {prefix + name: value}
    return found


@pytest.mark.parametrize("family", CASES)
def test_builder_reads_the_folder(tmp_path: Path, family: str) -> None:
    row, spec = CASES[family]
    for shard, count in enumerate((1, 2)):
        with ShardWriter(tmp_path / shard_name("train", shard, 2)) as writer:
            for _ in range(count):
                writer.append(row.encode())
            writer.finish()
    description.write(tmp_path, f"fmbseg_{family}", spec, {"train": ([1, 2], 10)})

    builder = tfds.builder_from_directory(str(tmp_path))
    split = builder.info.splits["train"]
    assert split.num_examples == 3 and split.shard_lengths == [1, 2]
    assert [Path(name).name for name in split.filenames] == [shard_name("train", i, 2) for i in range(2)]

    found = flat(builder.info.features.deserialize_example_np(row.encode()))
    expected = flat(vars(row))
    expected.pop("masks/size_hw", None)  # the photo's own
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(np.asarray(found[name]).reshape(value.shape), value), name
        elif name == "photo_id":
            assert found[name] in (value, value.encode())
        else:
            assert tuple(np.asarray(found[name]).tolist()) == value, name
