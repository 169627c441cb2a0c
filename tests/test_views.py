"""The patch grid of portrait, landscape and absurd photos, by hand."""

import pytest

from labelgen.errors import UserError
from labelgen.views import view_grid


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


@pytest.mark.parametrize(("size_px", "mend"), [(60, 64), (4, 8)])
def test_size_must_be_whole_patches(size_px: int, mend: int) -> None:
    with pytest.raises(UserError, match=f"encoder.size_px = {size_px}.*set {mend}"):
        view_grid((10, 10), size_px, 8)
