"""A mask of a picture of any size, by tiles: MASKS/NAME.tif, NAME.geojson and a small overlay."""

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmbseg_jax.inference.label_maps import Background
from fmbseg_jax.inference.tiles import Scores, Tiling, blended, done_rows, pixel_rows, row_path, write_row
from labelgen.core.files import write_json
from labelgen.core.progress import Progress
from labelgen.formats.geotiff import write_mask, write_polygons
from labelgen.formats.palette import overlay
from labelgen.formats.writers import ClassInfo, classes_json, save
from labelgen.sources.large import LargePicture

Pixels = NDArray[np.uint8]
ScoresOf = Callable[[Pixels], Scores]
"""Scores float32 [h, w, C] of a tile uint8 [H, W, 3]: what is largest is the class."""
SMALL_PX = 2048
"""The longer side of the overlay."""


def predict_tiles(
    picture: LargePicture, tiles: Tiling, scores_of: ScoresOf, classes: int, folder: Path, progress: Progress
) -> tuple[int, int]:
    """Rows of tiles as files in `folder`; (tiles predicted, tiles that were there). Those that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    columns, done = len(tiles.starts(1)), done_rows(folder, tiles)
    progress.skip(len(done) * columns)
    (h, w), cell = tiles.side_hw, tiles.cell_px

    def scores(top: int, left: int) -> Scores:
        image, _ = picture.window(top * cell, left * cell, (h * cell, w * cell))
        found = scores_of(image)
        progress.add()
        return found

    left_to_do = [row for row in range(len(tiles.starts(0))) if row not in set(done)]
    for row in left_to_do:
        write_row(row_path(folder, row), tiles, row, classes, scores)
    return len(left_to_do) * columns, len(done) * columns


def stitch(
    picture: LargePicture,
    tiles: Tiling,
    folder: Path,
    background: Background | None,
    classes: Sequence[ClassInfo],
    out: Path,
    progress: Progress,
) -> tuple[int, int]:
    """Tiles to NAME.tif, NAME.geojson and overlays/NAME.jpg in `out`; (regions, px where nothing was measured)."""
    name = picture.path.stem
    unmeasured = 0
    small = picture.small(SMALL_PX)
    small_map = np.full(small.shape[:2], -1, np.int64)
    factor = picture.size_hw[0] / small.shape[0], picture.size_hw[1] / small.shape[1]
    picked = [((np.arange(side) + 0.5) * by).astype(int) for side, by in zip(small.shape[:2], factor, strict=True)]

    def rows() -> Iterator[NDArray[np.int32]]:
        nonlocal unmeasured
        top = 0
        for strip in pixel_rows(blended(folder, tiles), tiles, background):
            measured = picture.measured(top, 0, strip.shape)
            unmeasured += int((~measured).sum())
            found = np.where(measured, strip.astype(np.int32), -1)
            inside = np.flatnonzero((picked[0] >= top) & (picked[0] < top + len(strip)))
            small_map[inside] = found[picked[0][inside] - top][:, picked[1]]
            top += len(strip)
            progress.add(len(strip))
            yield found

    write_mask(out / f"{name}.tif", rows(), picture.size_hw, picture.crs, picture.transform, classes)
    regions = write_polygons(out / f"{name}.tif", out / f"{name}.geojson", classes)
    colours = np.array([*(info.colour for info in classes), (255, 255, 255)], np.uint8)
    data = io.BytesIO()
    Image.fromarray(overlay(small, small_map, colours)).save(data, "JPEG", quality=90)
    save(out / "overlays" / f"{name}.jpg", data.getvalue())
    write_json(out / "classes.json", classes_json(classes))
    shutil.rmtree(folder)
    return regions, unmeasured
