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


def from_ends(ends: NDArray[np.int64], count: int, pixels: int) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Run lengths uint32 [R] of `count` masks, and where each mask's start, int64 [count + 1], from where runs end.

    ends: int64 [n] ascending, the mask's number times (pixels + 1), plus the place where zeros turn into ones or back;
    what turns twice at one place does not turn there. The end of a mask itself may be named or not.
    """
    first = np.flatnonzero(np.diff(ends, prepend=-1))
    turns = ends[first[np.diff(first, append=len(ends)) % 2 == 1]]
    turns = turns[turns % (pixels + 1) != pixels]
    last = np.arange(count) * (pixels + 1) + pixels
    after = np.searchsorted(turns, last)
    runs = np.diff(np.insert(turns, after, last), prepend=-1)
    offsets = np.append(0, after + np.arange(1, count + 1))
    runs[offsets[:-1]] -= 1  # from the end of the mask before, which is a place of its own
    return runs.astype(np.uint32), offsets


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
    """int32 [H, W]: of the masks with these numbers, laid one over another, the place in `ids` of the top one; -1."""
    height, width = masks.size_hw
    top = np.full(height * width, -1, np.int32)
    for place, i in enumerate(ids):
        here, inside = unpacked(masks, i)
        np.copyto(top[here], place, where=inside)
    return top.reshape(height, width)


def unpacked(masks: MaskSet, i: int | np.integer) -> tuple[slice, NDArray[np.bool_]]:
    """A mask unpacked from its first one to its last alone: where these are in the flat photo, and bool [n]."""
    runs = masks.runs[masks.offsets[i] : masks.offsets[i + 1]].astype(np.int64)
    inside = runs[1 : len(runs) - len(runs) % 2]
    pixels = np.repeat(np.arange(len(inside)) % 2 == 0, inside)
    return slice(int(runs[0]), int(runs[0]) + len(pixels)), pixels


def resized(masks: MaskSet, size_hw: tuple[int, int]) -> MaskSet:
    """The same masks sampled at the pixel centres of another size; boxes and points move with them.

    Numbers stay, so a mask too thin to meet a sample is empty rather than gone.
    """
    rows, columns = (
        ((np.arange(out) + 0.5) * side / out).astype(np.int64) for out, side in zip(size_hw, masks.size_hw, strict=True)
    )
    sampled, repeats = np.unique(rows, return_counts=True)
    runs, offsets = _sampled(masks, sampled, columns)
    if len(sampled) < len(rows):  # made larger
        smaller = replace(masks, runs=runs, offsets=offsets, size_hw=(len(sampled), size_hw[1]))
        larger = [encode_mask(decode(smaller, [i])[0].repeat(repeats, 0)) for i in range(len(masks))]
        runs, offsets = np.concatenate([runs[:0], *larger]), np.cumsum([0, *map(len, larger)])
    scale_xy = np.array([size_hw[1] / masks.size_hw[1], size_hw[0] / masks.size_hw[0]], np.float32)
    return replace(
        masks,
        runs=runs,
        offsets=offsets,
        size_hw=size_hw,
        boxes=masks.boxes * np.tile(scale_xy, 2),
        points_xy=masks.points_xy * scale_xy,
    )


def _sampled(
    masks: MaskSet, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Run lengths and offsets of the masks at these rows, each another one, and columns, both ascending: a run ends
    after as many of the pixels taken as lie before its end."""
    height, width = masks.size_hw
    pixels = len(rows) * len(columns)
    mask = np.repeat(np.arange(len(masks)), np.diff(masks.offsets))
    ends = np.cumsum(masks.runs, dtype=np.int64) - mask * (height * width)
    y, x = np.divmod(ends, width)
    before_row, before_column = (
        np.searchsorted(taken, np.arange(side + 1)) for taken, side in ((rows, height), (columns, width))
    )
    itself = np.diff(before_row, append=before_row[-1:])[y]  # 1 where the row is taken
    place = before_row[y] * len(columns) + itself * before_column[x]
    return from_ends(np.asarray(mask * (pixels + 1) + place, np.int64), len(masks), pixels)
