"""Resizing between the patch grid and pixels, against torch and counts by hand."""

import numpy as np
import pytest
import torch

from labelgen.core.geometry import area_matrix, bilinear_matrix, to_pixels


@pytest.mark.parametrize(
    ("grid", "size"), [((3, 5), (17, 23)), ((4, 4), (4, 4)), ((1, 2), (9, 5)), ((24, 18), (12, 9))]
)
def test_bilinear_equals_torch(grid: tuple[int, int], size: tuple[int, int]) -> None:
    maps = np.random.default_rng(0).normal(size=(2, *grid)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.tensor(maps)[None], size=size, mode="bilinear", align_corners=False
    )[0]
    np.testing.assert_allclose(to_pixels(maps, size), expected.numpy(), atol=1e-5)


def test_area_shares_by_hand() -> None:
    np.testing.assert_allclose(area_matrix(2, 3), [[2 / 3, 1 / 3, 0], [0, 1 / 3, 2 / 3]], atol=1e-6)
    np.testing.assert_allclose(area_matrix(3, 2), [[1, 0], [0.5, 0.5], [0, 1]], atol=1e-6)


def test_rows_sum_to_one() -> None:
    for matrix in (area_matrix(7, 50), area_matrix(50, 7), bilinear_matrix(7, 50), bilinear_matrix(50, 7)):
        np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-5)
