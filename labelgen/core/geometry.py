"""How a photo, its patch grid and CLIP's windows lie on each other. numpy and Pillow alone.

The patch grid. The photo is fitted into the encoder's grid: the side that fills it first takes the whole of it, the
other as many whole patches as its share asks for. The photo is resized to exactly those patches, so patch (i, j) of a
valid grid [h', w'] covers the photo's rows i H/h' ... (i+1) H/h' and its columns j W/w' ... (j+1) W/w'; what is beyond
h', w' on the fixed grid is outside the photo.

Windows. A *frame* is the photo resized so that its short side has a given length. Whatever is said of a window in px is
in its frame; shares of the photo are the same in every frame.

Maps between pixels, patches and windows are linear: one matrix a side, so that a resize is two matrix products.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelgen.core.errors import UserError

HW = tuple[int, int]
Floats = NDArray[np.float32]
WORKING_PX = 1024
"""Larger photos are labelled at this longest side; SAM itself sees no more of them."""
MAX_ASPECT = 4
"""Longer photos are squeezed to this aspect: a strip of 20,000 x 1 px must not become thousands of windows."""


def fixed_grid(size_px: int, patch_px: int, height_px: int = 0) -> HW:
    """The patches h, w that every photo is fitted into: height_px (0: size_px) by size_px, multiples of patch_px.

    UserError when a side holds no whole number of patches.
    """
    check_patches("size_px", size_px, patch_px)
    if height_px:
        check_patches("height_px", height_px, patch_px)
    return (height_px or size_px) // patch_px, size_px // patch_px


def check_patches(field: str, px: int, patch_px: int) -> None:
    """UserError unless encoder.FIELD is a multiple of the patch."""
    if px < patch_px or px % patch_px:
        raise UserError(
            f"encoder.{field} = {px} is no multiple of the encoder's patch of {patch_px} px; "
            f"set {max(1, round(px / patch_px)) * patch_px}"
        )


def view_grid(size_hw: HW, size_px: int, patch_px: int, height_px: int = 0) -> tuple[HW, HW]:
    """(grid_hw, resized_hw): whole patches of a photo of size_hw px, and the px it is resized to for them.

    The grid is at most fixed_grid's and at least one patch a side. UserError as fixed_grid.
    """
    fixed_hw = fixed_grid(size_px, patch_px, height_px)
    fills = 0 if size_hw[0] * fixed_hw[1] >= size_hw[1] * fixed_hw[0] else 1
    h, w = (max(1, int(fixed_hw[fills] * side / size_hw[fills] + 0.5)) for side in size_hw)
    return (h, w), (h * patch_px, w * patch_px)


@lru_cache(maxsize=256)
def bilinear_matrix(out_size: int, in_size: int) -> Floats:
    """[out_size, in_size] float32 rows of bilinear weights, half-pixel centres, edges repeated."""
    centre = np.clip((np.arange(out_size) + 0.5) * in_size / out_size - 0.5, 0, in_size - 1)
    low = np.floor(centre).astype(int)
    high = np.minimum(low + 1, in_size - 1)
    matrix = np.zeros((out_size, in_size), np.float32)
    rows = np.arange(out_size)
    np.add.at(matrix, (rows, low), 1 - (centre - low))
    np.add.at(matrix, (rows, high), centre - low)
    return matrix


@lru_cache(maxsize=256)
def area_matrix(out_size: int, in_size: int) -> Floats:
    """[out_size, in_size] float32 shares of each input cell in each output cell; rows sum to one."""
    edges = np.arange(out_size + 1) * in_size / out_size
    cells = np.arange(in_size)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    overlap = np.clip(overlap, 0, None)
    return np.asarray(overlap / overlap.sum(1, keepdims=True), np.float32)


def to_pixels(maps: Floats, size_hw: tuple[int, int]) -> Floats:
    """Bilinear: maps float32 [n, h, w] over the patch grid -> [n, H, W]."""
    _, h, w = maps.shape
    height, width = size_hw
    return np.asarray(bilinear_matrix(height, h) @ maps @ bilinear_matrix(width, w).T, np.float32)


@dataclass(frozen=True)
class Windows:
    """Equal squares of one frame: frame_hw and side in px, starts_yx int [n, 2] their upper left corners."""

    frame_hw: HW
    side: int
    starts_yx: NDArray[np.int64]

    def boxes(self) -> Floats:
        """float32 [n, 4] xyxy as shares of the photo's width and height."""
        y, x = self.starts_yx.T
        height, width = self.frame_hw
        box = np.stack([x / width, y / height, (x + self.side) / width, (y + self.side) / height], 1)
        return box.astype(np.float32)

    def keys(self) -> list[tuple[int, ...]]:
        """What tells a window from all others of the same photo: its frame, side and corner."""
        return [(*self.frame_hw, self.side, *map(int, corner)) for corner in self.starts_yx]

    def cut(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 [n, side, side, 3] out of the frame uint8 [H, W, 3]."""
        return np.stack([frame[y : y + self.side, x : x + self.side] for y, x in self.starts_yx])


def crop_windows(size_hw: HW, side: int, scales: tuple[float, ...]) -> list[Windows]:
    """The whole photo squeezed to a square, then for each scale squares of that share of the short side.

    All are `side` px in their frames; squares of a scale overlap by half.
    """
    whole = Windows((side, side), side, np.zeros((1, 2), np.int64))
    return [whole, *(tile(size_hw, round(side / scale), side, side // 2) for scale in scales)]


def tile(size_hw: HW, short_side: int, side: int, stride: int) -> Windows:
    """Windows over the photo of size_hw in the frame with that short side (at least `side`).

    Evenly spread, at most `stride` apart, the first and the last flush with the border.
    """
    scale = short_side / min(size_hw)
    height, width = (min(round(length * scale), MAX_ASPECT * short_side) for length in size_hw)
    rows, columns = (spread(length, side, stride) for length in (height, width))
    return Windows((height, width), side, np.array([(y, x) for y in rows for x in columns], np.int64))


def spread(length: int, side: int, stride: int) -> NDArray[np.int64]:
    """Where windows that cover `length` start: evenly spread, at most `stride` apart, flush with both ends."""
    count = -(-(length - side) // stride) + 1
    return np.round(np.linspace(0, length - side, count)).astype(np.int64)


def resize(image: NDArray[np.uint8], size_hw: HW, resample: Image.Resampling) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] at another size, antialiased."""
    return np.asarray(Image.fromarray(image).resize(size_hw[::-1], resample))


def onto_grid(starts: NDArray[np.int64], side: int, length: int, tokens: int, cells: int) -> Floats:
    """float32 [n, cells, tokens]: how each window's tokens make up the grid's cells along one axis.

    The frame has `length` px and `cells` patches, a window `side` px and `tokens`. A cell reads the tokens bilinearly
    at its centre, a cell as large as k tokens at the centres of its k parts; its row sums to the share of these points
    that lie in the window.
    """
    samples = max(1, round(length / cells / (side / tokens)))
    px = (np.arange(cells * samples) + 0.5) * length / (cells * samples)
    within = px - starts[:, None]
    inside = (within >= 0) & (within < side)
    weights = interpolation(within * tokens / side, tokens) * inside[..., None]
    return np.asarray(weights.reshape(len(starts), cells, samples, tokens).mean(2), np.float32)


def from_grid(starts: NDArray[np.int64], side: int, length: int, points: int, cells: int) -> Floats:
    """float32 [n, points, cells]: the grid read bilinearly at `points` equal parts of each window, along one axis."""
    px = starts[:, None] + (np.arange(points) + 0.5) * side / points
    return interpolation(px * cells / length, cells)


def interpolation(positions: NDArray[np.float64], count: int) -> Floats:
    """float32 [..., count] bilinear weights at positions in units of tokens (token i has its centre at i + .5)."""
    centre = np.clip(positions - 0.5, 0, count - 1)[..., None]
    return np.asarray(np.maximum(0, 1 - np.abs(centre - np.arange(count))), np.float32)
