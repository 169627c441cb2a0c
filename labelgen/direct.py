"""Features read straight into the array that wants them: of a record they are almost all the bytes.

A record's first bytes say where its features stand. Those are read into their place, the few others are parsed, and
nothing is copied on the way. What is not as FeatureRow.encode lays it out is left to FeatureRow.decode.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelgen import example
from labelgen.core.geometry import HW
from labelgen.dataset import SplitReader
from labelgen.tfrecord import HEADER, OVERHEAD, ShardReader, framing

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


def _fits(values: Mapping[str, example.Value], out: NDArray[Any]) -> bool:
    """Whether the features are of the shape and type of `out`."""
    if not values.keys() >= {"photo_id", "grid_hw", "features/shape", "features/dtype"}:
        return False
    shape = tuple(np.asarray(values["features/shape"]).tolist())
    return shape == out.shape and values["features/dtype"] == out.dtype.name.encode()


def _read(
    shard: ShardReader, record: int, name: str, out: NDArray[np.uint8]
) -> tuple[int, dict[str, example.Value]] | None:
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
    return start, example.decode_entries(before[place.entries : place.entry] + after)


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
