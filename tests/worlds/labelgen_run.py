"""A small world for the tests of the labelling command, a whole DATA of it, and how to run the command on it."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labelgen import export
from labelgen.config import command
from labelgen.dataset import Dataset
from labelgen.records import LabelRow
from tests.worlds import stub_run
from tests.worlds.paths import ROOT

SCRIPT = [sys.executable, "-m", "tests.worlds.stub_run"]


@pytest.fixture(autouse=True, name="own_signals")
def own_signals_fixture() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module", name="world")
def world_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    stub_run.write_world(folder)
    return folder


@pytest.fixture(scope="module", name="whole")
def whole_fixture(world: Path) -> Path:
    """DATA of one uninterrupted run."""
    assert run(world, world / "whole") == 0
    return world / "whole"


@pytest.fixture(name="copy")
def copy_fixture(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "data"))


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


@pytest.fixture(scope="module", name="exported")
def exported_fixture(world: Path, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The free labels as labelgen.export writes them."""
    out = tmp_path_factory.mktemp("exported")
    arguments = [f"--config={world}/config.py", f"--data={whole}", f"--out={out}", "--format=png,coco,labelme"]
    assert command(export.main, export.arguments(), arguments) == 0
    return out


@pytest.fixture(name="out")
def out_fixture(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "out"))


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
