"""Shards: TFRecord framing, a torn tail told from a whole one, and random access by an index of offsets.

A record is `length u64 | masked crc32c of it u32 | data | masked crc32c of data u32`, little-endian, as
TensorFlow's own. A shard being written is a file in NAME.partial/, one for each writer; a finished one is fsynced,
gets NAME.index and is renamed to NAME, in this order, so a NAME without its index never exists.
"""

import contextlib
import errno
import functools
import itertools
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from io import FileIO
from pathlib import Path
from types import TracebackType

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.core.files import (
    NoLocksError,
    is_at,
    lone_name,
    naming,
    open_within,
    renamed,
    size_of,
    try_lock,
    write_all,
    write_atomic,
    writer_names,
)

_MAGIC = b"fmbidx01"
HEADER = 12
OVERHEAD = 16
"""Bytes before a record's data, and around it."""


def masked_crc(*parts: bytes | NDArray[np.uint8]) -> int:
    """TFRecord's checksum of the parts as one: crc32c, rotated and shifted by a constant. Arrays: read-only ones."""
    crc: int = functools.reduce(google_crc32c.extend, parts, 0)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """The bytes of one record."""
    length = struct.pack("<Q", len(data))
    return b"".join([length, struct.pack("<I", masked_crc(length)), data, struct.pack("<I", masked_crc(data))])


def framing(length: int, *parts: bytes | NDArray[np.uint8]) -> bytes:
    """What surrounds a record's data, given as parts: the eight bytes before its header's checksum, the four after."""
    return struct.pack("<QI", length, masked_crc(*parts))


def unframe(raw: bytes) -> bytes | None:
    """The data of the one record that `raw` is, None when it is torn or altered."""
    data = raw[HEADER:-4]
    whole = raw[:8] == struct.pack("<Q", len(raw) - OVERHEAD) and raw[-4:] == struct.pack("<I", masked_crc(data))
    return data if whole else None


def whole_records(file: FileIO) -> Iterator[tuple[int, bytes]]:
    """(offset of the record, its data) up to the first record that is torn or altered."""
    offset = 0
    file.seek(0)
    while len(header := file.read(HEADER) or b"") == HEADER:
        length, crc = struct.unpack("<QI", header)
        if masked_crc(header[:8]) != crc:
            return
        data, tail = file.read(length) or b"", file.read(4) or b""
        if len(tail) != 4 or struct.unpack("<I", tail)[0] != masked_crc(data):
            return
        yield offset, data
        offset += length + OVERHEAD


def records_of(path: Path) -> Iterator[bytes]:
    """The data of the whole records of a file, which another process may be writing; none where there is no file."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb", buffering=0) as file:
        yield from (data for _, data in whole_records(file))


class ShardBusyError(UserError):
    """Another process is writing the shard."""


class ShardWriter:
    """Appends records to a file of its own in the folder PATH.partial, and finishes it as PATH with PATH.index.

    Opening keeps the whole records that are there already and cuts a torn tail. A second process of the machine gets a
    ShardBusyError, or a file of its own with `spare`; so does each other machine. What they write is the same, so it
    does not matter who finishes first, and in which order names change.
    """

    def __init__(self, path: str | Path, spare: bool = False, writer: str = ""):
        """writer: the name of its file, where that is already this process's by another shard's."""
        self.path = str(path)
        self._folder = Path(self.path + ".partial")
        self.writer, self._file = self._open(spare, writer)
        self._offsets = [0] + [at + len(data) + OVERHEAD for at, data in whole_records(self._file)]
        self.truncate(self.count)

    def _open(self, spare: bool, writer: str) -> tuple[str, FileIO]:
        """The first name whose file is nobody's, and the file, owned until it is closed."""
        try:
            for name in [writer] if writer else writer_names():
                if file := self._take(name):
                    return name, file
                if not spare:
                    break
        except NoLocksError:
            name = writer or lone_name()
            return name, open_within(self._folder / name)
        raise ShardBusyError(
            f"{self._folder}: another process is writing it; wait for it, or give each its own --worker=i/n"
        )

    def _take(self, name: str) -> FileIO | None:
        """The file, this process's; None when it is another's."""
        while True:
            file = open_within(self._folder / name)
            if not try_lock(file):
                file.close()
                return None
            if is_at(file, self._folder / name):
                return file
            file.close()  # renamed by another process meanwhile

    @property
    def partial(self) -> Path:
        """Its own file."""
        return self._folder / self.writer

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def left_by(self, name: str) -> Path:
        """The file of the writer `name`; the shard itself where that writer has finished it, or has nothing."""
        path = self._folder / name
        return path if size_of(path) else Path(self.path)

    def keep(self, path: Path, count: int) -> None:
        """Makes the first `count` records of a file, its own or another's, the records of this one."""
        if path == self.partial:
            return self.truncate(count)
        self.truncate(0)
        for data in itertools.islice(records_of(path), count):
            self.append(data)
        return None

    @property
    def count(self) -> int:
        """Whole records in the shard."""
        return len(self._offsets) - 1

    def records(self) -> Iterator[bytes]:
        """The data of every record so far."""
        return (data for _, data in whole_records(self._file))

    def truncate(self, count: int) -> None:
        """Keeps the first `count` records."""
        del self._offsets[count + 1 :]
        with naming(self.partial):
            self._file.truncate(self._offsets[-1])
            self._file.seek(0, os.SEEK_END)

    def append(self, data: bytes) -> None:
        """Adds a record; when this returns the record outlives the process.

        ShardBusyError when the file is gone: on a network disk another machine has finished the shard.
        """
        try:
            with naming(self.partial):
                write_all(self._file, frame(data))
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            raise ShardBusyError(f"{self.path}: another machine has finished it; nothing is lost") from None
        self._offsets.append(self._offsets[-1] + len(data) + OVERHEAD)

    def finish(self) -> None:
        """fsync, index, rename: from here on the shard is PATH. Other writers' files of it go."""
        with naming(self.partial):
            os.fsync(self._file.fileno())
        index = np.array([self._offsets[-1], self.count, *self._offsets[:-1]], "<u8")
        write_atomic(self.path + ".index", _MAGIC + index.tobytes())
        renamed(self.partial, Path(self.path))
        self.drop()

    def drop(self) -> None:
        """Nothing that any writer has is needed any more."""
        shutil.rmtree(self._folder, ignore_errors=True)


