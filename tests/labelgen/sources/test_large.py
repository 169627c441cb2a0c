"""Large pictures read by windows: bands, stretches, planes of pages, what has no value, what cannot be read."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelgen.core.errors import UserError
from labelgen.sources.large import LargePicture

rasterio = pytest.importorskip("rasterio", reason="an optional extra; installed, it reads large pictures")


def write(path: Path, values: np.ndarray, **more: Any) -> Path:
    """values: [bands, H, W]."""
    profile = {"driver": "GTiff", "count": len(values), "height": values.shape[1], "width": values.shape[2]}
    transform = rasterio.transform.from_origin(600000, 5000000, 10, 10)
    colours = more.pop("colours", None)
    fields = {"dtype": values.dtype.name, "crs": "EPSG:32633", "transform": transform, **more}
    with rasterio.open(path, "w", **profile, **fields) as file:
        file.write(values)
        if colours:
            file.colorinterp = [getattr(rasterio.enums.ColorInterp, name) for name in colours]
    return path


def random(bands: int, dtype: Any, top: int, size: tuple[int, int] = (70, 90)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top, (bands, *size)).astype(dtype)


def test_windows_of_8_bits_are_the_values_with_edges_repeated(tmp_path: Path) -> None:
    values = random(3, np.uint8, 256)
    with LargePicture(write(tmp_path / "a.tif", values, tiled=True, blockxsize=16, blockysize=16)) as picture:
        assert picture.size_hw == (70, 90) and picture.look.percentiles == () and picture.remarks == []
        found, measured = picture.window(10, 20, (30, 40))
        assert np.array_equal(found, values[:, 10:40, 20:60].transpose(1, 2, 0)) and measured.all()
        found, measured = picture.window(60, 80, (16, 16))
        assert np.array_equal(found[:10, :10], values[:, 60:, 80:].transpose(1, 2, 0))
        assert np.array_equal(found[12, 3], values[:, 69, 83]) and measured.sum() == 100


def test_bands_are_those_asked_for_or_called_so_or_the_first_three(tmp_path: Path) -> None:
    values = random(4, np.uint8, 256)
    path = write(tmp_path / "a.tif", values, colours=["blue", "green", "red", "undefined"])
    with LargePicture(path) as picture:
        assert picture.look.bands == (3, 2, 1)
    with LargePicture(path, bands=(4, 1, 1)) as picture:
        assert np.array_equal(picture.window(0, 0, (5, 5))[0], values[[3, 0, 0], :5, :5].transpose(1, 2, 0))
    with LargePicture(path, bands=(4,)) as picture:
        assert np.array_equal(picture.window(0, 0, (5, 5))[0], values[[3, 3, 3], :5, :5].transpose(1, 2, 0))
    many = write(tmp_path / "b.tif", random(6, np.uint8, 256), photometric="minisblack")
    with LargePicture(many) as picture:
        assert picture.look.bands == (1, 2, 3)
        assert picture.remarks == ["has 6 bands and does not say which are colours: the first three are taken"]
    for bands in ((5, 1, 2), (1, 2), (0,)):
        with pytest.raises(UserError, match=r"a.tif: bands .*; it has 4: name three, or one, from 1 on"):
            LargePicture(path, bands=bands)


def test_16_bits_are_stretched_between_percentiles_that_are_recorded(tmp_path: Path) -> None:
    values = random(3, np.uint16, 4000)
    values[1] += 20000
    with LargePicture(write(tmp_path / "a.tif", values), percentiles=(2, 98)) as picture:
        look = picture.look.to_json()
        assert look["percentiles"] == [2, 98]
        for band in range(3):
            low, high = np.percentile(values[band], (2, 98))
            assert (look["low"][band], look["high"][band]) == (low, high)
            expected = np.rint(((values[band] - low) * 255 / (high - low)).clip(0, 255))
            assert np.array_equal(picture.window(0, 0, (70, 90))[0][..., band], expected)
        assert picture.identity()["low"] == look["low"]
    with LargePicture(tmp_path / "a.tif") as picture:
        assert picture.look.percentiles == (0.5, 99.5)


def test_floats_and_what_has_no_value(tmp_path: Path) -> None:
    values = random(1, np.float32, 100)
    values[0, :10] = -9999
    with LargePicture(write(tmp_path / "a.tif", values, nodata=-9999)) as picture:
        found, measured = picture.window(0, 0, (70, 90))
        assert measured[10:].all() and not measured[:10].any()
        assert picture.look.low[0] >= 0 and found[10:].max() == 255
    with pytest.raises(UserError, match="band 1 has no value; choose others"):
        LargePicture(write(tmp_path / "b.tif", np.full((1, 5, 5), -9999, np.float32), nodata=-9999))


def test_an_ome_tiff_whose_channels_are_pages(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile", reason="an optional extra; it knows the planes of an OME-TIFF")
    values = np.random.default_rng(0).integers(0, 60000, (2, 4, 64, 80)).astype(np.uint16)  # times, channels
    path = tmp_path / "cells.ome.tif"
    tifffile.imwrite(path, values, metadata={"axes": "TCYX"}, tile=(32, 32), photometric="minisblack")
    with LargePicture(path, bands=(4, 2, 1), percentiles=(0, 100)) as picture:
        assert picture.size_hw == (64, 80) and picture.crs is None
        assert picture.remarks == ["has 4 planes of other times or depths: the first is taken"]
        found, _ = picture.window(8, 16, (20, 30))
        for place, channel in enumerate((3, 1, 0)):
            plane = values[0, channel].astype(float)
            scaled = (plane - plane.min()) * 255 / (plane.max() - plane.min())
            assert np.array_equal(found[..., place], np.rint(scaled)[8:28, 16:46])


def test_what_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"gone.tif: no such picture"):
        LargePicture(tmp_path / "gone.tif")
    (tmp_path / "text.tif").write_text("no picture")
    with pytest.raises(UserError, match=r"text.tif: cannot be read as a picture: "):
        LargePicture(tmp_path / "text.tif")
    path = write(tmp_path / "a.tif", random(3, np.uint8, 256, (600, 600)), compress="deflate", tiled=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with LargePicture(path) as picture, pytest.raises(UserError, match=r"a.tif: cannot be read at row 512, column 512"):
        picture.window(512, 512, (64, 64))
    real = builtins.__import__

    def without(name: str, *more: Any) -> Any:
        if name == "rasterio":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r'rasterio is not installed, .*: pip install "fmbseg-jax\[large\]"'):
        LargePicture(path)
