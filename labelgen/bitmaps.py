"""Boxes, run lengths and packed words of many masks at once, on the device that they are on. Used by labelgen.sam."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelgen.data import rle


def extent(logits: Tensor, threshold: float) -> Tensor:
    """Boxes xyxy int64 [m, 4] of the pixels of logits [m, H, W] above the threshold; (0, 0, W, H) where none is."""
    ends = []
    for over in (1, 2):
        hit = (logits.amax(over) > threshold).int()
        ends.append((hit.argmax(1), hit.shape[1] - hit.flip(1).argmax(1)))
    (x0, x1), (y0, y1) = ends
    return torch.stack([x0, y0, x1, y1], 1)


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
