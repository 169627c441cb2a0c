"""A mask of any size as a tiled, compressed GeoTIFF, written strip by strip, and its regions as GeoJSON.

The mask has the picture's coordinate system and transform, a palette, the names of the classes as tags, and 255 (65535
with more than 255 classes) where nothing was measured. Regions are in longitude and latitude, as GeoJSON wants it,
where the picture says where it lies; else in px from its upper left corner.
"""

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.core.files import sync_folder
from labelgen.core.geometry import HW
from labelgen.core.ontology import label_dtype
from labelgen.formats.writers import ClassInfo
from labelgen.sources.large import open_rasterio

BLOCK_PX = 512
_AT_A_TIME = 256
"""Regions whose coordinates are computed together."""


def write_mask(
    path: Path, rows: Iterable[NDArray[np.integer]], size_hw: HW, crs: Any, transform: Any, classes: Sequence[ClassInfo]
) -> None:
    """rows: [k, W] each from the top on, class indices, -1 for nothing. Whole blocks are written once each; the file
    has its name once it is whole."""
    rasterio, dtype = open_rasterio(), label_dtype(len(classes))
    nothing = int(np.iinfo(dtype).max)
    height, width = size_hw
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": dtype.name}
    layout = {"tiled": True, "blockxsize": BLOCK_PX, "blockysize": BLOCK_PX, "compress": "deflate"}
    partial = path.with_name(f"{path.name}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _quiet(rasterio), rasterio.Env(GDAL_CACHEMAX=64 << 20):
        georeferenced = {"crs": crs, "transform": transform} if crs is not None or not transform.is_identity else {}
        with rasterio.open(
            partial, "w", **profile, **layout, **georeferenced, nodata=nothing, BIGTIFF="IF_SAFER"
        ) as file:
            if dtype == np.uint8:
                file.write_colormap(1, {i: (*info.colour, 255) for i, info in enumerate(classes)})
            file.update_tags(1, **{f"CLASS_{i}": info.name for i, info in enumerate(classes)})
            top = 0
            for strip in _strips(rows):
                values = np.where(strip < 0, nothing, strip).astype(dtype)
                file.write(values, 1, window=((top, top + len(strip)), (0, width)))
                top += len(strip)
    os.replace(partial, path)
    sync_folder(path.parent)


def _strips(rows: Iterable[NDArray[np.integer]]) -> Iterator[NDArray[np.integer]]:
    """The same rows, as many at a time as a block is high."""
    waiting: list[NDArray[np.integer]] = []
    count = 0
    for part in rows:
        waiting.append(part)
        count += len(part)
        while count >= BLOCK_PX:
            whole = np.concatenate(waiting)
            yield whole[:BLOCK_PX]
            waiting, count = [whole[BLOCK_PX:]], count - BLOCK_PX
    if count:
        yield np.concatenate(waiting)


def write_polygons(mask: Path, path: Path, classes: Sequence[ClassInfo]) -> int:
    """Each connected region of a mask that write_mask wrote as a feature, a line each; how many there are.

    GDAL goes through the mask line by line; what is in memory is regions, not px.
    """
    rasterio = open_rasterio()
    from rasterio.features import shapes
    from rasterio.warp import transform_geom

    partial, count = path.with_name(f"{path.name}.tmp"), 0
    with _quiet(rasterio), rasterio.open(mask) as file, open(partial, "w", encoding="utf-8") as out:
        out.write('{"type": "FeatureCollection", "features": [')
        found = shapes(rasterio.band(file, 1), connectivity=4, transform=file.transform)
        inside = ((shape, int(value)) for shape, value in found if value < len(classes))
        while part := list(islice(inside, _AT_A_TIME)):
            drawn = [shape for shape, _ in part]
            placed = transform_geom(file.crs, "EPSG:4326", drawn) if file.crs else drawn
            for geometry, (_, value) in zip(placed, part, strict=True):
                fields = {"class": classes[value].name, "index": value}
                feature = {"type": "Feature", "properties": fields, "geometry": geometry}
                out.write((",\n" if count else "\n") + json.dumps(feature))
                count += 1
        out.write("\n]}\n")
    os.replace(partial, path)
    return count


@contextmanager
def _quiet(rasterio: Any) -> Iterator[None]:
    """Pictures that do not say where they lie are fine."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        yield
