"""Final labels: the dense map, stage 1.1 and stage 1.2 vote; agreement is confidence, low confidence is ignore."""

import numpy as np
from numpy.typing import NDArray

from labelgen.core.geometry import area_matrix, to_pixels
from labelgen.data.records import SLOTS

Array = NDArray[np.float32]
LabelMap = NDArray[np.int64]


def merge(
    probabilities: Array, classes: NDArray[np.int64], stages: list[tuple[LabelMap, Array]], min_confidence: float
) -> tuple[LabelMap, LabelMap, Array]:
    """Vote of the dense map and the stages, each with weight one.

    probabilities: float32 [h, w, C] of patches; classes: the present ones [n]; stages: class per pixel [H, W]
    (-1: no vote) with confidence. Returns the class per pixel [H, W], the same with -1 where the mean vote stays
    below `min_confidence`, and that mean vote, float32 [H, W] in 0..1.
    """
    size_hw = stages[0][0].shape
    votes = to_pixels(np.ascontiguousarray(probabilities[..., classes].transpose(2, 0, 1)), (size_hw[0], size_hw[1]))
    place = np.full(probabilities.shape[-1], -1)
    place[classes] = np.arange(len(classes))
    for label_map, confidence in stages:
        pixels = np.flatnonzero((label_map >= 0) & (place[label_map] >= 0))
        voters = place[label_map.ravel()[pixels]]
        votes.reshape(len(classes), -1)[voters, pixels] += confidence.ravel()[pixels]
    confidence = votes.max(0) / (1 + len(stages))
    full = classes[votes.argmax(0)]
    return full, np.where(confidence >= min_confidence, full, -1), confidence


def patch_targets(
    label_map: LabelMap, grid_hw: tuple[int, int], fixed_hw: tuple[int, int], keep: int = SLOTS
) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Class shares of each patch: classes uint16 [h, w, keep] and shares uint8 [h, w, keep], 255 = the whole patch.

    label_map: [H, W], -1 is ignore and has no share; grid_hw: the photo's valid patches; fixed_hw: the grid stored.
    Largest share first; what exceeds `keep` classes is dropped; unused places are class 0 with share 0.
    """
    height, width = label_map.shape
    rows, columns = area_matrix(grid_hw[0], height), area_matrix(grid_hw[1], width)
    present = np.unique(label_map[label_map >= 0])
    classes = np.zeros((*fixed_hw, keep), np.uint16)
    shares = np.zeros((*fixed_hw, keep), np.uint8)
    if not len(present):
        return classes, shares
    masks = (label_map == present[:, None, None]).astype(np.float32)
    share = rows @ masks @ columns.T
    order = np.argsort(-share, axis=0, kind="stable")[:keep].transpose(1, 2, 0)
    top = np.take_along_axis(share.transpose(1, 2, 0), order, -1)
    quantised = np.floor(top * 255 + 1e-3).astype(np.uint8)
    n = order.shape[-1]
    classes[: grid_hw[0], : grid_hw[1], :n] = np.where(quantised > 0, present[order], 0)
    shares[: grid_hw[0], : grid_hw[1], :n] = quantised
    return classes, shares
