"""Shards: which photos lie in which, which is whose, which are finished, and the files of one that is being encoded.

EncodeShard takes a shard from its first photo to its files, killed and resumed at any moment. The families of a shard
are written in step, features first: what a killed run leaves is cut to the rows that all families have, and goes on at
the photo after them. Photos that cannot be used leave a line in SHARD.failures.jsonl. What other machines left of a
shard is copied, never written into: they may still be at work. Rows are functions of their photos, so all that write a
shard write the same, and whoever is first finishes it.
"""

import functools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from labelgen.core.files import listed, naming, open_within, renamed, size_of, write_all
from labelgen.data.records import photo_id_of
from labelgen.data.tfrecord import ShardBusyError, ShardReader, ShardWriter, files_of, records_of, shard_name


@dataclass(frozen=True)
class Shard:
    """Photos start ... stop - 1 of a split: the sorted ones of its first list, then those of each later one."""

    split: str
    index: int
    shards: int
    start: int
    stop: int
    arrival: int = 0
    """Which list of its split: 0 the first; see labelgen.data.arrivals."""

    @property
    def files(self) -> str:
        """What the files of its list begin with."""
        return files_of(self.split, self.arrival)

    @property
    def name(self) -> str:
        """File name, the same in every family."""
        return shard_name(self.files, self.index, self.shards)


def plan(
    counts: Mapping[str, int], photos_per_shard: int, later: Mapping[str, Sequence[int]] | None = None
) -> list[Shard]:
    """All shards of splits with so many photos each, splits by name; later: how many came since, arrival by arrival."""
    shards = []
    for split, first in sorted(counts.items()):
        before = 0
        for arrival, count in enumerate([first, *(later or {}).get(split, ())]):
            starts = range(before, before + count, photos_per_shard)
            before += count
            shards += [
                Shard(split, i, len(starts), start, min(start + photos_per_shard, before), arrival)
                for i, start in enumerate(starts)
            ]
    return shards


def owned(shards: Sequence[Shard], worker: int, workers: int) -> list[Shard]:
    """Worker w of W has the shards whose place in the plan is w modulo W."""
    return list(shards[worker::workers])


Failure = dict[str, Any]


class Finished:
    """Which shards have all their files, by one listing of each folder: no file is opened, however many there are."""

    def __init__(self, data: Path, folders: Sequence[str]):
        """folders: those of families, below data."""
        self._names = {folder: set(listed(data / folder)) for folder in folders}

    def has(self, shard: Shard, families: Sequence[str]) -> bool:
        """Whether the shard's files are there, those of these families; with the list of failures beside evidence."""
        wanted = [(family, name) for family in families for name in (shard.name, f"{shard.name}.index")]
        wanted += [("evidence", f"{shard.name}.failures.jsonl")] if "evidence" in families else []
        return all(name in self._names[family] for family, name in wanted)


def is_finished(path: Path) -> bool:
    """Whether a shard has its name and its index."""
    return path.exists() and path.with_name(path.name + ".index").exists()


def is_done(data: Path, shard: Shard, families: Sequence[str]) -> bool:
    """Whether every file of the shard is finished. UserError where an index does not fit its shard."""
    paths = [data / family / shard.name for family in families]
    if not failures_path(data, shard).exists() or not all(is_finished(path) for path in paths):
        return False
    return len({len(ShardReader(path)) for path in paths}) == 1


def failures_path(data: Path, shard: Shard) -> Path:
    """Beside the shard's evidence."""
    return data / "evidence" / f"{shard.name}.failures.jsonl"


class Left(NamedTuple):
    """What a writer has left of a shard."""

    files: Mapping[str, Path]
    """Family -> its records."""
    failures: Sequence[Failure]
    rows: int
    """Whole rows of all families from the first one on."""
    done: int
    """Photos that these rows and failures are of, from the first one on."""


