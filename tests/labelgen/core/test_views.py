"""The patch grid of portrait, landscape and absurd photos, by hand."""

import pytest

from labelgen.core.errors import UserError
from labelgen.core.geometry import fixed_grid, view_grid


@pytest.mark.parametrize(
    ("size_hw", "grid_hw"),
    [
        ((100, 100), (8, 8)),
        ((50, 100), (4, 8)),
        ((100, 56), (8, 4)),  # 4.48 patches
        ((100, 57), (8, 5)),  # 4.56 patches
        ((1, 20000), (1, 8)),
        ((1, 1), (8, 8)),
        ((16, 8), (8, 4)),
    ],
)
def test_grid(size_hw: tuple[int, int], grid_hw: tuple[int, int]) -> None:
    assert view_grid(size_hw, 64, 8) == (grid_hw, (grid_hw[0] * 8, grid_hw[1] * 8))


@pytest.mark.parametrize(("size_px", "fix"), [(60, 64), (4, 8)])
def test_size_must_be_whole_patches(size_px: int, fix: int) -> None:
    with pytest.raises(UserError, match=f"encoder.size_px = {size_px}.*set {fix}"):
        view_grid((10, 10), size_px, 8)


@pytest.mark.parametrize(
    ("size_hw", "grid_hw"),
    [
        ((100, 200), (4, 8)),
        ((200, 100), (4, 2)),  # a portrait photo keeps its shape and fills the height
        ((100, 100), (4, 4)),
        ((50, 200), (2, 8)),
        ((100, 180), (4, 7)),  # 7.2 patches
        ((100, 220), (4, 8)),  # 3.6 patches: the width is full before the height
        ((1, 20000), (1, 8)),
        ((20000, 1), (4, 1)),
    ],
)
def test_a_photo_is_fitted_into_a_grid_that_is_not_square(size_hw: tuple[int, int], grid_hw: tuple[int, int]) -> None:
    assert view_grid(size_hw, 64, 8, 32) == (grid_hw, (grid_hw[0] * 8, grid_hw[1] * 8))
    assert fixed_grid(64, 8, 32) == (4, 8) and fixed_grid(64, 8) == (8, 8)


def test_no_photo_leaves_the_grid() -> None:
    for height in range(1, 60):
        for width in range(1, 60):
            (h, w), _ = view_grid((height, width), 88, 8, 56)
            assert 1 <= h <= 7 and 1 <= w <= 11 and (h == 7 or w == 11)


def test_height_must_be_whole_patches() -> None:
    with pytest.raises(UserError, match=r"encoder.height_px = 30 is no multiple .* of 8 px; set 32"):
        fixed_grid(64, 8, 30)
