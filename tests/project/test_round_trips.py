"""The script that has other packages read the exports: its table, and the one of its readers that is installed here."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labelgen.formats.exporter import FORMATS, Export
from labelgen.formats.writers import Annotated, ClassInfo
from tools import foreign_tools, round_trips
from tools.round_trips import TRIPS, row

CLASSES = [ClassInfo("grass", (1, 2, 3), ("grass",)), ClassInfo("cat", (4, 5, 6), ("cat",))]


@pytest.fixture(name="wanted")
def wanted_fixture(tmp_path: Path) -> dict[str, np.ndarray]:
    """Label maps with holes and noise, exported to tmp_path/export."""
    rng = np.random.default_rng(0)
    maps = {f"train/{i}": rng.integers(-1, 2, (9 + i, 12)).astype(np.int32) for i in range(3)}
    export = Export(tmp_path / "export", tuple(FORMATS), CLASSES)
    for number, (name, label_map) in enumerate(maps.items()):
        picture = tmp_path / f"photos/photos/{name}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", label_map.shape[::-1]).save(picture)
        export.add(Annotated(number, name, f"photos/{name}.png", picture, label_map))
    export.finish([export.state()])
    (tmp_path / "out").mkdir()
    return maps


def test_each_trip_has_a_reader() -> None:
    assert TRIPS.keys() == foreign_tools.TOOLS.keys()


@pytest.mark.parametrize("tool", ["pycocotools"])
def test_a_reader_that_is_here(tool: str, wanted: dict[str, np.ndarray], tmp_path: Path) -> None:
    pytest.importorskip("pycocotools.coco")
    found = foreign_tools.TOOLS[tool][1](foreign_tools.World(tmp_path, tmp_path / "out"))
    assert row(tool, "1", "out", 0, wanted, found)[4:] == ("0", 0, False)
    assert round_trips.back(tmp_path / "out") == tmp_path / "out/back/instances.json"


def test_what_differs_is_counted_and_what_is_missing_differs_throughout(wanted: dict[str, np.ndarray]) -> None:
    pixels = sum(label_map.size for label_map in wanted.values())
    found = {name: label_map.copy() for name, label_map in wanted.items()}
    found["train/0"][0, :3] += 5
    assert row("labelme", "1", "out", 2.5, wanted, found).differs == f"{300 / pixels:.2f}"
    assert (
        not row("labelme", "1", "out", 2.5, wanted, found).wrong and row("labelme", "1", "back", 0, wanted, found).wrong
    )
    del found["train/1"]
    found["train/2"] = found["train/2"][1:]
    lost = 3 + wanted["train/1"].size + wanted["train/2"].size
    assert row("labelme", "1", "out", 2.5, wanted, found).differs == f"{100 * lost / pixels:.2f}"
