"""Masks of a photo larger than the working size, by their outlines: run lengths of enlarged logits, without a pixel.

Used by labelgen.models.sam. Enlarged bilinearly, the pixels between four logits lie between these: where all four are
on one side of the threshold, so is every pixel. What is left are the *mixed* cells between two rows and two columns of
logits. Along a row of the photo logits are linear within a cell, so at most one run ends there, at a place that a
division gives. The cost is that of the outline: it grows with the photo's height, not with its pixels.

The masks are those of the enlarged logits but for rounding at the threshold itself.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelgen.core.geometry import HW
from labelgen.data import rle

ROW_PX = 64
"""What a row of the photo takes of memory, in pixels of logits: more than was measured."""


class Rows(NamedTuple):
    """The photo's rows by the pair of logits' rows that they lie between, h + 1 pairs with k places each, the first and
    the last of one row and its own copy.

    y: int64 [h + 1, k]; there: bool [h + 1, k], whether the place is taken; share: float32 [h + 1, k] of the lower."""

    y: Tensor
    there: Tensor
    share: Tensor


class Crossings(NamedTuple):
    """Where rows of the photo cross the threshold between two columns of logits: numbers of masks, y, x of the first
    pixel on the other side, all int64 [n], in no order; up: bool [n], whether that side is above."""

    mask: NDArray[np.int64]
    y: NDArray[np.int64]
    x: NDArray[np.int64]
    up: NDArray[np.bool_]


def run_lengths(logits: Tensor, threshold: float, size_hw: HW) -> list[NDArray[np.uint32]]:
    """rle.encode_mask of each of logits float32 [m, h, w], enlarged bilinearly to the photo's size, above the
    threshold."""
    height, width = size_hw
    crossings, begins, ended = _outline(logits, threshold, size_hw)
    begins[:, 1:] ^= ended[:, :-1]  # where a row begins on another side than the one before it ended on
    mask, y = (each.cpu().numpy() for each in begins.nonzero(as_tuple=True))
    between_rows, in_rows = mask * height + y, crossings.mask * height + crossings.y
    ends = np.concatenate([between_rows * width, in_rows * width + crossings.x])
    ends += np.concatenate([mask, crossings.mask])  # as rle.from_ends numbers the pixels of many masks
    runs, offsets = rle.from_ends(np.sort(ends), len(logits), height * width)
    return np.split(runs, offsets[1:-1])


def areas(logits: Tensor, threshold: float, size_hw: HW) -> NDArray[np.int64]:
    """Pixels int64 [m] of the same masks."""
    crossings, _, ended = _outline(logits, threshold, size_hw)
    ends = np.bincount(crossings.mask, np.where(crossings.up, -crossings.x, crossings.x), len(logits))
    return np.asarray(ends + size_hw[1] * ended.sum(1).cpu().numpy(), np.int64)


def extent(runs: NDArray[np.uint32], size_hw: HW) -> tuple[int, int, int, int]:
    """The box xyxy of a mask's pixels; (0, 0, W, H) where there is none."""
    height, width = size_hw
    ends = np.cumsum(runs, dtype=np.int64)
    first, last = ends[: len(ends) // 2 * 2 : 2], ends[1::2] - 1
    if not len(last):
        return 0, 0, width, height
    (y0, x0), (y1, x1) = np.divmod(first, width), np.divmod(last, width)
    if (y0 != y1).any():  # a run goes on in the next row
        return 0, int(y0[0]), width, int(y1[-1]) + 1
    return int(x0.min()), int(y0[0]), int(x1.max()) + 1, int(y1[-1]) + 1


def _rows(h: int, height: int, device: torch.device) -> Rows:
    """As torch's bilinear interpolation has them, in float32 too."""
    scale = torch.tensor(h, dtype=torch.float32) / height
    place = (torch.arange(height, dtype=torch.float32) + 0.5) * scale - 0.5
    first = torch.searchsorted(place, torch.arange(-1, h + 1, dtype=torch.float32))
    count = first[1:] - first[:-1]
    within = torch.arange(int(count.max()))
    y = (first[:-1, None] + within).clamp(max=height - 1)
    share = place[y] - torch.arange(-1, h, dtype=torch.float32)[:, None]
    return Rows(*(each.to(device) for each in (y, within < count[:, None], share)))


def _outline(logits: Tensor, threshold: float, size_hw: HW) -> tuple[Crossings, Tensor, Tensor]:
    """The crossings, and bool [m, H] whether each row of the photo begins and ends above the threshold."""
    rows = _rows(logits.shape[1], size_hw[0], logits.device)
    padded = torch.cat([logits[:, :1], logits, logits[:, -1:]], 1)
    begins, ended = (
        (_blend(side[:, :-1, None], side[:, 1:, None], rows.share) > threshold)[:, rows.there]
        for side in (padded[..., 0], padded[..., -1])
    )
    return _crossings(padded, threshold, rows, size_hw[1]), begins, ended


def _crossings(padded: Tensor, threshold: float, rows: Rows, width: int) -> Crossings:
    """Of logits [m, h + 2, w]."""
    mask, row, column = _mixed(padded > threshold).nonzero(as_tuple=True)
    left, right = (
        _blend(padded[mask, row, at, None], padded[mask, row + 1, at, None], rows.share[row])
        for at in (column, column + 1)
    )
    turned = ((left > threshold) != (right > threshold)) & rows.there[row]
    cell, k = turned.nonzero(as_tuple=True)
    found = mask[cell], rows.y[row[cell], k], column[cell], left[turned], right[turned]
    mask_of, y, column_of, before, after = (each.cpu().numpy() for each in found)
    share = (threshold - before.astype(np.float64)) / (after.astype(np.float64) - before)
    x = (column_of + share + 0.5) * width / padded.shape[2] - 0.5
    up = after > threshold
    x = np.where(up, np.floor(x) + 1, np.ceil(x))  # a pixel at the threshold itself is outside
    return Crossings(mask_of, y, np.clip(x, 0, width).astype(np.int64), up)


def _mixed(above: Tensor) -> Tensor:
    """bool [m, h - 1, w - 1]: cells whose corners of bool [m, h, w] are not all the same."""
    across = above[..., 1:] != above[..., :-1]
    return across[:, 1:] | across[:, :-1] | (above[:, 1:, 1:] != above[:, :-1, 1:])


def _blend(upper: Tensor, lower: Tensor, share: Tensor) -> Tensor:
    """Between the two, never beyond either: a rounding beyond the threshold would turn all pixels that follow."""
    blended = upper + (lower - upper) * share
    return torch.minimum(torch.maximum(blended, torch.minimum(upper, lower)), torch.maximum(upper, lower))
