"""Which photos have their masks already: a folder that gained photos gets masks of the new ones alone, and a command
that was killed goes on.

MASKS/predicted-0.jsonl     a line a photo, one file for each host: its id, and the file's path, size and time of change
A photo counts as done while its file is the same, and its mask and overlay are there.
"""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelgen.core.files import naming, size_of, write_all
from labelgen.core.ontology import label_dtype


class Predicted:
    """The photos that are done in a folder of masks. Opening reads every host's lines; this host appends to its own."""

    def __init__(self, folder: Path, host: int) -> None:
        self._folder, self._path = folder, folder / f"predicted-{host}.jsonl"
        lines = (line for path in sorted(folder.glob("predicted-*.jsonl")) for line in _lines(path))
        self._known = {line["photo"]: line for line in lines}

    def has(self, name: str, photo: Path) -> bool:
        """Whether the photo `name`, whose file is `photo`, is done."""
        known = self._known.get(name)
        return known is not None and known == _line(name, photo) and all(map(size_of, self._results(name)))

    def note(self, name: str, photo: Path) -> None:
        """The photo is done: its mask and overlay are written."""
        with naming(self._path), open(self._path, "ab+", buffering=0) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 1))
            torn = file.read(1) not in (b"", b"\n")
            write_all(file, b"\n" * torn + json.dumps(_line(name, photo)).encode() + b"\n")

    def gone(self, names: Iterable[str]) -> int:
        """How many photos have a mask and are none of `names`."""
        return sum(size_of(self._results(name)[0]) > 0 for name in self._known.keys() - set(names))

    def label_map(self, name: str, classes: int) -> NDArray[np.int32]:
        """[H, W] of a photo that is done, by its mask; -1 unlabelled."""
        with Image.open(self._results(name)[0]) as image:
            values = np.asarray(image).astype(np.int32)
        return np.where(values == np.iinfo(label_dtype(classes)).max, -1, values)

    def _results(self, name: str) -> tuple[Path, Path]:
        return self._folder / "masks" / f"{name}.png", self._folder / "overlays" / f"{name}.jpg"


def _line(name: str, photo: Path) -> dict[str, Any]:
    about = photo.stat()
    return {"photo": name, "file": str(photo.resolve()), "bytes": about.st_size, "changed_ns": about.st_mtime_ns}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines: a killed process may have left a part of one."""
    for raw in path.read_bytes().splitlines():
        try:
            fields = json.loads(raw)
        except ValueError:
            continue
        if isinstance(fields, dict) and "photo" in fields:
            yield fields
