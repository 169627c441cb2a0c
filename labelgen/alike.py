"""Which masks of a photo are nearly the same, so that one of them stands for all. Used by labelgen.sam.

Two masks of a and b pixels, x of them in one alone, have an IoU of (a + b - x) / (a + b + x): it is LEAST or more
where x is at most a share of a + b. x is no less than what they differ by in area, in their counts by cell, or within
some words of their bitmaps, so most pairs are told apart without a look at all pixels.
"""

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

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
    owner, left = np.full(len(bits), -1, np.int64), by_area.area > 0
    owner[first], left[first] = first, False
    for i in [*first, *np.flatnonzero(left)[np.argsort(-iou[left], kind="stable")]]:
        if left[i]:
            owner[i], left[i] = i, False
        if owner[i] == i:
            found = by_area.alike(i, left)
            owner[found], left[found] = i, False
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

    def alike(self, i: int, left: NDArray[np.bool_]) -> Ints:
        """Numbers of those `left` [n] that have an IoU of LEAST or more with mask i."""
        near: Ints = self.order[self.start[i] : self.end[i]]
        near = near[left[near]]
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
