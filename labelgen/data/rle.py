"""Masks as run lengths: row by row, the first run counts zeros, then ones, zeros ... in turn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class MaskSet:
    """SAM's masks of a photo: M masks as run lengths, and which of them each of P point prompts gave."""

    runs: NDArray[np.uint32]
    """[R] run lengths of all masks, one after the other (labelgen.data.rle)."""
    offsets: NDArray[np.int64]
    """[M + 1] where each mask's runs start in `runs`."""
    size_hw: tuple[int, int]
    boxes: NDArray[np.float32]
    """[M, 4] xyxy in px."""
    iou: NDArray[np.float32]
    """[M] predicted IoU."""
    stability: NDArray[np.float32]
    """[M] stability score."""
    automatic: NDArray[np.bool_]
    """[M] whether the automatic generator keeps the mask."""
    points_xy: NDArray[np.float32]
    """[P, 2] the grid of point prompts, px."""
    point_masks: NDArray[np.int32]
    """[P, 3] mask numbers of a prompt's three answers, -1 where one was dropped."""

    def __len__(self) -> int:
        return len(self.iou)

    @staticmethod
    def empty(size_hw: tuple[int, int]) -> "MaskSet":
        """No masks, no prompts."""
        floats = np.zeros((0, 4), np.float32)
        return MaskSet(
            np.zeros(0, np.uint32),
            np.zeros(1, np.int64),
            size_hw,
            floats,
            floats[:, 0],
            floats[:, 0],
            np.zeros(0, np.bool_),
            floats[:, :2],
            np.zeros((0, 3), np.int32),
        )


_MASK_ARRAYS = ("runs", "offsets", "boxes", "iou", "stability", "automatic", "points_xy", "point_masks")


def encode_mask(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """uint32 [R] run lengths of mask bool [H, W]; they sum up to H W, the first is 0 where mask[0, 0] is set."""
    flat = np.asarray(mask, np.bool_).ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts_with_one = [0] if flat.size and flat[0] else []
    bounds = np.concatenate([[0], starts_with_one, edges, [flat.size]])
    return np.diff(bounds).astype(np.uint32)


def decode(masks: MaskSet, ids: Sequence[int] | NDArray[np.integer]) -> NDArray[np.bool_]:
    """bool [n, H, W]: the masks of these numbers, in this order."""
    ids = np.asarray(ids, np.int64)
    starts, ends = masks.offsets[ids], masks.offsets[ids + 1]
    counts = ends - starts
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    lengths = masks.runs[within + np.repeat(starts, counts)]
    return np.repeat(within % 2 == 1, lengths).reshape(len(ids), *masks.size_hw)


def areas(masks: MaskSet) -> NDArray[np.int64]:
    """Pixels of each mask, int64 [M]."""
    ones = masks.runs.astype(np.int64)
    within = np.arange(len(ones)) - np.repeat(masks.offsets[:-1], np.diff(masks.offsets))
    total = np.concatenate([[0], np.cumsum(np.where(within % 2, ones, 0))])
    return np.diff(total[masks.offsets])


def stacked(masks: MaskSet, ids: NDArray[np.integer]) -> NDArray[np.int32]:
    """int32 [H, W]: of the masks with these numbers, laid one over the other, the place in `ids` of the one on top; -1.

    A mask is unpacked from its first one to its last alone.
    """
    height, width = masks.size_hw
    top = np.full(height * width, -1, np.int32)
    for place, i in enumerate(ids):
        runs = masks.runs[masks.offsets[i] : masks.offsets[i + 1]].astype(np.int64)
        inside = runs[1 : len(runs) - len(runs) % 2]
        here = top[runs[0] : runs[0] + inside.sum()]
        np.copyto(here, place, where=np.repeat(np.arange(len(inside)) % 2 == 0, inside))
    return top.reshape(height, width)


def resized(masks: MaskSet, size_hw: tuple[int, int]) -> MaskSet:
    """The same masks sampled at the pixel centres of another size; boxes and points move with them.

    Numbers stay, so a mask too thin to meet a sample is empty rather than gone. One mask is unpacked at a time.
    """
    rows, columns = (
        ((np.arange(out) + 0.5) * side / out).astype(np.int64) for out, side in zip(size_hw, masks.size_hw, strict=True)
    )
    runs = [encode_mask(decode(masks, [i])[0][rows[:, None], columns]) for i in range(len(masks))]
    scale_xy = np.array([size_hw[1] / masks.size_hw[1], size_hw[0] / masks.size_hw[0]], np.float32)
    return replace(
        masks,
        runs=np.concatenate([np.zeros(0, np.uint32), *runs]).astype(np.uint32),
        offsets=np.cumsum([0, *map(len, runs)]).astype(np.int64),
        size_hw=size_hw,
        boxes=masks.boxes * np.tile(scale_xy, 2),
        points_xy=masks.points_xy * scale_xy,
    )