class EncodeShard:
    """The files of a shard in work. `next` is the place in photo_ids of the photo to do next."""

    def __init__(
        self, data: Path, shard: Shard, families: Sequence[str], photo_ids: Sequence[str], spare: bool = False
    ):
        """photo_ids: those of this shard, in order; spare: in files of its own where another process has the shard.

        ShardBusyError, without `spare`, when another process of this machine has it.
        """
        self._is_done = functools.partial(is_done, data, shard, families)
        self._last = data / families[-1] / shard.name
        self._stack = ExitStack()
        try:
            first = self._stack.enter_context(ShardWriter(data / families[0] / shard.name, spare))
            more = {f: ShardWriter(data / f / shard.name, spare, first.writer) for f in families[1:]}
            self._writers = {families[0]: first} | {f: self._stack.enter_context(w) for f, w in more.items()}
            self._failures = self._stack.enter_context(FailureFile(failures_path(data, shard), first.writer))
            self._others_finish = not self._last.exists()
            self.next = len(photo_ids) if self._is_done() else self._resume(photo_ids)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "EncodeShard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _resume(self, photo_ids: Sequence[str]) -> int:
        """Takes up what the writer that came furthest has left, cuts the rest; how many photos that is."""
        own = self._writers["features"].writer
        names = {own}.union(*(listed(writer.partial.parent) for writer in self._writers.values()))
        best = max((self._left(name, photo_ids) for name in sorted(names, key=lambda name: name != own)), key=_done)
        for family, writer in self._writers.items():
            writer.keep(best.files[family], best.rows)
        self._failures.keep(best.failures, set(photo_ids[: best.done]))
        return best.done

    def _left(self, name: str, photo_ids: Sequence[str]) -> Left:
        """Of the writer `name`; what it has finished has the shard's own name."""
        files = {family: writer.left_by(name) for family, writer in self._writers.items()}
        ids = zip(*(map(photo_id_of, records_of(path)) for path in files.values()), strict=False)
        rows = [row[0] for row in takewhile(lambda row: len(set(row)) == 1, ids)]
        failures = self._failures.left_by(name)
        failed = {line["photo"] for line in failures if not line.get("used")}
        row_count = done = 0
        for photo_id in photo_ids:
            if row_count < len(rows) and rows[row_count] == photo_id:
                row_count += 1
            elif photo_id not in failed:
                break
            done += 1
        return Left(files, failures, row_count, done)

    def add(self, rows: Mapping[str, bytes], remarks: Sequence[Failure] = ()) -> None:
        """The record of one photo for every family; remarks: lines on it, that say `used`.

        ShardBusyError once another process has finished the shard.
        """
        if self._others_finish and self._last.exists():
            self._drop()
            raise ShardBusyError(f"{self._last}: another process has finished it")
        for line in remarks:  # first: those of a photo whose rows are cut off go with them
            self._failures.append(line)
        for family, writer in self._writers.items():
            writer.append(rows[family])

    def fail(self, failure: Failure) -> None:
        """The line of a photo that leaves no row; `photo` is its id."""
        self._failures.append(failure)

    def finish(self) -> None:
        """All files get their final names, unless another process has given them."""
        if self._is_done():
            return self._drop()
        self._failures.finish()
        for writer in self._writers.values():
            writer.finish()
        return None

    def _drop(self) -> None:
        """Nothing that any writer has is needed any more."""
        self._failures.drop()
        for writer in self._writers.values():
            writer.drop()


def _done(leftover: Left) -> int:
    return leftover.done


class FailureFile:
    """JSON lines, appended one at a time to the writer's own file in PATH.partial; a torn last line is dropped."""

    def __init__(self, path: Path, writer: str):
        """writer: the name of the file, this process's by the shard's own."""
        self._path = path
        self._folder = path.with_name(path.name + ".partial")
        self._partial = self._folder / writer
        with naming(self._partial):
            self._file = open_within(self._partial)

    def __enter__(self) -> "FailureFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def left_by(self, name: str) -> list[Failure]:
        """The lines of a writer's file, else of the finished one."""
        for path in (self._folder / name, self._path):
            if size_of(path):
                return self.lines(path)
        return []

    @staticmethod
    def lines(path: Path) -> list[Failure]:
        """The whole lines of a file."""
        return [line for raw in path.read_bytes().splitlines(keepends=True) if (line := _parse(raw))]

    def keep(self, lines: Sequence[Failure], photos: set[str]) -> None:
        """Makes the file hold the lines of these photos."""
        with naming(self._partial):
            self._file.truncate(0)
            write_all(self._file, b"".join(_format(line) for line in lines if line["photo"] in photos))

    def append(self, line: Failure) -> None:
        """When this returns the line outlives the process."""
        with naming(self._partial):
            write_all(self._file, _format(line))

    def drop(self) -> None:
        """Nothing of it is needed any more."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def finish(self) -> None:
        """fsync and rename."""
        with naming(self._partial):
            os.fsync(self._file.fileno())
        renamed(self._partial, self._path)
        self.drop()


def _format(line: Failure) -> bytes:
    return (json.dumps(line, sort_keys=True) + "\n").encode()


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw.endswith(b"\n") else None
    except ValueError:
        return None


def sweep(folder: Path) -> None:
    """Takes away what writers of a finished family have left: they were killed, or came second."""
    for name in os.listdir(folder):
        if name.endswith(".partial"):
            shutil.rmtree(folder / name, ignore_errors=True)
        elif name.endswith(".tmp"):
            (folder / name).unlink(missing_ok=True)
