"""Segmentations of COCO's json as masks: polygons, run lengths as numbers, run lengths as a string.

Pixel for pixel what COCO's own mask API (pycocotools, maskApi.c) makes of them, so that truth is the official one.
Run lengths go column by column and begin with zeros.
"""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SCALE = 5
"""Boundaries are drawn on a grid this much finer than the pixels."""
_FIRST, _DIGIT, _MORE, _SIGN = 48, 0x1F, 0x20, 0x10
"""A character of a string of run lengths: offset, five bits of a number, "goes on", and sign of the last five."""
_NO_POLYGON = "it has a polygon that is not a list of three or more points x, y"


def is_empty(segmentation: Any) -> bool:
    """Whether nothing was drawn: tools leave such annotations where a mask was rubbed out, or where a box is alone."""
    rings = segmentation if isinstance(segmentation, list) else [segmentation]
    return not segmentation or all(isinstance(ring, list | array) and not len(ring) for ring in rings)


def check(segmentation: Any, size_hw: tuple[int, int]) -> None:
    """ValueError, saying what is wrong, for a segmentation that cannot be one of a picture of this size.

    Quick, so that all of a data set are looked at before the first photo is; mask_of finds the rest.
    """
    if isinstance(segmentation, Mapping):
        if segmentation.get("size") != list(size_hw):
            raise ValueError(f"its RLE has size {segmentation.get('size')}, its image record {list(size_hw)}")
    elif not isinstance(segmentation, Sequence) or not segmentation:
        raise ValueError("it has no segmentation (a box alone is no truth)")
    elif any(not isinstance(ring, Sequence | array) or len(ring) < 6 or len(ring) % 2 for ring in segmentation):
        raise ValueError(_NO_POLYGON)


def mask_of(segmentation: Any, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """bool [H, W] of one annotation's `segmentation`. ValueError, saying what is wrong, for one that cannot be right.

    A list of polygons [x0, y0, x1, y1, …] is their union, each filled by the even-odd rule; a mapping has `size`
    [H, W] and `counts`, numbers or a string.
    """
    check(segmentation, size_hw)
    if isinstance(segmentation, Mapping):
        return _unpacked(runs_of(segmentation.get("counts")), size_hw)
    mask = np.zeros(size_hw, np.bool_)
    for ring in segmentation:
        mask |= polygon_mask(ring, size_hw)
    return mask


def runs_of(counts: Any) -> NDArray[np.int64]:
    """int64 [R] run lengths of an RLE's `counts`."""
    if isinstance(counts, str):
        return decode_string(counts)
    runs = np.asarray(counts) if isinstance(counts, Sequence) and counts else np.zeros(0)
    if runs.dtype.kind not in "iu":
        raise ValueError("its RLE counts are neither whole numbers nor a string")
    return runs.astype(np.int64)


def decode_string(text: str) -> NDArray[np.int64]:
    """int64 [R] run lengths of a compressed `counts` string.

    Each is a number in base 32, lowest five bits first, a character per five bits; from the fourth on it is the
    difference to the number two before.
    """
    codes = np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - _FIRST
    if not codes.size or codes.min() < 0 or codes.max() > _DIGIT + _MORE or codes[-1] & _MORE:
        raise ValueError("its RLE string is cut short or altered")
    last = np.flatnonzero(~codes & _MORE)
    first = np.append(0, last[:-1] + 1)
    shifts = 5 * (np.arange(codes.size) - np.repeat(first, last - first + 1))
    if shifts.max() > 30:
        raise ValueError("its RLE string is cut short or altered")
    runs = np.add.reduceat((codes & _DIGIT) << shifts, first)
    runs -= np.where(codes[last] & _SIGN, 1 << (shifts[last] + 5), 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def encode_string(runs: NDArray[np.integer]) -> str:
    """The compressed `counts` string of run lengths [R]: what decode_string reads, as maskApi.c writes it."""
    rest = runs.astype(np.int64)
    rest[3:] -= runs[1:-2].astype(np.int64)
    characters, has_digit = [], [np.ones(rest.size, np.bool_)]
    while has_digit[-1].any():
        digits = rest & _DIGIT
        rest >>= 5
        goes_on = rest != np.where(digits & _SIGN, -1, 0)
        characters.append(_FIRST + digits + np.where(goes_on, _MORE, 0))
        has_digit.append(has_digit[-1] & goes_on)
    return np.stack(characters, 1)[np.stack(has_digit[:-1], 1)].astype(np.uint8).tobytes().decode()


def _unpacked(runs: NDArray[np.int64], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """bool [H, W] of run lengths."""
    height, width = size_hw
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"its RLE does not fill {width} x {height} px")
    ones = np.arange(runs.size) % 2 == 1
    return np.repeat(ones, runs).reshape(width, height).T


def polygon_mask(ring: Any, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """bool [H, W] of one polygon [x0, y0, x1, y1, …] in pixels, (0, 0) the upper left corner of the first pixel.

    maskApi.c's rleFrPoly: the outline is drawn on a grid five times finer; where it crosses the middle of a column
    of pixels, the column turns from out to in or back. Its rounding is kept, since a pixel's truth hangs on it.
    """
    height, width = size_hw
    try:
        points = np.asarray(ring, np.float64)
    except (TypeError, ValueError):
        raise ValueError(_NO_POLYGON) from None
    if points.ndim != 1 or not np.isfinite(points).all():
        raise ValueError(_NO_POLYGON)
    u, v = _outline(np.trunc(_SCALE * points.reshape(-1, 2) + 0.5).astype(np.int64))
    x, y = _crossings(u, v, size_hw)
    turns = np.bincount(x * height + y, minlength=height * width + 1)[:-1]
    inside: NDArray[np.bool_] = np.cumsum(turns) % 2 == 1
    return inside.reshape(width, height).T


def _outline(corners: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Grid points (u, v) along the edges between corners [n, 2], both ends of each edge among them, in order.

    An edge takes one step a point along its longer side and always starts from the lower end there: rounding is
    then the same whichever way the edge runs.
    """
    start, end = corners, np.roll(corners, -1, axis=0)
    delta = end - start
    along = np.where(abs(delta[:, 0]) >= abs(delta[:, 1]), 0, 1)
    edge = np.arange(len(corners))
    length = abs(delta[edge, along])
    flip = delta[edge, along] < 0
    low, high = np.where(flip[:, None], end, start), np.where(flip[:, None], start, end)
    slope = (high - low)[edge, 1 - along] / np.maximum(length, 1)

    of = np.repeat(edge, length + 1)
    step = np.arange(of.size) - np.repeat(np.cumsum(length + 1) - length - 1, length + 1)
    step = np.where(flip[of], length[of] - step, step)
    major = low[of, along[of]] + step
    minor = np.trunc(low[of, 1 - along[of]] + slope[of] * step + 0.5).astype(np.int64)
    across = along[of] == 0
    return np.where(across, major, minor), np.where(across, minor, major)


def _crossings(
    u: NDArray[np.int64], v: NDArray[np.int64], size_hw: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Columns x and rows y (0 to H) from which on a column of pixels turns."""
    height, width = size_hw
    moved = np.flatnonzero(u[1:] != u[:-1])
    left, upper = np.minimum(u[moved], u[moved + 1]), np.minimum(v[moved], v[moved + 1])
    x = (left + 0.5) / _SCALE - 0.5
    y = np.ceil(((upper + 0.5) / _SCALE - 0.5).clip(0, height))
    middle = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    return x[middle].astype(np.int64), y[middle].astype(np.int64)
