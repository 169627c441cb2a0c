"""How well the edges of label maps lie: boundary IoU (Cheng et al., "Boundary IoU", CVPR 2021), counted like mIoU.

The band of a class is what of its pixels lies within d pixels of its outline, d = 0.02 of the photo's diagonal; the
score is the IoU of truth's band and the prediction's, a class, summed over photos. Their code erodes each mask d times
by 3 x 3, with the photo's border for an edge: a pixel is eroded where the square of 2 d + 1 pixels round it has another
class, so that one smallest and one largest value a window find the bands of all classes at once.

Pixels without truth are of no mask and no band, and make no edge: two classes with such pixels between them have one
where a window reaches from the one to the other. Truth and prediction are treated alike, so the best score is 1. (In
the authors' panoptic code they are an edge of truth's masks alone, and a perfect prediction stays below 1. Without such
pixels the two are the same.)
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Cells = NDArray[np.unsignedinteger[Any]]

DILATION_RATIO = 0.02
"""Of the diagonal, as in the authors' code."""


def band_px(size_hw: tuple[int, ...]) -> int:
    """How deep a band is, px."""
    return max(1, round(DILATION_RATIO * math.hypot(*size_hw)))


class BoundaryCounter:
    """The bands of one photo's truth; `counts` holds predictions against them."""

    def __init__(self, truth: NDArray[np.integer], classes: int) -> None:
        """truth: [H, W], values outside 0..C-1 are not counted."""
        self._classes, self._depth = classes, band_px(truth.shape)
        self._counted = (truth >= 0) & (truth < classes)
        self._truth = np.where(self._counted, truth, 0)
        self._band = self._bands(self._truth)
        self._in_truth = self._by_class(self._truth, self._band)

    def counts(self, prediction: NDArray[np.integer]) -> Counts:
        """int64 [3, C], pixels of each class: in both bands, in truth's, in the prediction's.

        prediction: [H, W], values outside 0..C-1 are "none": in no band, but other than every class.
        """
        known = (prediction >= 0) & (prediction < self._classes)
        named = np.where(known, prediction.astype(np.int64), self._classes)
        band = self._bands(named)
        both = band & self._band & (named == self._truth)
        return np.stack([self._by_class(self._truth, both), self._in_truth, self._by_class(named, band)])

    def _by_class(self, label_map: NDArray[np.integer], chosen: NDArray[np.bool_]) -> Counts:
        return np.bincount(label_map[chosen], minlength=self._classes + 1)[: self._classes]

    def _bands(self, label_map: NDArray[np.integer]) -> NDArray[np.bool_]:
        """bool [H, W]: the counted pixels whose window has another class, or reaches beyond the photo."""
        kind = np.uint8 if self._classes < 254 else np.uint16  # lowest and highest value are of no class
        top = np.iinfo(kind).max
        cells = label_map.astype(np.int64) + 1
        highest = _windowed(np.where(self._counted, cells, 0).astype(kind), self._depth, np.maximum, top)
        lowest = _windowed(np.where(self._counted, cells, top).astype(kind), self._depth, np.minimum, top)
        return np.asarray(self._counted & (lowest != highest))


def _windowed(cells: Cells, reach: int, pick: np.ufunc, outside: int) -> Cells:
    """`pick` (minimum or maximum) over the square of 2 reach + 1 cells round each of [H, W]."""
    found, width = np.pad(cells, reach, constant_values=outside), 2 * reach + 1
    for axis in (0, 1):
        rows, span = found.swapaxes(0, axis), 1
        while span < width:  # twice as long each time: a window of 25 takes 5 passes
            step = min(span, width - span)
            rows = pick(rows[:-step], rows[step:])
            span += step
        found = rows.swapaxes(0, axis)
    return found


def boundary_ious(counts: Counts) -> NDArray[np.float64]:
    """float64 [C] of counts [3, C], any number of photos added up; NaN for a class without any band."""
    both, true, said = counts.astype(np.float64)
    union = true + said - both
    return np.asarray(np.divide(both, union, out=np.full(len(both), np.nan), where=union > 0))
