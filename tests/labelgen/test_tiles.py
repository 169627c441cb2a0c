"""A large picture cut into photos: they cover it, say where they were, go on after a kill, refuse another look."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labelgen import tiles
from labelgen.core.command import command
from labelgen.sources.folders import folder_source
from tests.labelgen.sources.test_large import random, write

pytest.importorskip("rasterio", reason="an optional extra; installed, it reads large pictures")


def cut(picture: Path, out: Path, *more: str) -> int:
    return command(tiles.main, tiles.arguments(), [f"--picture={picture}", f"--out={out}", "--tile_px=32", *more])


def test_photos_cover_the_picture_each_where_its_name_says(tmp_path: Path, capsys: Any) -> None:
    values, out = random(3, np.uint8, 256), tmp_path / "photos"
    assert cut(write(tmp_path / "a.tif", values), out, "--overlap=0.25") == 0
    covered = np.zeros(values.shape[1:], int)
    names = list(folder_source(out, 10**9).list())
    for name in names:
        left, top = map(int, name.removeprefix("a@").split(","))
        found = np.asarray(Image.open(out / f"{name}.png"))
        assert np.array_equal(found, values[:, top : top + 32, left : left + 32].transpose(1, 2, 0))
        covered[top : top + 32, left : left + 32] += 1
    assert covered.min() == 1 and covered.max() > 1 and len(names) == 12
    said = capsys.readouterr().out
    assert f"wrote 12 photos of 32 x 32 px to {out}. next: python -m labelgen.run --config=FILE" in said


def test_what_has_no_value_is_left_out_and_a_killed_one_goes_on(tmp_path: Path, capsys: Any) -> None:
    values, out = random(4, np.uint16, 5000) + 1, tmp_path / "photos"
    values[:, :, :40] = 0
    picture = write(tmp_path / "a.tif", values, nodata=0)
    assert cut(picture, out, "--bands=4,3,2", "--stretch=2,98") == 0
    assert "wrote 6 photos" in (said := capsys.readouterr().out) and "; 3 windows without a value left out" in said
    look = json.loads((out / "a.tiles.json").read_text())
    assert look["bands"] == [4, 3, 2] and look["percentiles"] == [2, 98] and len(look["low"]) == 3
    before = (out / "a@58,0.png").read_bytes()
    (out / "a@58,0.png").unlink()
    assert cut(picture, out, "--bands=4,3,2", "--stretch=2,98") == 0
    assert "wrote 1 photos" in (said := capsys.readouterr().out) and "; 5 were there already; 3 windows" in said
    assert (out / "a@58,0.png").read_bytes() == before
    assert cut(picture, out) == 2
    assert "a.tiles.json was made with bands = [4, 3, 2], but now it is [1, 2, 3]" in capsys.readouterr().err
