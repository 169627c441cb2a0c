"""One shard of the encode stage, from its first photo to its files, killed and resumed at any moment.

The families of a shard are written in step, features first: what a killed run leaves is cut to the rows that all
families have, and goes on at the photo after them. Photos that cannot be used leave a line in SHARD.failures.jsonl.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from labelgen.plan import Shard
from labelgen.records import photo_id_of
from labelgen.tfrecord import ShardReader, ShardWriter, naming, write_all

Failure = dict[str, str]


def failures_path(data: Path, shard: Shard) -> Path:
    """Beside the shard's evidence."""
    return data / "evidence" / f"{shard.name}.failures.jsonl"


def is_done(data: Path, shard: Shard, families: Sequence[str]) -> bool:
    """Whether every file of the shard is finished. UserError where an index does not fit its shard."""
    paths = [data / family / shard.name for family in families]
    if not failures_path(data, shard).exists() or not all(is_finished(path) for path in paths):
        return False
    return len({len(ShardReader(path)) for path in paths}) == 1


def is_finished(path: Path) -> bool:
    """Whether a shard has its name and its index."""
    return path.exists() and path.with_name(path.name + ".index").exists()


class EncodeShard:
    """The files of a shard in work. `next` is the place in photo_ids of the photo to do next."""

    def __init__(self, data: Path, shard: Shard, families: Sequence[str], photo_ids: Sequence[str]):
        """photo_ids: those of this shard, in order. UserError when another process has the shard."""
        self._stack = ExitStack()
        try:
            self._writers = {f: self._stack.enter_context(ShardWriter(data / f / shard.name)) for f in families}
            self._failures = self._stack.enter_context(FailureFile(failures_path(data, shard)))
            self.next = self._resume(photo_ids)
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
        """Keeps the longest beginning of the photos whose row or failure is whole, cuts the rest."""
        whole = min(writer.count for writer in self._writers.values())
        rows = [photo_id_of(data) for data, _ in zip(self._writers["features"].records(), range(whole), strict=False)]
        failed = {line["photo"] for line in self._failures.lines}
        kept = done = 0
        for photo_id in photo_ids:
            if kept < whole and rows[kept] == photo_id:
                kept += 1
            elif photo_id not in failed:
                break
            done += 1
        for writer in self._writers.values():
            writer.truncate(kept)
        self._failures.keep(set(photo_ids[:done]))
        return done

    def add(self, rows: Mapping[str, bytes]) -> None:
        """The record of one photo for every family."""
        for family, writer in self._writers.items():
            writer.append(rows[family])

    def fail(self, failure: Failure) -> None:
        """The line of a photo that leaves no row; `photo` is its id."""
        self._failures.append(failure)

    def finish(self) -> None:
        """All files get their final names."""
        self._failures.finish()
        for writer in self._writers.values():
            writer.finish()


class FailureFile:
    """JSON lines, appended one at a time to PATH.partial; a torn last line is dropped on opening."""

    def __init__(self, path: Path):
        self._path = path
        self._partial = path.with_name(path.name + ".partial")
        if path.exists():
            os.replace(path, self._partial)
        with naming(self._partial):
            self._file = open(self._partial, "a+b", buffering=0)  # noqa: SIM115  (closed by __exit__)
        self._file.seek(0)
        self.lines = [line for raw in self._file if (line := _parse(raw))]

    def __enter__(self) -> "FailureFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def keep(self, photos: set[str]) -> None:
        """Drops the lines of other photos."""
        self.lines = [line for line in self.lines if line["photo"] in photos]
        with naming(self._partial):
            self._file.truncate(0)
            write_all(self._file, b"".join(map(_format, self.lines)))

    def append(self, line: Failure) -> None:
        """When this returns the line outlives the process."""
        self.lines.append(line)
        with naming(self._partial):
            write_all(self._file, _format(line))

    def finish(self) -> None:
        """fsync and rename."""
        with naming(self._partial):
            os.fsync(self._file.fileno())
        os.replace(self._partial, self._path)


def _format(line: Failure) -> bytes:
    return (json.dumps(line, sort_keys=True) + "\n").encode()


def _parse(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw.endswith(b"\n") else None
    except ValueError:
        return None
