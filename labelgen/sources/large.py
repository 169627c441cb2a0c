"""Pictures of any size, read window by window: GeoTIFF, OME-TIFF and whatever else rasterio opens.

Any bands of any type become RGB of 8 bits: 8 bits as they are, others stretched between two percentiles of the whole
picture, each band by its own; `look` says how, to be kept beside what is made of it. rasterio (and, for the planes of
an OME-TIFF, tifffile) is needed here alone: pip install "fmbseg-jax[large]".
"""

import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.core.geometry import HW

INSTALL = 'pip install "fmbseg-jax[large]"'
PERCENTILES = (0.5, 99.5)
"""Of values of more than 8 bits, unless others are asked for."""
_SAMPLE = 1024
"""Rows and columns that percentiles are taken of, at most."""
_CACHE = 64 << 20
"""Bytes of blocks that GDAL keeps."""


def open_rasterio() -> ModuleType:
    """The module. UserError with what to install where it is missing."""
    try:
        import rasterio
    except ImportError:
        raise UserError(f"rasterio is not installed, which reads large pictures: {INSTALL}") from None
    module: ModuleType = rasterio
    return module


class Look(NamedTuple):
    """How values of a picture become RGB of 8 bits."""

    bands: tuple[int, ...]
    """Three for R, G, B, or one for grey; from 1 on."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    """Of each band: the values that become 0 and 255."""
    percentiles: tuple[float, ...]
    """That these are; none where values are taken as they are."""

    def to_json(self) -> dict[str, Any]:
        """For the file beside what is made of the picture."""
        return {name: list(value) for name, value in self._asdict().items()}


class LargePicture:
    """A picture file, open for reading; not for several threads at a time."""

    def __init__(self, path: str | Path, bands: Sequence[int] = (), percentiles: Sequence[float] = ()) -> None:
        """bands: which are R, G, B, from 1 on, or the one that is grey (none: those that the file calls so, else the
        first three); percentiles: low and high (none: 0.5 and 99.5 of more than 8 bits, 8 bits as they are).

        UserError for a file that is none, for bands that it has not, and where rasterio is missing.
        """
        self.path = Path(path)
        if percentiles and not (len(percentiles) == 2 and 0 <= percentiles[0] < percentiles[1] <= 100):
            given = ",".join(map(str, percentiles))
            raise UserError(f"--stretch={given}: two percentiles are wanted, 0 to 100, the lower first: --stretch=2,98")
        rasterio = open_rasterio()
        if not self.path.is_file():
            raise UserError(f"{path}: no such picture")
        self._stack = ExitStack()
        self._stack.enter_context(rasterio.Env(GDAL_CACHEMAX=_CACHE, GDAL_PAM_ENABLED="NO"))
        try:
            planes = self._planes(rasterio)
            self.remarks = [said] if (said := _pages_said(self._pages)) else []
            chosen = tuple(bands) or self._usual(planes)
            if len(chosen) not in (1, 3) or not all(1 <= band <= len(planes) for band in chosen):
                raise UserError(
                    f"{path}: bands {', '.join(map(str, chosen))}; it has {len(planes)}: name three, or one, from 1 on"
                )
            self._read = [planes[band - 1] for band in chosen]
            first = self._read[0][0]
            self.size_hw: HW = (first.height, first.width)
            self.crs, self.transform = first.crs, first.transform
            """Where it lies on the earth; None, and the identity, where that is not said."""
            self._masked = "all_valid" not in {flag.name for flag in first.mask_flag_enums[0]}
            self.look = self._look(chosen, tuple(percentiles))
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "LargePicture":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open(self, rasterio: ModuleType, name: str) -> Any:
        import warnings

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                return self._stack.enter_context(rasterio.open(name))
        except rasterio.errors.RasterioIOError as error:
            reason = str(error).replace(str(self.path), self.path.name)
            raise UserError(f"{self.path}: cannot be read as a picture: {reason}") from None

    def _planes(self, rasterio: ModuleType) -> list[tuple[Any, int]]:
        """(data set, band in it) of every band; those of an OME-TIFF lie in pages of their own."""
        self._pages = _first_series(self.path)
        if self._pages and len(self._pages.numbers) > 1:
            names = [f"GTIFF_DIR:{number + 1}:{self.path}" for number in self._pages.numbers]
            return [(self._open(rasterio, name), 1) for name in names]
        whole = self._open(rasterio, str(self.path))
        if not whole.count:
            raise UserError(f"{self.path}: holds several pictures; name one of {', '.join(whole.subdatasets[:4])}")
        return [(whole, band) for band in whole.indexes]

    def _usual(self, planes: Sequence[tuple[Any, int]]) -> tuple[int, ...]:
        """The bands that the file calls red, green, blue; else the first three, or the first one."""
        called = [data.colorinterp[band - 1].name for data, band in planes]
        if {"red", "green", "blue"} <= set(called):
            return tuple(called.index(colour) + 1 for colour in ("red", "green", "blue"))
        colours = [i for i, colour in enumerate(called, 1) if colour != "alpha"]
        if len(colours) > 3:
            self.remarks.append(
                f"has {len(colours)} bands and does not say which are colours: the first three are taken"
            )
        return tuple(colours[:3]) if len(colours) >= 3 else (1,)

    def _look(self, bands: tuple[int, ...], percentiles: tuple[float, ...]) -> Look:
        kinds = {np.dtype(data.dtypes[band - 1]) for data, band in self._read}
        if not percentiles and kinds == {np.dtype(np.uint8)}:
            return Look(bands, (0.0,) * len(bands), (255.0,) * len(bands), ())
        percentiles = percentiles or PERCENTILES
        low, high = zip(*(self._range(data, band, percentiles) for data, band in self._read), strict=True)
        return Look(bands, low, high, percentiles)

    def _range(self, data: Any, band: int, percentiles: tuple[float, ...]) -> tuple[float, float]:
        shape = tuple(min(side, _SAMPLE) for side in self.size_hw)
        values = data.read(band, out_shape=shape)
        there = values[(data.read_masks(band, out_shape=shape) > 0) & np.isfinite(values)]
        if not there.size:
            raise UserError(f"{self.path}: band {band} has no value; choose others: --bands=3,2,1")
        low, high = np.percentile(there, percentiles).tolist()
        return (low, high) if low < high else (float(there.min()), max(float(there.max()), float(there.min()) + 1))

    def window(self, top: int, left: int, size_hw: HW) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """RGB uint8 [h, w, 3] and where something was measured, bool [h, w], of the picture's px from (top, left) on.

        Beyond the picture its edges are repeated, and nothing was measured. UserError where the file is damaged.
        """
        (height, width), (h, w) = self.size_hw, size_hw
        inside = min(h, height - top), min(w, width - left)
        try:
            planes = [self._plane(i, top, left, inside) for i in range(len(self._read))]
            measured = self.measured(top, left, inside)
        except Exception as error:  # rasterio's, of several kinds
            reason = str(error).replace(str(self.path), self.path.name)
            raise UserError(f"{self.path}: cannot be read at row {top}, column {left}: {reason}") from None
        beyond = (0, h - inside[0]), (0, w - inside[1])
        rgb = np.stack([np.pad(planes[i % len(planes)], beyond, "edge") for i in range(3)], -1)
        return rgb, np.pad(measured, beyond)

    def _plane(self, place: int, top: int, left: int, size_hw: HW) -> NDArray[np.uint8]:
        data, band = self._read[place]
        values = data.read(band, window=_window(top, left, size_hw))
        if not self.look.percentiles:
            return np.asarray(values, np.uint8)
        low, high = self.look.low[place], self.look.high[place]
        scaled = (np.nan_to_num(values.astype(np.float64)) - low) * (255 / (high - low))
        pixels: NDArray[np.uint8] = np.rint(scaled.clip(0, 255)).astype(np.uint8)
        return pixels

    def measured(self, top: int, left: int, size_hw: HW) -> NDArray[np.bool_]:
        """bool [h, w]: where the picture has a value, from (top, left) on, within it."""
        data, band = self._read[0]
        if not self._masked:
            return np.ones(size_hw, bool)
        return np.asarray(data.read_masks(band, window=_window(top, left, size_hw)) > 0)

    def small(self, most: int) -> NDArray[np.uint8]:
        """RGB uint8 [h, w, 3] of the whole picture, `most` px at most a side."""
        factor = max(1.0, max(self.size_hw) / most)
        shape = tuple(max(1, math.floor(side / factor)) for side in self.size_hw)
        planes = []
        for place, (data, band) in enumerate(self._read):
            values = np.nan_to_num(data.read(band, out_shape=shape).astype(np.float64))
            low, high = self.look.low[place], self.look.high[place]
            planes.append(((values - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8))
        return np.stack([planes[i % len(planes)] for i in range(3)], -1)

    def identity(self) -> dict[str, Any]:
        """Which picture this is, and how it is looked at, as JSON."""
        about = os.stat(self.path)
        return {
            "picture": self.path.name,
            "size_hw": list(self.size_hw),
            "bytes": about.st_size,
            "changed_ns": about.st_mtime_ns,
            **self.look.to_json(),
        }


def _window(top: int, left: int, size_hw: HW) -> tuple[tuple[int, int], tuple[int, int]]:
    return (top, top + size_hw[0]), (left, left + size_hw[1])


class _Pages(NamedTuple):
    """The planes of the first picture of an OME-TIFF."""

    numbers: list[int]
    """Of the page of each channel, from 0 on, at the first time and depth."""
    others: int
    """Planes of other times and depths."""


def _first_series(path: Path) -> _Pages | None:
    """None for any other file. UserError where tifffile is missing."""
    with open(path, "rb") as file:
        if b"<OME" not in file.read(1 << 16) and not path.name.lower().endswith((".ome.tif", ".ome.tiff")):
            return None
    try:
        import tifffile
    except ImportError:
        raise UserError(f"{path}: an OME-TIFF; tifffile is not installed, which knows its planes: {INSTALL}") from None
    try:
        with tifffile.TiffFile(path) as tiff:
            if not tiff.is_ome:
                return None
            series = tiff.series[0]
            numbers = [page.index if page is not None else -1 for page in series.pages]
            axes = [(name, size) for name, size in zip(series.axes, series.shape, strict=True) if name not in "YXS"]
    except Exception as error:  # of many kinds, on broken files
        raise UserError(f"{path}: cannot be read as OME-TIFF: {' '.join(str(error).split())}") from None
    places = np.arange(math.prod(size for _, size in axes)).reshape([size for _, size in axes])
    of_channels = places[tuple(slice(None) if name == "C" else 0 for name, _ in axes)].reshape(-1)
    return _Pages([numbers[i] for i in of_channels], places.size - of_channels.size)


def _pages_said(pages: _Pages | None) -> str:
    return f"has {pages.others} planes of other times or depths: the first is taken" if pages and pages.others else ""
