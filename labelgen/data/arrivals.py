"""Which photos DATA has, in the order of its rows: a list of ids for those that were there first, and another one for
each time that photos came since.

DATA/photos/SPLIT.jsonl         the first list: an id a line, as JSON, sorted
DATA/photos/SPLIT.1.jsonl       what came then: a line of fields (`came`: the day, UTC), then ids
A list never changes, and rows of one list lie in shards of their own: what is written stays as it is to the byte. Of
several workers that see new photos one makes the list, the others take it.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from labelgen.core.files import lone_name, sync_folder, write_atomic
from labelgen.data.tfrecord import files_of

FOLDER = "photos"


def list_path(data: Path, split: str, arrival: int) -> Path:
    """Where the list is; arrival: 0 is the first."""
    return data / FOLDER / f"{files_of(split, arrival)}.jsonl"


def keep_first(data: Path, split: str, ids: Iterable[str]) -> None:
    """Writes the first list, unless it is there as it should be. ids: those that config.json has the digest of."""
    path, content = list_path(data, split, 0), b"".join(map(_line, ids))
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, content)


def add(data: Path, split: str, arrival: int, ids: Sequence[str]) -> bool:
    """Writes the list of an arrival; False when another process has written one meanwhile, which counts."""
    path = list_path(data, split, arrival)
    path.parent.mkdir(exist_ok=True)
    own = path.with_name(f"{path.name}.{lone_name()}.tmp")
    try:
        while True:
            with contextlib.suppress(FileNotFoundError):  # another process, which finished DATA, swept it away
                _write(own, ids)
                return _named(own, path)
    finally:
        own.unlink(missing_ok=True)


def _write(path: Path, ids: Sequence[str]) -> None:
    with open(path, "wb") as file:
        file.write(_line({"came": datetime.now(UTC).date().isoformat()}))
        file.writelines(map(_line, ids))
        file.flush()
        os.fsync(file.fileno())


def _named(own: Path, path: Path) -> bool:
    """Gives a file its name, unless another one has it."""
    try:
        os.link(own, path)
    except (FileExistsError, FileNotFoundError) as error:
        if isinstance(error, FileExistsError):
            return False
        raise
    except OSError:  # a disk without hard links
        if path.exists():
            return False
        os.replace(own, path)
    sync_folder(path.parent)
    return True


def lists(data: Path, split: str) -> list[Path]:
    """All lists of a split that are there, the first one first."""
    return list(takewhile(Path.exists, (list_path(data, split, i) for i in count())))


def read_ids(path: Path) -> Iterator[str]:
    """The ids of a list."""
    with open(path, "rb") as file:
        for value in map(json.loads, file):
            if isinstance(value, str):
                yield value


def day(path: Path) -> str:
    """When a later list was made."""
    with open(path, "rb") as file:
        return str(json.loads(file.readline())["came"])


def later_counts(photos: Mapping[str, Any]) -> dict[str, list[int]]:
    """How many photos came each time, of what config.json or dataset.json says of splits; of those that have some."""
    return {split: [each["count"] for each in fields["later"]] for split, fields in photos.items() if "later" in fields}


def _line(value: Any) -> bytes:
    return (json.dumps(value) + "\n").encode()
