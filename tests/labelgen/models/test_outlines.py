"""Run lengths of enlarged logits, made of their outline, against those of all pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from labelgen.data import rle
from labelgen.models import sam_outlines

ROUNDING = 1e-5
"""Pixels no further from the threshold may lie on its other side."""
SHAPES = [
    ((5, 7), (23, 40)),
    ((12, 9), (12, 9)),
    ((1, 9), (2, 3000)),  # a strip: one row of logits
    ((9, 1), (300, 2)),  # and one column
    ((1, 1), (3, 4)),
    ((6, 8), (4, 5)),  # made smaller
    ((48, 64), (500, 667)),
]


def logits(shape, rough):
    """Noise of all roughness, one mask empty, one full, one with values at the threshold itself."""
    generator = torch.Generator().manual_seed(0)
    found = torch.randn(6, 1, *(max(1, side // (1 if rough else 5)) for side in shape), generator=generator)
    found = F.interpolate(found, shape, mode="bilinear", align_corners=False)[:, 0]
    found[0], found[1], found[2] = -2, 2, found[2].round()
    return found


def enlarged(values, size_hw):
    return F.interpolate(values[:, None], size_hw, mode="bilinear", align_corners=False)[:, 0].numpy()


@pytest.mark.parametrize(("shape", "size_hw"), SHAPES)
@pytest.mark.parametrize("threshold", [0.0, 0.7, -1.0])
@pytest.mark.parametrize("rough", [True, False])
def test_run_lengths_are_those_of_the_enlarged_logits(shape, size_hw, threshold, rough):
    values = logits(shape, rough)
    found = sam_outlines.run_lengths(values, threshold, size_hw)
    expected = enlarged(values, size_hw)
    drawn = [np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size_hw) for runs in found]
    assert np.abs(expected - threshold).max(initial=0, where=np.stack(drawn) != (expected > threshold)) <= ROUNDING
    assert sam_outlines.areas(values, threshold, size_hw).tolist() == np.stack(drawn).sum((1, 2)).tolist()
    for runs, bitmap in zip(found, drawn, strict=True):
        assert runs.dtype == np.uint32 and runs.tolist() == rle.encode_mask(bitmap).tolist()  # no run of nothing
        rows, columns = np.nonzero(bitmap)
        height, width = size_hw
        ends = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if bitmap.any() else (0, 0, width, height)
        assert sam_outlines.extent(runs, size_hw) == tuple(map(int, ends))


def test_a_spike_between_two_pixels_is_none():
    """Five columns of logits for two pixels: above is what lies between these alone."""
    values = torch.tensor([[[-1.0, -1.0, 9.0, -1.0, -1.0]]])
    assert [runs.tolist() for runs in sam_outlines.run_lengths(values, 0.0, (1, 2))] == [[2]]
    assert (enlarged(values, (1, 2)) < 0).all()


def test_rounding_never_leaves_the_two_values():
    """A row that began on the wrong side of the threshold would stay there, and so would all that follow."""
    generator = torch.Generator().manual_seed(1)
    upper, lower = torch.randn(2, 100_000, generator=generator) * 10 ** torch.randint(
        -6, 2, (2, 100_000), generator=generator
    )
    share = 1 - torch.rand(100_000, generator=generator) * 1e-6
    found = sam_outlines._blend(upper, lower, share)
    assert (found >= torch.minimum(upper, lower)).all() and (found <= torch.maximum(upper, lower)).all()
