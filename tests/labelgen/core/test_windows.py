import numpy as np
import pytest

from labelgen.core.geometry import MAX_ASPECT, Windows, crop_windows, from_grid, interpolation, onto_grid, tile


def test_windows_are_flush_with_both_borders_and_no_further_apart_than_the_stride():
    where = tile((300, 431), short_side=100, side=48, stride=20)
    assert where.frame_hw == (100, 144)
    for starts, length in zip(where.starts_yx.T, where.frame_hw, strict=True):
        starts = np.unique(starts)
        assert starts[0] == 0 and starts[-1] == length - 48
        assert np.diff(starts).max() <= 20


@pytest.mark.parametrize("size_hw", [(1, 20_000), (20_000, 1), (1, 1)])
def test_a_strip_is_squeezed_to_a_few_windows(size_hw):
    where = tile(size_hw, 64, 32, 16)
    assert max(where.frame_hw) <= MAX_ASPECT * 64 and min(where.frame_hw) == 64
    assert len(where.starts_yx) <= 3 * (MAX_ASPECT * 4)


def test_boxes_and_cuts_are_of_the_same_place_and_x_is_not_y():
    where = Windows((4, 8), 2, np.array([[1, 5]]))
    frame = np.zeros((4, 8, 3), np.uint8)
    frame[1:3, 5:7] = 9
    assert (where.cut(frame) == 9).all()
    np.testing.assert_allclose(where.boxes(), [[5 / 8, 1 / 4, 7 / 8, 3 / 4]])


def test_interpolation_is_bilinear_with_edges_repeated():
    np.testing.assert_allclose(
        interpolation(np.array([0.0, 0.5, 1.0, 1.75, 3.0]), 3),
        [[1, 0, 0], [1, 0, 0], [0.5, 0.5, 0], [0, 0.75, 0.25], [0, 0, 1]],
    )


def test_tokens_that_are_the_grids_own_cells_go_onto_it_unchanged():
    weights = onto_grid(np.array([0, 16]), side=32, length=48, tokens=4, cells=6)
    np.testing.assert_allclose(weights[0], np.eye(6, 4))
    np.testing.assert_allclose(weights[1], np.eye(6, 4, -2))


def test_larger_cells_average_the_tokens_under_them():
    weights = onto_grid(np.array([0]), side=32, length=32, tokens=8, cells=4)
    np.testing.assert_allclose(weights[0], np.kron(np.eye(4), [[0.5, 0.5]]))


def test_a_ramp_stays_the_same_ramp_onto_the_grid_and_back():
    """A shift by one patch, or by half a one, would show."""
    starts, side, length, tokens, cells = np.array([5, 20]), 40, 96, 10, 20
    token_px = starts[:, None] + (np.arange(tokens) + 0.5) * side / tokens
    weights = onto_grid(starts, side, length, tokens, cells)
    cell_px = (np.arange(cells) + 0.5) * length / cells
    value = np.einsum("nct,nt->nc", weights, token_px)
    inner = (cell_px > token_px[:, :1]) & (cell_px < token_px[:, -1:])
    np.testing.assert_allclose(value[inner], np.broadcast_to(cell_px, value.shape)[inner], rtol=1e-5)
    outside = (cell_px < starts[:, None]) | (cell_px >= starts[:, None] + side)
    assert (weights.sum(-1) == ~outside).all()

    back = from_grid(starts, side, length, tokens, cells) @ cell_px
    np.testing.assert_allclose(back, token_px, rtol=1e-5)


def test_crops_are_the_whole_photo_and_half_overlapping_squares_of_each_scale():
    whole, full, half = crop_windows((100, 200), 32, (1.0, 0.5))
    np.testing.assert_array_equal(whole.boxes(), [[0, 0, 1, 1]])
    np.testing.assert_allclose(full.boxes()[:, 0], [0, 0.25, 0.5])
    assert len(half.starts_yx) == 3 * 7
    np.testing.assert_allclose(half.boxes()[1], [0.125, 0, 0.375, 0.5])
