"""Features read straight into an array: the bytes of the plain reader, or None where only that one can tell."""

from pathlib import Path

import numpy as np
import pytest

from labelgen.data import records
from labelgen.data.dataset import Dataset, DirectReader, SplitReader, find
from labelgen.data.records import FEATURE_DTYPES, FeatureRow
from labelgen.data.tfrecord import ShardWriter
from tests.worlds.synthetic import GRID, WIDTH, write_data

BFLOAT16 = FEATURE_DTYPES["bfloat16"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", photos=6)


def reader(path: Path) -> SplitReader:
    return Dataset.open(path).reader("features", "train")


def place(*shape: int) -> np.ndarray:
    return np.full(shape or (*GRID, WIDTH), 7, BFLOAT16)


def test_features_photo_and_grid_are_those_of_the_record_at_each_reading(path: Path) -> None:
    direct = DirectReader(reader(path))
    for row in (3, 0, 5, 3, 0):
        view, out = FeatureRow.decode(reader(path)[row]), place()
        assert direct.read_into(row, out) == (view.photo_id, view.grid_hw)
        np.testing.assert_array_equal(out, view.features)


def test_places_within_a_larger_array_are_filled_and_nothing_beside_them(path: Path) -> None:
    batch = place(3, *GRID, WIDTH)
    assert DirectReader(reader(path)).read_into(2, batch[1])
    np.testing.assert_array_equal(batch[1], FeatureRow.decode(reader(path)[2]).features)
    assert (batch[[0, 2]] == 7).all()


@pytest.mark.parametrize("out", [place(*GRID, WIDTH + 1), np.zeros((*GRID, WIDTH), np.float16), place(WIDTH, *GRID)])
def test_another_shape_or_type_is_left_to_the_plain_reader(path: Path, out: np.ndarray) -> None:
    assert DirectReader(reader(path)).read_into(1, out) is None


def test_every_altered_byte_is_seen_when_the_row_is_first_read(path: Path) -> None:
    shard, split = path / "features/train-00000-of-00001.tfrecord", reader(path)
    whole = shard.read_bytes()
    start, end = split.locate(1)[0].span(1, 1)
    checksum = range(start + 8, start + 12)  # of the length alone, which is compared itself
    for at in [*range(start, start + 200), *range(start + 200, end - 100, 97), *range(end - 100, end)]:
        raw = bytearray(whole)
        raw[at] ^= 4
        shard.write_bytes(raw)
        assert (DirectReader(split).read_into(1, place()) is None) == (at not in checksum), at


def test_a_shard_that_was_cut_short_is_left_to_the_plain_reader(path: Path) -> None:
    shard, direct = path / "features/train-00000-of-00001.tfrecord", DirectReader(reader(path))
    assert direct.read_into(5, place())
    shard.write_bytes(shard.read_bytes()[:-3000])
    assert direct.read_into(5, place()) is None and DirectReader(reader_of(shard, direct)).read_into(5, place()) is None


def reader_of(shard: Path, direct: DirectReader) -> SplitReader:
    """The one that was opened when the shard was whole."""
    return direct._reader


def test_the_value_is_found_where_the_example_has_it() -> None:
    values: dict[str, records.Value] = {"box": np.ones(4, np.float32), "x": b"abc" * 100, "z": np.arange(3)}
    data = records.encode(values)
    at = find(data[:64], len(data), "x")
    assert at and data[at.start : at.end] == b"abc" * 100
    rest = records.decode_entries(data[at.entries : at.entry] + data[at.end :])
    assert rest.keys() == {"box", "z"} and (rest["z"] == np.arange(3)).all()


def test_what_is_laid_out_in_another_way_is_not_found() -> None:
    data = records.encode({"x": b"abc", "y": b"d"})
    assert find(data, len(data), "x")
    for head, size, name in (
        (data, len(data), "w"),
        (data[:6], len(data), "x"),
        (data, len(data) + 1, "x"),
        (b"", 0, "x"),
    ):
        assert find(head, size, name) is None
    two = records._Example()
    two.features.feature["x"].bytes_list.value.extend([b"abc", b"d"])
    assert find(two.SerializeToString(), two.ByteSize(), "x") is None, "two values"
    numbers = records.encode({"x": np.arange(3)})
    assert find(numbers, len(numbers), "x") is None


def test_a_record_of_another_order_is_left_to_the_plain_reader(tmp_path: Path) -> None:
    features = np.ones((*GRID, WIDTH), BFLOAT16)
    row = FeatureRow("0", (60, 50), (0, 0, 50, 60), GRID, features)
    late = records.encode({**records.decode(row.encode()), "a": b"x" * 2000})  # keys are sorted
    with ShardWriter(tmp_path / "train-00000-of-00001.tfrecord") as writer:
        writer.append(late)
        writer.finish()
    split = SplitReader(tmp_path, "train", [1])
    assert DirectReader(split).read_into(0, place()) is None
    np.testing.assert_array_equal(FeatureRow.decode(split[0]).features, features)
