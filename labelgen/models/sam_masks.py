"""Many masks at once, on the device that they are on: boxes, run lengths, packed words, and which are nearly the same.

Used by labelgen.models.sam. Masks that are nearly the same are stored once: one stands for all. Two masks of a and b
pixels, x of them in one alone, have an IoU of (a + b - x) / (a + b + x): it is LEAST or more where x is at most a share
of a + b. x is no less than what they differ by in area, in their counts by cell, or within some words of their bitmaps,
so most pairs are told apart without a look at all pixels.
"""

from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelgen.data import rle

Bits = NDArray[np.uint64]
Ints = NDArray[np.int64]
LEAST = Fraction(19, 20)
"""Masks of this IoU or more are stored once."""
CELL_ROWS, CELL_COLUMNS = 16, 4
"""A cell's words are CELL_COLUMNS apart, so many: 16 x 64 px of SAM's 256 columns. Any parts would do."""
SOME = 16
"""One word in so many is compared before all are."""
FEW = 16
"""Masks that are compared whole at once."""


def share(bits: Bits, iou: NDArray[np.float32], first: Ints) -> Ints:
    """Which mask stands for each: int64 [n], -1 for an empty one.

    bits: uint64 [n, words] bitmaps; iou: [n] predicted. Greedily from the highest predicted IoU on, each mask stands
    for those left that have an IoU of LEAST or more with it; `first` come before and all stand for themselves.
    """
    by_area = ByArea(bits)
    owner, candidates = np.full(len(bits), -1, np.int64), by_area.area > 0
    owner[first], candidates[first] = first, False
    for i in [*first, *np.flatnonzero(candidates)[np.argsort(-iou[candidates], kind="stable")]]:
        if candidates[i]:
            owner[i], candidates[i] = i, False
        if owner[i] == i:
            found = by_area.alike(i, candidates)
            owner[found], candidates[found] = i, False
    return owner


class ByArea:
    """A photo's masks uint64 [n, words], those of alike area side by side."""

    def __init__(self, bits: Bits) -> None:
        across = -(-bits.shape[1] // (CELL_ROWS * CELL_COLUMNS))
        whole = ((0, 0), (0, across * CELL_ROWS * CELL_COLUMNS - bits.shape[1]))
        counts = np.pad(np.bitwise_count(bits), whole).reshape(len(bits), across, CELL_ROWS, CELL_COLUMNS)
        self.cells = counts.sum(2, dtype=np.int16).reshape(len(bits), across * CELL_COLUMNS)
        self.bits, self.some = bits, np.ascontiguousarray(bits[:, ::SOME])
        self.area = self.cells.sum(1, dtype=np.int64)
        self.order = np.argsort(self.area, kind="stable")
        in_order, least, most = self.area[self.order], LEAST.numerator, LEAST.denominator
        self.start = np.searchsorted(in_order, -(-self.area * least // most))
        self.end = np.searchsorted(in_order, self.area * most // least, "right")

    def alike(self, i: int, candidates: NDArray[np.bool_]) -> Ints:
        """Numbers of those `candidates` [n] that have an IoU of LEAST or more with mask i."""
        near: Ints = self.order[self.start[i] : self.end[i]]
        near = near[candidates[near]]
        if len(near) > FEW:
            near = self._within(np.abs(self.cells[near] - self.cells[i]), near, i)
        if len(near) > FEW:
            near = self._within(np.bitwise_count(self.some[near] ^ self.some[i]), near, i)
        return self._within(np.bitwise_count(self.bits[near] ^ self.bits[i]), near, i)

    def _within(self, apart: NDArray[np.integer], near: Ints, i: int) -> Ints:
        """Those of `near` of which these pixels [len(near), parts], in one of them and i alone, are not too many."""
        least, most = LEAST.numerator, LEAST.denominator
        together = self.area[near] + self.area[i]
        left: Ints = near[apart.sum(1, dtype=np.int64) * (most + least) <= together * (most - least)]
        return left


def words(bitmaps: Tensor) -> Tensor:
    """int64 [n, words] of bitmaps bool [n, ...]: 64 pixels a word, in an order of their own, zeros after the last.

    Eight pixels are a word of eight bytes that are 0 or 1; shifted by 0..7 bits, eight such words fill one.
    """
    flat = bitmaps.flatten(1)
    padded = torch.nn.functional.pad(flat, (0, -flat.shape[1] % 64))
    eights = padded.view(torch.int64)
    packed = eights[:, ::8].clone()
    for bit in range(1, 8):
        packed |= eights[:, bit::8] << bit
    return packed


def extent(logits: Tensor, threshold: float) -> Tensor:
    """Boxes xyxy int64 [m, 4] of the pixels of logits [m, H, W] above the threshold; (0, 0, W, H) where none is."""
    ends = []
    for over in (1, 2):
        hit = (logits.amax(over) > threshold).int()
        ends.append((hit.argmax(1), hit.shape[1] - hit.flip(1).argmax(1)))
    (x0, x1), (y0, y1) = ends
    return torch.stack([x0, y0, x1, y1], 1)


def encode(bitmaps: Tensor) -> list[NDArray[np.uint32]]:
    """rle.encode_mask of each of bitmaps bool [m, H, W], m >= 1.

    On the CPU one by one, in its caches. Elsewhere only the places where runs end leave the device.
    """
    if bitmaps.device.type == "cpu":
        return [rle.encode_mask(bitmap) for bitmap in bitmaps.numpy()]
    return in_bulk(bitmaps)


def in_bulk(bitmaps: Tensor) -> list[NDArray[np.uint32]]:
    """The same with one comparison and one search for all: each mask's ends of runs, the last of them at H W."""
    flat = bitmaps.flatten(1)
    px = flat.shape[1]
    ends = torch.ones(len(flat), px + 1, dtype=torch.bool, device=flat.device)
    ends[:, 0] = flat[:, 0]
    torch.ne(flat[:, 1:], flat[:, :-1], out=ends[:, 1:-1])
    at = ends.flatten().nonzero()[:, 0].cpu().numpy()
    after = np.flatnonzero(at % (px + 1) == px) + 1
    runs = np.diff(at, prepend=-1)
    runs[[0, *after[:-1]]] -= 1  # from the end of the mask before, which is a place of its own
    return np.split(runs.astype(np.uint32), after[:-1])
