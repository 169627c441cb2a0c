"""Where CLIP looks: square windows over resized photos, and the maps between windows and the patch grid.

A *frame* is the photo resized so that its short side has a given length. Whatever is said of a window in px is in
its frame; shares of the photo are the same in every frame. numpy and Pillow alone.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HW = tuple[int, int]
Floats = NDArray[np.float32]
MAX_ASPECT = 4
"""Longer photos are squeezed to this aspect: a strip of 20,000 x 1 px must not become thousands of windows."""


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


def interpolation(positions: NDArray[np.float64], count: int) -> Floats:
    """float32 [..., count] bilinear weights at positions in units of tokens (token i has its centre at i + .5)."""
    centre = np.clip(positions - 0.5, 0, count - 1)[..., None]
    return np.asarray(np.maximum(0, 1 - np.abs(centre - np.arange(count))), np.float32)


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


def crop_windows(size_hw: HW, side: int, scales: tuple[float, ...]) -> list[Windows]:
    """The whole photo squeezed to a square, then for each scale squares of that share of the short side.

    All are `side` px in their frames; squares of a scale overlap by half.
    """
    whole = Windows((side, side), side, np.zeros((1, 2), np.int64))
    return [whole, *(tile(size_hw, round(side / scale), side, side // 2) for scale in scales)]
