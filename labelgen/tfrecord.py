"""Shards: TFRecord framing, a torn tail told from a whole one, and random access by an index of offsets.

A record is `length u64 | masked crc32c of it u32 | data | masked crc32c of data u32`, little-endian, as
TensorFlow's own. A shard being written is NAME.partial; a finished one is fsynced, gets NAME.index and is
renamed to NAME, in this order, so a NAME without its index never exists.
"""

import contextlib
import fcntl
import functools
import os
import struct
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from labelgen.errors import UserError

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


def write_atomic(path: str | Path, data: bytes) -> None:
    """Writes a file whole or not at all: temporary name, fsync, rename, fsync of the folder.

    The temporary name is always the same, so that a killed run leaves nothing that the next one does not take up; a
    lock keeps two processes from using it at once.
    """
    temporary = f"{path}.tmp"
    while True:
        with naming(temporary), open(temporary, "ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, temporary):  # renamed by another process while this one waited
                continue
            file.truncate(0)
            write_all(file, data)
            os.fsync(file.fileno())
            os.replace(temporary, path)
        return sync_folder(Path(path).parent)


def write_all(file: FileIO, data: bytes) -> None:
    """Writes to an unbuffered file: when this returns the bytes outlive the process, and closing can fail no more."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _is_at(file: FileIO, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """OSErrors raised inside carry the file's name (a failed write by itself does not say which file)."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


class ShardBusyError(UserError):
    """Another process is writing the shard."""


class ShardWriter:
    """Appends records to PATH.partial and finishes it as PATH with PATH.index.

    Opening keeps the whole records that are there already and cuts a torn tail; a finished PATH is reopened.
    One process at a time: a second one gets a ShardBusyError.
    """

    def __init__(self, path: str | Path):
        self.path = str(path)
        self._partial = self.path + ".partial"
        if os.path.exists(self.path):
            # Finished while its sisters of the other families were not: it goes on as a shard in work.
            os.replace(self.path, self._partial)
        with naming(self._partial):
            self._file: FileIO = open(self._partial, "a+b", buffering=0)  # noqa: SIM115  (closed by __exit__)
        self._lock()
        self._offsets = [0] + [at + len(data) + OVERHEAD for at, data in whole_records(self._file)]
        self.truncate(self.count)

    def _lock(self) -> None:
        """Owns the file until it is closed; ShardBusyError when another process does, or has just renamed it."""
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(self._file, self._partial):
                return
        self._file.close()
        raise ShardBusyError(
            f"{self._partial}: another process is writing it; wait for it, or give each its own --worker=i/n"
        )

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

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
        with naming(self._partial):
            self._file.truncate(self._offsets[-1])
            self._file.seek(0, os.SEEK_END)

    def append(self, data: bytes) -> None:
        """Adds a record; when this returns the record outlives the process."""
        with naming(self._partial):
            write_all(self._file, frame(data))
        self._offsets.append(self._offsets[-1] + len(data) + OVERHEAD)

    def finish(self) -> None:
        """fsync, index, rename: from here on the shard is PATH."""
        with naming(self._partial):
            os.fsync(self._file.fileno())
        index = np.array([self._offsets[-1], self.count, *self._offsets[:-1]], "<u8")
        write_atomic(self.path + ".index", _MAGIC + index.tobytes())
        os.replace(self._partial, self.path)
        sync_folder(Path(self.path).parent)


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
    def mend(self) -> str:
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
            raise UserError(f"{self.name}.index: not an index of a shard, or cut short; {self.mend}")
        if words[0] != size:
            raise UserError(
                f"{self.name}.index: is for a shard of {words[0]} bytes, but {self.name} has {size}; {self.mend}"
            )
        return np.append(words[2:], words[0]).astype(np.uint64)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> bytes:
        """The data of record `row`. UserError when its bytes were altered."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        data = self._whole(row)
        if data is None:
            raise UserError(f"{self.name}: record {row} is damaged (its checksum does not fit); {self.mend}")
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
