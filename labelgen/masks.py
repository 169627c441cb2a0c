"""Stage 1.2: every automatic mask is named by the dense evidence pooled in it. Paper: section 3.1.

Small objects and parts that no query point of stage 1.1 met get their label here.
"""

import numpy as np
from numpy.typing import NDArray

from labelgen.data import rle
from labelgen.data.rle import MaskSet
from labelgen.points import NamedMasks

Array = NDArray[np.float32]
Painted = tuple[NDArray[np.int64], Array]
"""Classes int [H, W], -1 where there is none, and the confidence float32 [H, W] of the mask that says so."""


def name_masks(probabilities: Array, masks: MaskSet, coverage: Array, min_confidence: float) -> NamedMasks:
    """Automatic masks with the class of highest pooled probability, where that reaches `min_confidence`.

    probabilities: float32 [h, w, C]; coverage: float32 [M, h, w] share of each patch inside each mask.
    """
    ids = np.flatnonzero(masks.automatic)
    weights = coverage[ids].reshape(len(ids), probabilities.shape[0] * probabilities.shape[1])
    area = weights.sum(1, keepdims=True)
    pooled = weights @ probabilities.reshape(-1, probabilities.shape[-1]) / np.maximum(area, 1e-6)
    keep = (pooled.max(1) >= min_confidence) & (area[:, 0] > 0)
    return NamedMasks(
        ids[keep], pooled.argmax(1)[keep], pooled.max(1)[keep].astype(np.float32), np.zeros((0, 2), np.float32)
    )


def paint(named: NamedMasks, masks: MaskSet) -> Painted:
    """Small masks over large ones."""
    return _on_top(named, masks, np.argsort(-rle.areas(masks)[named.ids], kind="stable"))


def strongest(named: NamedMasks, masks: MaskSet) -> Painted:
    """The most confident mask wins each pixel."""
    return _on_top(named, masks, np.argsort(named.confidence, kind="stable"))


def _on_top(named: NamedMasks, masks: MaskSet, order: NDArray[np.int64]) -> Painted:
    """The masks laid one over the other in an order of their places in `named`."""
    top = rle.stacked(masks, named.ids[order])
    # -1 meets the element after the last one: no mask, no confidence.
    return np.append(named.classes[order], -1)[top], np.append(named.confidence[order], np.float32(0))[top]
