"""Masks that stand for others: by hand, and against every pair's IoU."""

import numpy as np
import pytest

from labelgen.models.sam_masks import share


def bits(rows):
    packed = np.packbits(np.array(rows, bool).reshape(len(rows), -1), axis=1)
    return np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8))).view(np.uint64)


def by_pairs(masks, iou, first):
    """The same greedy choice, from the IoU of all pairs in float64."""
    flat = np.array([mask.ravel() for mask in masks], np.float64)
    both = flat @ flat.T
    area = flat.sum(1)
    alike = both >= 0.95 * np.maximum(1, area[:, None] + area - both)
    owner = np.full(len(flat), -1)
    owner[first] = first
    for i in [*first, *np.argsort(-iou, kind="stable")]:
        if owner[i] in (-1, i) and (area[i] or owner[i] == i):
            owner[(owner < 0) & alike[i]] = i
    return owner


def rectangles(rng, count, size_hw, sides):
    """Of these sides, each a few pixels away from another one."""
    masks = np.zeros((count, *size_hw), bool)
    for mask in masks:
        y, x = rng.integers(0, 8, 2) * 3
        height, width = rng.integers(*sides, 2)
        mask[y : y + height, x : x + width] = True
    return masks


def blots(rng, count, size_hw):
    """Copies of a few masks of noise with more and more pixels changed, up to twice what alike ones differ by."""
    noise = rng.random((4, *size_hw)) < 0.5
    return noise[rng.integers(0, 4, count)] ^ (rng.random((count, *size_hw)) < rng.random((count, 1, 1)) * 0.05)


def test_share_by_hand():
    a, b, c = np.zeros((3, 100), bool)
    a[:40], b[:41], c[50:90] = True, True, True
    none = np.zeros(100, bool)
    iou = np.array([0.5, 0.9, 0.7, 0.99], np.float32)
    assert share(bits([a, b, c, none]), iou, np.array([], int)).tolist() == [1, 1, 2, -1]
    assert share(bits([a, b, c, none]), iou, np.array([0])).tolist() == [0, 0, 2, -1]
    assert share(bits([a, b, c, none]), iou, np.array([0, 1])).tolist() == [0, 1, 2, -1]
    assert share(bits([a, ~a, c, c]), iou, np.array([], int)).tolist() == [0, 1, 3, 3]


@pytest.mark.parametrize(("pixels", "owner"), [(19, [0, 0]), (18, [0, 1])])
def test_an_iou_of_exactly_95_percent_is_alike(pixels, owner):
    whole = np.arange(64) < 20
    assert (
        share(bits([whole, np.arange(64) < pixels]), np.array([1, 0], np.float32), np.array([], int)).tolist() == owner
    )


@pytest.mark.parametrize("size_hw", [(48, 64), (50, 37), (192, 256), (1, 5)])
@pytest.mark.parametrize("seed", [0, 1])
def test_share_is_the_greedy_choice_by_all_pairs(size_hw, seed):
    rng = np.random.default_rng(seed)
    masks = np.concatenate(
        [rectangles(rng, 120, size_hw, (2, 30)), rectangles(rng, 80, size_hw, (20, 24)), blots(rng, 80, size_hw)]
    )
    masks[rng.random(len(masks)) < 0.03] = False
    iou = rng.random(len(masks)).astype(np.float32).round(1)  # many are equal
    first = rng.permutation(len(masks))[:10]
    owner = share(bits(masks), iou, first)
    np.testing.assert_array_equal(owner, by_pairs(masks, iou, first))
    assert 1 < len(np.unique(owner[owner >= 0])) < (owner >= 0).sum()


def test_masks_that_differ_in_the_words_compared_first_are_alike():
    masks = np.ones((40, 32 * 64), bool)
    masks[1:, :60] = False
    assert share(bits(masks), np.linspace(1, 0, 40).astype(np.float32), np.array([], int)).tolist() == [0] * 40


def test_share_of_no_masks():
    assert share(np.zeros((0, 2), np.uint64), np.zeros(0, np.float32), np.array([], int)).tolist() == []
