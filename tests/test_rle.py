"""Run lengths against masks written by hand and random ones."""

import numpy as np
import pytest
from rows import mask_set

from labelgen import rle


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


def test_no_masks_asked() -> None:
    assert rle.decode(mask_set(np.ones((2, 3, 4), bool)), np.array([], int)).shape == (0, 3, 4)
