"""Shards that others wrote are read at random, and told when they are not whole."""

from pathlib import Path

import pytest

from labelgen.core.errors import PhotoError, UserError
from labelgen.data.tfrecord import frame
from labelgen.sources.tfds import Piece, TfRecords, scan


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Records 0 to 3 and 4 to 6, of several lengths, one of them empty."""
    paths = [tmp_path / "first", tmp_path / "second"]
    for path, rows in zip(paths, (range(4), range(4, 7)), strict=True):
        path.write_bytes(b"".join(frame(bytes([row]) * (row * 37)) for row in rows))
    return paths


def rows(records: TfRecords) -> list[int]:
    return [len(records[row]) // 37 for row in range(len(records))]


def test_pieces_are_read_one_after_the_other(shards: list[Path]) -> None:
    first, second = shards
    assert rows(TfRecords([Piece(first, 0, 4, 4), Piece(second, 0, 3, 3)])) == [0, 1, 2, 3, 4, 5, 6]
    assert rows(TfRecords([Piece(second, 1, 2, 3), Piece(first, 2, 1, 4), Piece(second, 0, 1, 3)])) == [5, 6, 2, 4]
    assert rows(TfRecords([])) == []
    assert TfRecords([Piece(second, 0, 3, 3)])[2] == bytes([6]) * 222


def test_a_damaged_record_is_named_and_the_others_are_read(shards: list[Path]) -> None:
    raw = bytearray(shards[0].read_bytes())
    raw[-5] ^= 1
    shards[0].write_bytes(raw)
    records = TfRecords([Piece(shards[0], 1, 3, 4)])
    assert records[1] == bytes([2]) * 74
    with pytest.raises(PhotoError, match="first: record 3 is damaged"):
        records[2]


@pytest.mark.parametrize("kept", [0, 5, 16, -1, -100])
def test_a_shard_that_is_cut_short_is_refused(shards: list[Path], kept: int) -> None:
    shards[0].write_bytes(shards[0].read_bytes()[:kept])
    with pytest.raises(UserError, match="first: 4 records should be in it, but the .* bytes do not hold them"):
        TfRecords([Piece(shards[0], 0, 4, 4)])[0]


def test_more_or_other_records_than_expected_are_refused(shards: list[Path]) -> None:
    with pytest.raises(UserError, match="second: 2 records should be in it"):
        scan(shards[1], 2)
    shards[1].write_bytes(b"what is no record, and long enough to have a header")
    with pytest.raises(UserError, match="second: 3 records should be in it"):
        scan(shards[1], 3)
