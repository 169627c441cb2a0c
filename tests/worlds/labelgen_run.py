"""A small world for the tests of the labelling command, a whole DATA of it, and how to run the command on it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from labelgen.data.dataset import Dataset
from labelgen.data.records import LabelRow
from tests.worlds import stub_run
from tests.worlds.paths import ROOT

SCRIPT = [sys.executable, "-m", "tests.worlds.stub_run"]


def run(world: Path, data: Path, *more: str) -> int:
    return stub_run.main([f"--config={world}/config.py", f"--out={data}", *more])


def process(world: Path, data: Path, *more: str, seconds: float = 0.0, **options: Any) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "STUB_SECONDS": str(seconds)}
    command = [*SCRIPT, *more, f"--config={world}/config.py", f"--out={data}"]
    return subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def files(data: Path) -> dict[str, bytes]:
    return {str(path.relative_to(data)): path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file()}


def same(first: Path, second: Path) -> bool:
    a, b = files(first), files(second)
    assert a.keys() == b.keys()
    return [name for name in a if a[name] != b[name]] == []


def label_rows(data: Path, name: str) -> dict[str, LabelRow]:
    reader = Dataset.open(data).label_reader(name, "train")
    found = [LabelRow.decode(reader[i]) for i in range(len(reader))]
    return {row.photo_id: row for row in found}


def edit_mask(path: Path, change: Callable[[np.ndarray], None]) -> None:
    image = Image.open(path)
    values = np.array(image)
    change(values)
    edited = Image.fromarray(values, image.mode)
    if image.mode == "P":
        edited.putpalette(image.getpalette() or [])
    edited.save(path)
