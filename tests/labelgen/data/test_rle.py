"""Run lengths against masks written by hand and random ones."""

import numpy as np
import pytest

from labelgen.data import rle
from labelgen.data.rle import MaskSet
from tests.worlds.rows import mask_set


def test_runs_by_hand() -> None:
    assert rle.encode_mask(np.array([[0, 1, 1], [1, 0, 0]], bool)).tolist() == [1, 3, 2]
    assert rle.encode_mask(np.array([[1, 0]], bool)).tolist() == [0, 1, 1]
    assert rle.encode_mask(np.zeros((2, 2), bool)).tolist() == [4]
    assert rle.encode_mask(np.ones((2, 2), bool)).tolist() == [0, 4]


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5, 1.0])
def test_masks_come_back_in_the_asked_order(share: float) -> None:
    masks = np.random.default_rng(1).random((5, 13, 7)) < share
    found = rle.decode(mask_set(masks), [4, 0, 2, 2])
    assert np.array_equal(found, masks[[4, 0, 2, 2]])


def test_areas_count_the_ones() -> None:
    masks = np.random.default_rng(3).random((6, 9, 11)) < np.array([0, 0.1, 0.5, 0.9, 1, 0.3])[:, None, None]
    assert rle.areas(mask_set(masks)).tolist() == masks.sum((1, 2)).tolist()


@pytest.mark.parametrize("share", [0.05, 0.5, 1.0])
def test_masks_laid_over_each_other(share: float) -> None:
    masks = np.random.default_rng(4).random((6, 9, 11)) < share
    masks[1] = False
    ids = np.array([3, 1, 0, 5])
    wanted = np.full((9, 11), -1)
    for place, i in enumerate(ids):
        wanted[masks[i]] = place
    assert np.array_equal(rle.stacked(mask_set(masks), ids), wanted)
    assert (rle.stacked(mask_set(masks), ids[:0]) == -1).all()


def test_no_masks_asked() -> None:
    assert rle.decode(mask_set(np.ones((2, 3, 4), bool)), np.array([], int)).shape == (0, 3, 4)


def test_resized_masks_keep_their_numbers() -> None:
    masks = np.random.default_rng(2).random((3, 6, 8)) < 0.5
    masks[1] = False
    found = rle.resized(mask_set(masks), (3, 4))
    assert found.size_hw == (3, 4) and len(found) == 3
    # Centres of 2 x 2 blocks fall on the block's last pixel.
    assert np.array_equal(rle.decode(found, [0, 1, 2]), masks[:, 1::2, 1::2])
    assert found.boxes.tolist() == [[0, 0, 4, 3]] * 3 and found.points_xy[1].tolist() == [1.0, 0.75]
    assert np.array_equal(
        rle.decode(rle.resized(found, (6, 8)), [0])[0], masks[0, 1::2, 1::2].repeat(2, 0).repeat(2, 1)
    )


@pytest.mark.parametrize("size_hw", [(31, 17), (1, 1), (40, 40), (13, 90), (90, 13), (64, 80)])
def test_resized_masks_are_the_pixels_at_the_centres(size_hw: tuple[int, int]) -> None:
    masks = np.random.default_rng(5).random((5, 64, 40)) < np.array([0, 0.02, 0.5, 0.98, 1])[:, None, None]
    rows, columns = (
        ((np.arange(out) + 0.5) * side / out).astype(int) for out, side in zip(size_hw, (64, 40), strict=True)
    )
    found = rle.resized(mask_set(masks), size_hw)
    wanted = mask_set(masks[:, rows[:, None], columns])
    assert found.runs.dtype == np.uint32 and found.runs.tolist() == wanted.runs.tolist()
    assert found.offsets.tolist() == wanted.offsets.tolist()


@pytest.mark.parametrize("size_hw", [(3, 4), (60, 80)])
def test_resizing_no_masks(size_hw: tuple[int, int]) -> None:
    assert len(rle.resized(MaskSet.empty((6, 8)), size_hw)) == 0


def test_runs_from_their_ends() -> None:
    """Three masks of 6 pixels: a one in between, nothing (two ends at one place cancel), all of it."""
    ends = np.array([2, 3, 7 + 4, 7 + 4, 14 + 0, 14 + 6])
    runs, offsets = rle.from_ends(ends, 3, 6)
    assert (runs.tolist(), offsets.tolist()) == ([2, 1, 3, 6, 0, 6], [0, 3, 4, 6])
    assert rle.from_ends(ends[:0], 0, 6)[1].tolist() == [0]