class Handle:
    """A file open for reading, for as long as somebody holds this."""

    def __init__(self, path: str):
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, TypeError):  # never opened; as the interpreter exits, os may be gone
            os.close(self.number)


@functools.lru_cache(maxsize=256)  # a split may have more shards than a process may have open files
def _opened(shard: "ShardReader") -> Handle:
    return Handle(shard.path)


class ShardReader:
    """Random access to a finished shard: len() and [i] -> bytes, checked. Picklable; threads may share it."""

    def __init__(self, path: str | Path):
        """UserError when shard or index is missing, or when they do not fit together."""
        self.path = str(path)
        self._offsets = self._read_index()

    @property
    def name(self) -> str:
        """What messages call the shard."""
        return self.path

    @property
    def fix(self) -> str:
        """What to do about a damaged one."""
        return f"delete {self.path}.index and run labelgen.run again: it keeps what is whole and writes the rest anew"

    def _read_index(self) -> NDArray[np.uint64]:
        index = self.path + ".index"
        try:
            raw = Path(index).read_bytes()
            size = os.path.getsize(self.path)
        except FileNotFoundError as error:
            raise UserError(f"{error.filename}: missing; run labelgen.run again: it writes it anew") from None
        words = np.frombuffer(raw[len(_MAGIC) :], "<u8") if len(raw) % 8 == 0 else np.zeros(0, "<u8")
        if not raw.startswith(_MAGIC) or len(words) < 2 or len(words) - 2 != words[1]:
            raise UserError(f"{self.name}.index: not an index of a shard, or cut short; {self.fix}")
        if words[0] != size:
            raise UserError(
                f"{self.name}.index: is for a shard of {words[0]} bytes, but {self.name} has {size}; {self.fix}"
            )
        offsets = np.append(words[2:], words[0]).astype(np.uint64)
        if ((offsets[1:] <= offsets[:-1]) | (offsets[1:] - offsets[:-1] < OVERHEAD)).any():
            raise UserError(f"{self.name}.index: its records do not follow each other; {self.fix}")
        return offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> bytes:
        """The data of record `row`. UserError when its bytes were altered."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        data = self._whole(row)
        if data is None:
            raise UserError(f"{self.name}: record {row} is damaged (its checksum does not fit); {self.fix}")
        return data

    def span(self, first: int, last: int) -> tuple[int, int]:
        """(start, end) of the bytes of records `first` to `last`, framing included."""
        return int(self._offsets[first]), int(self._offsets[last + 1])

    def opened(self) -> "Handle":
        """The file. Held while it is read: another thread may make it leave the cache."""
        return _opened(self)

    def _whole(self, row: int) -> bytes | None:
        """The data of record `row`, None when its bytes were altered."""
        start, end = self.span(row, row)
        handle = self.opened()
        return unframe(os.pread(handle.number, end - start, start))


def files_of(split: str, arrival: int) -> str:
    """What the files of a split's photos begin with: of those that came first SPLIT, then SPLIT.1, SPLIT.2; no split
    has a dot in its name."""
    return f"{split}.{arrival}" if arrival else split


def shard_name(files: str, shard: int, shards: int) -> str:
    """SPLIT-00003-of-00016.tfrecord; files: see files_of."""
    return f"{files}-{shard:05}-of-{shards:05}.tfrecord"


def shard_names(split: str, shards: int, later: Sequence[int]) -> list[str]:
    """File names of all `shards` of a split in the order of its rows; later: how many of them each arrival has."""
    counts = [shards - sum(later), *later]
    return [shard_name(files_of(split, k), i, count) for k, count in enumerate(counts) for i in range(count)]
