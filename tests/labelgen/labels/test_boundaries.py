"""Boundary IoU against masks eroded one by one, as its authors do, and against a loop over windows."""

import numpy as np
import pytest

from labelgen.labels.boundaries import BoundaryCounter, band_px, boundary_ious
from labelgen.labels.scores import confusion, scores
from tests.worlds.reference import band_counts


def blocks(seed: int, size_hw: tuple[int, int], classes: int, side: int = 9) -> np.ndarray:
    """Classes in blocks of a few pixels, shifted."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (size_hw[0] // side + 2, size_hw[1] // side + 2))
    y, x = rng.integers(0, side, 2)
    return np.kron(coarse, np.ones((side, side), int))[y : y + size_hw[0], x : x + size_hw[1]]


def eroded(mask: np.ndarray, times: int) -> np.ndarray:
    """3 x 3, the photo's border for an edge."""
    kept = np.pad(mask, 1)
    for _ in range(times):
        padded = np.pad(kept, 1)
        shifts = [padded[y : y + kept.shape[0], x : x + kept.shape[1]] for y in range(3) for x in range(3)]
        kept = np.logical_and.reduce(shifts)
    return kept[1:-1, 1:-1]


@pytest.mark.parametrize("size_hw", [(60, 75), (200, 40), (7, 9), (1, 30)])
def test_the_bands_are_the_masks_less_what_is_left_of_them_eroded(size_hw: tuple[int, int]) -> None:
    truth, said = blocks(0, size_hw, 4), blocks(1, size_hw, 4)
    depth, found = band_px(size_hw), BoundaryCounter(truth, 4).counts(said)
    for c in range(4):
        true, predicted = ((labels == c) & ~eroded(labels == c, depth) for labels in (truth, said))
        assert found[:, c].tolist() == [(true & predicted).sum(), true.sum(), predicted.sum()]


def test_the_depth_is_the_authors() -> None:
    assert [band_px(size) for size in ((375, 500), (480, 640), (1024, 2048), (4, 4))] == [12, 16, 46, 1]


@pytest.mark.parametrize("classes", [3, 300])
def test_pixels_without_truth_are_in_no_band_and_make_no_edge(classes: int) -> None:
    truth, said = blocks(2, (60, 90), 3), blocks(3, (60, 90), 4)
    truth[blocks(4, (60, 90), 3, side=3) == 0] = -1
    said[said == 3] = 65535  # no class
    truth[5, 5:9] = classes  # beyond them: not counted either
    found = BoundaryCounter(truth, classes).counts(said)
    np.testing.assert_array_equal(found[:, :3], band_counts(truth, said, 3, band_px(truth.shape)))
    assert not found[:, 3:].any()


def test_an_island_without_truth_inside_a_class_leaves_it_whole() -> None:
    truth = np.zeros((200, 200), int)
    whole = BoundaryCounter(truth, 1).counts(truth)
    truth[90:110, 90:110] = -1
    np.testing.assert_array_equal(BoundaryCounter(truth, 1).counts(np.zeros_like(truth)), whole)


def test_the_truth_itself_scores_one_and_a_shift_less_than_its_miou() -> None:
    truth = blocks(5, (120, 160), 3, side=40)
    truth[blocks(6, (120, 160), 5) == 0] = -1
    names = ["a", "b", "c"]
    perfect = scores(confusion(truth, truth, 3), names, bands=BoundaryCounter(truth, 3).counts(truth))
    assert perfect.boundary_iou == perfect.miou == 1
    said = np.roll(truth, 2, axis=1)
    moved = scores(confusion(truth, said, 3), names, bands=BoundaryCounter(truth, 3).counts(said))
    assert moved.boundary_iou < moved.miou < 1


def test_counts_add_up_over_photos_and_a_class_without_a_band_is_in_no_mean() -> None:
    pairs = [(blocks(s, (40, 60), 2), blocks(s + 9, (40, 60), 2)) for s in range(3)]
    total = sum(BoundaryCounter(truth, 3).counts(said) for truth, said in pairs)
    both, true, predicted = np.asarray(total)[:, :2].astype(float)
    found = scores(np.zeros((3, 4), int), ["a", "b", "c"], bands=np.asarray(total))
    assert list(found.per_class_boundary.values()) == [*(both / (true + predicted - both)), None]
    assert found.boundary_iou == pytest.approx((both / (true + predicted - both)).mean())
    assert np.isnan(boundary_ious(np.asarray(total))[2])
    assert "boundary_iou" in found.to_json()


def test_where_it_was_not_counted_it_is_null() -> None:
    assert scores(np.eye(2, 3, dtype=int), ["a", "b"]).to_json()["boundary_iou"] is None
