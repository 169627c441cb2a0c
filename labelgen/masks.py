"""Stage 1.2: every automatic mask is named by the dense evidence pooled in it. Paper: section 3.1.

Small objects and parts that no query point of stage 1.1 met get their label here.
"""

import numpy as np
from numpy.typing import NDArray

from labelgen.points import NamedMasks
from labelgen.records import MaskSet

Array = NDArray[np.float32]


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


def paint(named: NamedMasks, bitmaps: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Array]:
    """Small masks over large ones: classes int [H, W] (-1 where none) and the painting mask's confidence.

    bitmaps: bool [n, H, W], one for each named mask.
    """
    label_map = np.full(bitmaps.shape[1:], -1, np.int64)
    confidence = np.zeros(bitmaps.shape[1:], np.float32)
    for i in np.argsort(-bitmaps.sum((1, 2)), kind="stable"):
        label_map[bitmaps[i]] = named.classes[i]
        confidence[bitmaps[i]] = named.confidence[i]
    return label_map, confidence


def strongest(named: NamedMasks, bitmaps: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Array]:
    """The most confident mask wins each pixel: classes int [H, W] (-1 where none) and its confidence."""
    label_map = np.full(bitmaps.shape[1:], -1, np.int64)
    confidence = np.zeros(bitmaps.shape[1:], np.float32)
    for i in np.argsort(named.confidence, kind="stable"):
        label_map[bitmaps[i]] = named.classes[i]
        confidence[bitmaps[i]] = named.confidence[i]
    return label_map, confidence
