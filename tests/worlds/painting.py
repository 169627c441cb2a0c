"""Polygons back to pixels, by counting: what the formats' files are held against."""

from collections.abc import Iterable

import numpy as np


def inside(ring: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """bool [H, W] of a ring int [n, 2] along the edges of pixels: those with an odd number of borders to their left."""
    height, width = size_hw
    borders = np.zeros((height, width + 1), int)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, 0), strict=True):
        assert x0 == x1 or y0 == y1
        if x0 == x1:
            borders[min(y0, y1) : max(y0, y1), x0] += 1
    return borders.cumsum(1)[:, :width] % 2 == 1


def painted(polygons: Iterable[tuple[int, np.ndarray]], size_hw: tuple[int, int]) -> np.ndarray:
    """Label map [H, W], -1 unlabelled, of (class, ring) painted one over the other."""
    label_map = np.full(size_hw, -1)
    for value, ring in polygons:
        label_map[inside(np.asarray(ring), size_hw)] = value
    return label_map
