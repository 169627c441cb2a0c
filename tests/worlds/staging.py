"""DATA behind a file:// url, and what the file system is asked for."""

from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from labelgen.data.dataset import Dataset

FAMILIES = ("features", "labels/default")
PHOTOS = 24
Request = tuple[str, int, int]


def requests(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """(file, start, end) of every range that the file system is asked for."""
    seen: list[Request] = []
    cat_file = LocalFileSystem.cat_file

    def counted(self: Any, path: str, start: int | None = None, end: int | None = None) -> Any:
        if start is not None and end is not None:
            seen.append((path, start, end))
        return cat_file(self, path, start=start, end=end)

    monkeypatch.setattr(LocalFileSystem, "cat_file", counted)
    return seen


def url(path: Path) -> str:
    return f"file://{path}"


def spans(data: Path, family: str, rows: range) -> set[Request]:
    """Where the rows are, by the plain reader's own index."""
    reader = Dataset.open(data).reader(family, "train")
    places = [reader.locate(row) for row in rows]
    return {(shard.path, *shard.span(record, record)) for shard, record in places}


def covered(requests: list[Request]) -> set[tuple[str, int]]:
    return {(path, byte) for path, start, end in requests for byte in range(start, end)}


def same_rows(copy: Dataset, data: Path) -> bool:
    plain = Dataset.open(data)
    pairs = [(d.reader("features", "train"), d.label_reader("default", "train")) for d in (copy, plain)]
    return all(a[i] == b[i] for a, b in zip(*pairs, strict=True) for i in range(PHOTOS))
