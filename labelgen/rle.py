"""Masks as run lengths: row by row, the first run counts zeros, then ones, zeros ... in turn."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from labelgen.records import MaskSet


def encode_mask(mask: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """uint32 [R] run lengths of mask bool [H, W]; they sum up to H W, the first is 0 where mask[0, 0] is set."""
    flat = np.asarray(mask, np.bool_).ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts_with_one = [0] if flat.size and flat[0] else []
    bounds = np.concatenate([[0], starts_with_one, edges, [flat.size]])
    return np.diff(bounds).astype(np.uint32)


def decode(masks: "MaskSet", ids: "Sequence[int] | NDArray[np.integer]") -> NDArray[np.bool_]:
    """bool [n, H, W]: the masks of these numbers, in this order."""
    ids = np.asarray(ids, np.int64)
    starts, ends = masks.offsets[ids], masks.offsets[ids + 1]
    counts = ends - starts
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    lengths = masks.runs[within + np.repeat(starts, counts)]
    return np.repeat(within % 2 == 1, lengths).reshape(len(ids), *masks.size_hw)
