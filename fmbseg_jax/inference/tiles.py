"""A picture of any size in tiles: scores of patches, blended where tiles overlap, become pixels strip by strip.

All tiles lie on one grid of patches over the whole picture. In overlaps the scores of a patch are averaged, each tile's
falling off towards its edge; what is then enlarged to pixels is one map, as if there had been no tiles. Memory is that
of one row of tiles, whatever the picture's height. A finished row of tiles is a file, so that a killed run goes on.
"""

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmbseg_jax.inference.label_maps import Background, LabelMap, pixel_classes
from labelgen.core.errors import UserError
from labelgen.core.files import write_atomic
from labelgen.core.geometry import HW, spread

Scores = NDArray[np.float32]
BLOCK = 16
"""Patches a side of what becomes pixels at a time."""


class Tiling(NamedTuple):
    """Where tiles lie on the patches of a picture."""

    size_hw: HW
    """Of the picture, px."""
    side_hw: HW
    """Of a tile, patches: the encoder's grid."""
    cell_px: int
    """Px of the picture a patch."""
    overlap: float
    """Share of a tile's side that it shares with the next one."""

    @property
    def cells_hw(self) -> HW:
        """Patches that cover the picture, a tile at least; the last ones may lie beyond it."""
        (height, width), side = self.size_hw, self.side_hw
        return max(side[0], -(-height // self.cell_px)), max(side[1], -(-width // self.cell_px))

    def starts(self, axis: int) -> list[int]:
        """Of the tiles along rows (0) or columns (1), patches."""
        side = self.side_hw[axis]
        stride = max(1, round(side * (1 - self.overlap)))
        return [int(start) for start in spread(self.cells_hw[axis], side, stride)]

    @property
    def weights(self) -> Scores:
        """[h, w, 1] of a tile's patches: 1, falling off over the overlap towards each edge."""
        ramps = []
        for side in self.side_hw:
            place = np.arange(side) + 0.5
            ramps.append(np.minimum(1, np.minimum(place, side - place) / max(0.5, side * self.overlap)))
        both: Scores = (ramps[0][:, None] * ramps[1])[..., None].astype(np.float32)
        return both


def tiling(size_hw: HW, side_hw: HW, patch_px: int, tile_px: int, overlap: float) -> Tiling:
    """tile_px: the longer side of a tile in px of the picture, 0: as many as the encoder sees; whole px a patch."""
    wanted = tile_px / max(side_hw) if tile_px else patch_px
    if wanted < 1:
        raise UserError(
            f"--tile_px={tile_px}: less than a px for each of {max(side_hw)} patches; take {max(side_hw)} or more"
        )
    return Tiling(size_hw, side_hw, round(wanted), overlap)


def row_path(folder: Path, row: int) -> Path:
    """Of a finished row of tiles."""
    return folder / f"row-{row:05}.npy"


def write_row(path: Path, tiles: Tiling, row: int, classes: int, scores: Callable[[int, int], Scores]) -> None:
    """float32 [h, cells, C + 1]: weighted sums of a row of tiles' scores, and of weights.

    scores: of the tile that begins at a patch (row, column), float32 [h, w, C].
    """
    weights, top = tiles.weights, tiles.starts(0)[row]
    h, w = tiles.side_hw
    total = np.zeros((h, tiles.cells_hw[1], classes + 1), np.float32)
    for left in tiles.starts(1):
        found = scores(top, left)
        total[:, left : left + w, :-1] += found * weights
        total[:, left : left + w, -1:] += weights
    data = io.BytesIO()
    np.save(data, total)
    write_atomic(path, data.getvalue())


def blended(folder: Path, tiles: Tiling) -> Iterator[Scores]:
    """float32 [k, cells, C], from the first row of patches to the last: what all rows of tiles say together."""
    starts = tiles.starts(0)
    ends = [*starts[1:], tiles.cells_hw[0]]
    waiting: Scores | None = None
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        found: Scores = np.load(row_path(folder, row), allow_pickle=False)
        if waiting is not None:
            found[: len(waiting)] += waiting
        done, waiting = found[: end - start], found[end - start :].copy()
        yield done[..., :-1] / done[..., -1:]


def pixel_rows(scores: Iterator[Scores], tiles: Tiling, background: Background | None) -> Iterator[LabelMap]:
    """uint16 [k, W], from the top to the bottom of the picture: `label_maps.pixel_classes` of the map in one piece."""
    height, cell = tiles.size_hw[0], tiles.cell_px
    rows: list[Scores] = []  # from one patch above what comes next
    above, written = 0, 0
    total = -(-height // cell)
    for part in scores:
        rows.extend(part)
        while written < total and (above + len(rows) > written + BLOCK or above + len(rows) == tiles.cells_hw[0]):
            stop = min(written + BLOCK, total)
            below = min(stop + 1, tiles.cells_hw[0])
            band = _band(np.stack(rows[: below - above]), written - above, stop - above, tiles, background)
            yield band[: height - written * cell]
            del rows[: max(0, stop - 1 - above)]
            above, written = max(above, stop - 1), stop


def _band(scores: Scores, start: int, stop: int, tiles: Tiling, background: Background | None) -> LabelMap:
    """uint16 [(stop - start) * cell_px, W] of rows start ... stop - 1 of scores [k, cells, C]: blocks with a margin."""
    cells, cell, width = scores.shape[1], tiles.cell_px, tiles.size_hw[1]
    classes = scores.shape[2]
    names, same = tuple(range(classes)), np.eye(classes, dtype=np.float32)
    out = np.empty(((stop - start) * cell, -(-width // cell) * cell), np.uint16)
    for left in range(0, -(-width // cell), BLOCK):
        right = min(left + BLOCK, -(-width // cell))
        first, last = max(0, left - 1), min(right + 1, cells)
        block = scores[:, first:last]
        size_hw = block.shape[0] * cell, block.shape[1] * cell
        found = pixel_classes(block, same, names, size_hw, None, background)
        out[:, left * cell : right * cell] = found[
            start * cell : stop * cell, (left - first) * cell : (right - first) * cell
        ]
    return out[:, :width]


def done_rows(folder: Path, tiles: Tiling) -> list[int]:
    """Rows of tiles that are finished."""
    return [row for row in range(len(tiles.starts(0))) if os.path.exists(row_path(folder, row))]
