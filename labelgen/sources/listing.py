"""Photo ids in order, and the endings of their files, kept on disk: a worker's memory does not grow with its photos.

The temporary files lie where Python puts them (TMPDIR), have no name and go with the process; some 30 bytes a photo.
"""

import heapq
import os
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from tempfile import TemporaryFile, gettempdir
from typing import IO, Any, overload

from labelgen.core.files import naming

Named = tuple[str, str]
"""A photo's id and the ending of its file, `.jpg`; one after the other they are the file's name."""
RUN = 1 << 16
"""Names that are sorted at a time, in memory."""
BLOCK = 64
"""Photos between those whose place in the file is known."""
_PIECE = 1 << 14
_MIDDLE, _END = b"\0", b"\xff"  # neither is in a file's name: names that are no text are encoded as text too


class Listing(Sequence[str]):
    """Photo ids in order. Threads may read it at the same time."""

    def __init__(self, photos: Iterable[Named]) -> None:
        """photos: in the order of their ids, each of them once."""
        self._starts, self._count = array("Q"), 0
        with naming(gettempdir()), TemporaryFile(buffering=_PIECE) as file:
            for entry in map(_entry, photos):
                if self._count % BLOCK == 0:
                    self._starts.append(file.tell())
                file.write(entry + _END)
                self._count += 1
            self._starts.append(file.tell())
            file.flush()
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return _named(self._block(place // BLOCK)[place % BLOCK])[0]

    def __iter__(self) -> Iterator[str]:
        for block in range(len(self._starts) - 1):
            yield from (_named(entry)[0] for entry in self._block(block))

    def file(self, photo_id: str) -> str:
        """The name of the photo's file. KeyError when there is no such photo."""
        first = _text(photo_id) + _MIDDLE
        blocks = range(len(self._starts) - 1)
        block = bisect_right(blocks, first, key=lambda i: self._read(i).partition(_MIDDLE)[0] + _MIDDLE) - 1
        for entry in self._block(block) if block >= 0 else ():
            if entry.startswith(first):
                return "".join(_named(entry))
        raise KeyError(photo_id)

    def _block(self, block: int) -> list[bytes]:
        return self._read(block).split(_END)[:-1]

    def _read(self, block: int) -> bytes:
        start, stop = self._starts[block : block + 2]
        return os.pread(self._file, stop - start, start)


def by_id(names: Iterable[str]) -> Iterator[Named]:
    """Files in the order of their ids, those of one id by their endings; RUN of them at most are in memory."""
    entries = (_entry(os.path.splitext(name)) for name in names)
    runs = []
    while run := sorted(islice(entries, RUN)):
        runs.append(_kept(run))
    yield from map(_named, heapq.merge(*runs))


def _kept(run: Sequence[bytes]) -> Iterator[bytes]:
    """The same entries, from a file."""
    with naming(gettempdir()), ExitStack() as failed:
        file = failed.enter_context(TemporaryFile(buffering=_PIECE))
        file.writelines(entry + _END for entry in run)
        file.seek(0)
        failed.pop_all()
    return _entries(file)


def _entries(file: IO[Any]) -> Iterator[bytes]:
    with file:
        rest = b""
        while piece := file.read(_PIECE):
            *whole, rest = (rest + piece).split(_END)
            yield from whole


def _entry(photo: Named) -> bytes:
    """What is kept of a photo. Sorted as bytes these are sorted as Python sorts the ids: no byte is less than 0."""
    return _text(photo[0]) + _MIDDLE + _text(photo[1])


def _named(entry: bytes) -> Named:
    photo_id, _, ending = entry.decode("utf-8", "surrogatepass").partition("\0")
    return photo_id, ending


def _text(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")
