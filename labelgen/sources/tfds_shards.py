"""TFRecord shards that others wrote, read at random without an index: their record headers are scanned once."""

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.data.tfrecord import masked_crc
from labelgen.sources.base import PhotoError

_HEADER, _OVERHEAD = 12, 16
_MEND = "copy it again, or prepare the data set again"


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
        data = raw[_HEADER:-4]
        if raw[-4:] != struct.pack("<I", masked_crc(data)):
            raise PhotoError(f"{piece.path.name}: record {within} is damaged (its checksum does not fit)", _MEND)
        return data


def scan(path: Path, count: int) -> NDArray[np.int64]:
    """int64 [count + 1] offsets of the records of a shard and its end. UserError unless it has `count` whole ones."""
    offsets, size = [0], os.path.getsize(path)
    with open(path, "rb", buffering=0) as file:
        while offsets[-1] + _OVERHEAD <= size:
            (length,) = struct.unpack("<Q", os.pread(file.fileno(), 8, offsets[-1]))
            offsets.append(offsets[-1] + length + _OVERHEAD)
    if offsets[-1] != size or len(offsets) != count + 1:
        raise UserError(
            f"{path}: {count} records should be in it, but the {size} bytes do not hold them: cut short or altered; "
            f"{_MEND}"
        )
    return np.array(offsets)
