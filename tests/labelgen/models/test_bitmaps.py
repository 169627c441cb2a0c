"""Many masks at once against one at a time."""

import numpy as np
import pytest
import torch

from labelgen.data import rle
from labelgen.models import sam_masks

SIZES = [(13, 7), (1, 9), (9, 1), (1, 1), (30, 44)]


def masks(size_hw):
    """Empty, full, single pixels at both ends, and noise of several densities; two empty ones side by side."""
    rng = np.random.default_rng(0)
    found = rng.random((12, *size_hw)) < np.linspace(0, 1, 12)[:, None, None]
    for i in (1, 2, 3, 4, 9):
        found[i] = False
    found[1, 0, 0] = found[2, -1, -1] = found[9, 0, 0] = found[9, -1, -1] = True
    return found


@pytest.mark.parametrize("size_hw", SIZES)
@pytest.mark.parametrize("encode", [sam_masks.in_bulk, sam_masks.encode])
def test_run_lengths_are_those_of_each_mask(size_hw, encode):
    for count in (12, 1):
        found = encode(torch.from_numpy(masks(size_hw)[:count]))
        assert len(found) == count
        for runs, mask in zip(found, masks(size_hw), strict=False):
            expected = rle.encode_mask(mask)
            assert runs.dtype == expected.dtype and runs.tolist() == expected.tolist()


@pytest.mark.parametrize("size_hw", SIZES)
def test_words_hold_each_pixel_once(size_hw):
    """Pixels in one of two masks alone are as many as the bits in one of their words alone."""
    found = masks(size_hw)
    words = sam_masks.words(torch.from_numpy(found)).numpy().view(np.uint64)
    assert words.shape == (12, -(-size_hw[0] * size_hw[1] // 64))
    flat = found.reshape(12, -1)
    differ = np.bitwise_count(words[:, None] ^ words).sum(2)
    assert differ.tolist() == (flat[:, None] ^ flat).sum(2).tolist()
    assert np.bitwise_count(words).sum(1).tolist() == flat.sum(1).tolist()


@pytest.mark.parametrize("size_hw", SIZES)
def test_extents_hold_the_pixels(size_hw):
    found = masks(size_hw)
    for box, mask in zip(sam_masks.extent(torch.from_numpy(found) * 3.0 - 1, 1.0).tolist(), found, strict=True):
        rows, columns = np.nonzero(mask)
        height, width = size_hw
        ends = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if mask.any() else (0, 0, width, height)
        assert box == [int(end) for end in ends]
