"""Stage 1.1: similarity maps prompt SAM. A class's most similar patches, spread out, are its point prompts.

SAM answered every point of its grid when the photo was encoded (it knows no words), so a prompt is looked up,
not computed. Paper: section 3.1, "query points".
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from labelgen.data.rle import MaskSet

Array = NDArray[np.float32]


@dataclass(frozen=True)
class NamedMasks:
    """Masks with a class: ids int [n] into the MaskSet, classes int [n], confidence float32 [n] in 0..1."""

    ids: NDArray[np.int64]
    classes: NDArray[np.int64]
    confidence: Array
    points_xy: Array
    """float32 [n, 2] the prompt in photo pixels; empty [0, 2] where masks were not prompted."""


def query_points(similarity: Array, count: int, floor: float = 0.5) -> NDArray[np.int64]:
    """Patches (row, column) [n, 2] of highest similarity [h, w], none near another; n <= count.

    A patch must reach `floor` times the maximum. Spread: after each pick, patches within a radius that shares the
    qualifying area evenly among `count` points are left out.
    """
    h, w = similarity.shape
    open_map = np.where(similarity >= floor * similarity.max(), similarity, -np.inf)
    radius2 = max(2.0, np.isfinite(open_map).sum() / (count * np.pi))
    rows, columns = np.mgrid[:h, :w]
    picked = []
    for _ in range(count):
        row, column = divmod(int(open_map.argmax()), w)
        if not np.isfinite(open_map[row, column]):
            break
        picked.append((row, column))
        open_map[(rows - row) ** 2 + (columns - column) ** 2 <= radius2] = -np.inf
    return np.array(picked, np.int64).reshape(-1, 2)


def prompt_masks(
    probabilities: Array, present: NDArray[np.bool_], masks: MaskSet, coverage: Array, per_class: int
) -> NamedMasks:
    """Masks that SAM gives for each present class's query points.

    probabilities: float32 [h, w, C]; coverage: float32 [M, h, w] share of each patch inside each mask. Of a point's
    masks the one of highest predicted IoU x net evidence (class inside less other classes inside) is taken.
    """
    ids, classes, confidence, points = [], [], [], []
    for c in np.flatnonzero(present):
        similarity = probabilities[..., c]
        for point in _grid_points(query_points(similarity, per_class), similarity.shape, masks):
            candidates = masks.point_masks[point]
            candidates = candidates[candidates >= 0]
            if not len(candidates):
                continue
            inside = (coverage[candidates] * similarity).sum((1, 2))
            area = coverage[candidates].sum((1, 2))
            best = int(np.argmax(masks.iou[candidates] * (inside - 0.5 * area)))
            if area[best] <= 0:
                continue
            ids.append(candidates[best])
            classes.append(c)
            confidence.append(inside[best] / area[best])
            points.append(masks.points_xy[point])
    return NamedMasks(
        np.array(ids, np.int64),
        np.array(classes, np.int64),
        np.array(confidence, np.float32),
        np.array(points, np.float32).reshape(-1, 2),
    )


def _grid_points(patches: NDArray[np.int64], grid_hw: tuple[int, ...], masks: MaskSet) -> NDArray[np.int64]:
    """The SAM grid point nearest to each patch's centre, without repeats, in the order given."""
    height, width = masks.size_hw
    h, w = grid_hw
    if not len(masks.points_xy) or not len(patches):
        return np.zeros(0, np.int64)
    centres_xy = (patches[:, ::-1] + 0.5) * (width / w, height / h)
    distance = ((centres_xy[:, None] - masks.points_xy[None]) ** 2).sum(-1)
    return np.array(list(dict.fromkeys(distance.argmin(1).tolist())), np.int64)
