"""Linear maps between the patch grid and pixels: one matrix a side, so that a resize is two matrix products.

The valid grid [h, w] of a photo covers the photo [H, W] exactly: patch i covers rows [i H/h, (i+1) H/h).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@lru_cache(maxsize=256)
def bilinear_matrix(out_size: int, in_size: int) -> Array:
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
def area_matrix(out_size: int, in_size: int) -> Array:
    """[out_size, in_size] float32 shares of each input cell in each output cell; rows sum to one."""
    edges = np.arange(out_size + 1) * in_size / out_size
    cells = np.arange(in_size)
    overlap = np.minimum(edges[1:, None], cells + 1) - np.maximum(edges[:-1, None], cells)
    overlap = np.clip(overlap, 0, None)
    return np.asarray(overlap / overlap.sum(1, keepdims=True), np.float32)


def to_pixels(maps: Array, size_hw: tuple[int, int]) -> Array:
    """Bilinear: maps float32 [n, h, w] over the patch grid -> [n, H, W]."""
    _, h, w = maps.shape
    height, width = size_hw
    return np.asarray(bilinear_matrix(height, h) @ maps @ bilinear_matrix(width, w).T, np.float32)
