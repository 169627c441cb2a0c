"""Rows survive their bytes, and the bytes are a function of the row alone."""

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from labelgen.core import ontology
from labelgen.core.errors import UserError
from labelgen.data import records, rle
from tests.worlds.rows import evidence_row, feature_row, label_row, truth_row


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, rle.MaskSet):
        return isinstance(b, rle.MaskSet) and same(vars(a), vars(b))
    return a == b


@pytest.mark.parametrize(
    "row", [feature_row(), evidence_row(), truth_row(), label_row()], ids=lambda row: type(row).__name__
)
def test_round_trip(row: records.FeatureRow) -> None:
    data = row.encode()
    again = type(row).decode(data)
    assert same(vars(row), vars(again))
    assert again.encode() == data
    assert records.photo_id_of(data) == row.photo_id


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.float32])
def test_feature_dtypes_are_kept(dtype: type) -> None:
    row = feature_row(dtype=dtype)
    assert records.FeatureRow.decode(row.encode()).features.dtype == dtype


def test_many_classes_need_uint16_maps() -> None:
    label_map = np.array([[0, 300], [65535, 254]], np.uint16)
    again = records.TruthRow.decode(records.TruthRow("a", label_map).encode()).label_map
    assert again.dtype == np.uint16 and again.tolist() == label_map.tolist()
    assert ontology.ignore_value(again) == 65535
    assert ontology.label_dtype(255) == np.uint8 and ontology.label_dtype(256) == np.uint16


def test_row_of_another_family_is_refused() -> None:
    with pytest.raises(UserError, match="no 'box_xyxy'"):
        records.FeatureRow.decode(truth_row().encode())


def test_bytes_of_something_else_are_refused() -> None:
    with pytest.raises(UserError, match="no tf.train.Example"):
        records.TruthRow.decode(b"\xff\xff not a proto")


def test_mixed_photos_are_named() -> None:
    records.check_same_photo("train", 3, "a", "a", "a")
    with pytest.raises(UserError, match="row 3 of split 'train'.*a, b"):
        records.check_same_photo("train", 3, "a", "b")


ROWS: Any = (feature_row("a"), evidence_row("a"), truth_row("a"), label_row("a"))
VALUES: Any = (b"", b"\xff", np.zeros(0, np.int64), np.array([-3]), np.array([1 << 62, 9]))


def test_values_that_no_row_has_are_refused_or_read() -> None:
    """As another program could write them, with right checksums: each field in turn. No other error comes."""
    refused = 0
    for row in ROWS:
        values = records.decode(row.encode())
        for name, value in itertools.product(values, VALUES):
            try:
                type(row).decode(records.encode({**values, name: value}))
            except UserError:
                refused += 1
    assert refused > 100


@pytest.mark.parametrize("name", ["photo_id", "label_map"])
def test_a_record_without_a_value_is_said_to_be_damaged(name: str) -> None:
    torn = records._Example()
    torn.ParseFromString(truth_row("a").encode())
    torn.features.feature[name].bytes_list.ClearField("value")
    with pytest.raises(UserError, match=r"holds what labelgen.run does not write .*; copy the shard again"):
        records.TruthRow.decode(torn.SerializeToString())
