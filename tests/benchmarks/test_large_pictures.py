"""The benchmark of large pictures on small ones: what it measures is what the masks are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import large_pictures
from fmbseg_jax import predict
from labelgen.core.command import command
from tests.fmbseg_jax.test_predict import small_run, weights

rasterio = pytest.importorskip("rasterio", reason="an optional extra; installed, it reads large pictures")
__all__ = ["small_run", "weights"]


@pytest.mark.slow
def test_memory_and_seams(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(workdir: str, picture: Path, out: Path, *more: str) -> dict[str, float]:
        arguments = [f"--workdir={workdir}", f"--picture={picture}", f"--out={out}", *more]
        assert command(predict.main, predict.arguments(), arguments) == 0
        return {"seconds": 1.0, "peak_MB": float(len(out.name))}

    monkeypatch.setattr(large_pictures, "predict", here)
    monkeypatch.setattr(large_pictures, "ONE_PIECE", 96)
    monkeypatch.setattr(large_pictures, "SCENES", 2)
    arguments: Any = [f"--workdir={small_run}", f"--out={tmp_path}", "--side=500", "--tile_px=192"]
    assert command(large_pictures.main, large_pictures.arguments(), arguments) == 0
    figures = json.loads((tmp_path / "large_pictures.json").read_text())
    assert list(figures)[:3] == ["256 px", "125 px", "500 px"]
    with rasterio.open(tmp_path / "masks-500/picture-500.tif") as mask:
        assert mask.shape == (500, 500) and set(np.unique(mask.read(1))) <= {0, 1}
    for overlap in (0.25, 0.0):
        found = figures[f"px that differ from one piece, overlap {overlap}"]
        assert 0 <= found["near_seams"] < 1 and 0 <= found["elsewhere"] < 1
    near = large_pictures.seams(48, 8, 0.25)
    assert near.shape == (96, 96) and near.any() and not near.all()
