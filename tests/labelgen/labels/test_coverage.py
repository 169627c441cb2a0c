"""Shares of patches inside masks, from run lengths, against sums over pixels."""

import numpy as np
import pytest

from labelgen.data.rle import MaskSet
from labelgen.labels.free_labels import coverage
from tests.worlds.rows import mask_set


def overlap(out: int, pixels: int) -> np.ndarray:
    """float64 [out, pixels]: the share of each patch that each pixel takes, by its definition."""
    shares = np.zeros((out, pixels))
    for i in range(out):
        for j in range(pixels):
            both = min((i + 1) / out, (j + 1) / pixels) - max(i / out, j / pixels)
            shares[i, j] = max(0.0, both) * out
    return shares


@pytest.mark.parametrize("grid_hw", [(1, 1), (3, 4), (5, 2), (13, 17), (20, 30)])
def test_coverage_is_the_area_of_the_mask_in_each_patch(grid_hw: tuple[int, int]) -> None:
    shares = np.array([0.02, 0.5, 0.98, 0.3])[:, None, None]
    masks = np.random.default_rng(0).random((4, 13, 17)) < shares
    wanted = overlap(grid_hw[0], 13) @ masks @ overlap(grid_hw[1], 17).T
    assert np.abs(coverage(mask_set(masks), grid_hw) - wanted).max() < 1e-6


def test_the_photo_s_corners_and_whole_and_empty_masks() -> None:
    masks = np.zeros((5, 4, 6), bool)
    masks[0] = True
    masks[2, 0, 0] = masks[3, -1, -1] = masks[4, 1:, 3:] = True
    found = coverage(mask_set(masks), (2, 2))
    assert np.allclose(found[0], 1) and not found[1].any()
    assert np.allclose(found[2], [[1 / 6, 0], [0, 0]], atol=1e-7)
    assert np.allclose(found[3], [[0, 0], [0, 1 / 6]], atol=1e-7)
    assert np.allclose(found[4], [[0, 0.5], [0, 1]], atol=1e-7)


def test_rows_and_columns_are_kept_apart() -> None:
    mask = np.zeros((1, 8, 20), bool)
    mask[0, :4, :5] = True
    assert np.allclose(coverage(mask_set(mask), (2, 4))[0], [[1, 0, 0, 0], [0, 0, 0, 0]], atol=1e-7)


def test_no_masks() -> None:
    assert coverage(MaskSet.empty((4, 6)), (2, 3)).shape == (0, 2, 3)
