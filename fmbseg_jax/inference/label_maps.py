"""From patch embeddings to a class per pixel: logits of patches, bilinear to the photo's size, argmax; `refined` by
masks, sharpened by the photo's colours.

Data flow: head (or dense CLIP) -> patch embeddings -> here -> label maps, which evaluate counts and predict writes.
numpy, since photos differ in size and every new size would be compiled again.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax

from fmbseg_jax.inference.sharpening import sharpened
from labelgen.core.geometry import bilinear_matrix, resize, to_pixels
from labelgen.core.ontology import class_scores
from labelgen.data import rle
from labelgen.data.rle import MaskSet

Array = NDArray[np.float32]
LabelMap = NDArray[np.uint16]

CHUNK_BYTES = 32 << 20  # float32 logits of (classes, pixels) held at a time
SHARPEN_PX = 640
"""Longest side at which maps are sharpened: neighbours up to 24 px away, as peers take them at 448 px of short side."""


class Background(NamedTuple):
    """Pixels whose best class has less softmax probability than `threshold`, at `temperature`, are of no class."""

    threshold: float
    temperature: float


def pixel_classes(
    patches: Array,
    prototypes: Array,
    word_class: tuple[int, ...],
    size_hw: tuple[int, int],
    present: NDArray[np.bool_] | None = None,
    background: Background | None = None,
) -> LabelMap:
    """Class of each pixel uint16 [H, W]: the best word of the best class, patch logits resized bilinearly.

    patches: float32 [h, w, E], the valid grid, which covers the photo exactly; prototypes: float32 [K, E], any common
    scale; word_class: K ascending class indices; present: bool [C], classes to choose from (None: all); background:
    what it takes becomes class C. Ties go to the lower class. Memory grows with the pixels plus a fixed number of
    logits, never with classes x pixels.
    """
    count = word_class[-1] + 1
    allowed = np.arange(count) if present is None else np.flatnonzero(present)
    word_class_array = np.asarray(word_class)
    best = np.full(size_hw, -np.inf, np.float32)
    label_map = np.zeros(size_hw, np.uint16)
    total = np.zeros(size_hw if background else (0, 0))
    for classes in _class_chunks(allowed, size_hw):
        words = np.isin(word_class_array, classes)
        maps = class_scores(patches @ prototypes[words].T, word_class_array[words])
        for rows, logits in _resized_bands(np.ascontiguousarray(maps.transpose(2, 0, 1), np.float32), size_hw):
            _keep_best(best[rows], label_map[rows], logits, classes)
            if background:
                total[rows] += _exp(logits, background).sum(0)
    if background:
        label_map[_exp(best, background) < background.threshold * total] = count
    return label_map


def _exp(logits: Array, background: Background) -> NDArray[np.float64]:
    """float64: cosines reach one at most, so none overflows, and far below none vanishes."""
    return np.exp((logits.astype(np.float64) - 1) / background.temperature)


def refined(label_map: LabelMap, masks: MaskSet, min_iou: float) -> LabelMap:
    """The same label map [H, W] after a majority vote inside each SAM mask, small masks over large ones.

    Only masks with predicted IoU >= min_iou vote; every vote counts the pixels of the map that came in. Ties go to the
    lower class.
    """
    ids = np.flatnonzero(masks.iou >= min_iou)
    areas = rle.areas(masks)
    out = label_map.copy()
    came_in, painted = label_map.ravel(), out.ravel()
    for i in sorted(ids[areas[ids] > 0], key=lambda i: (-areas[i], i)):
        here, inside = rle.unpacked(masks, i)  # one at a time: a large photo has hundreds
        np.copyto(painted[here], np.bincount(came_in[here][inside]).argmax(), where=inside, casting="unsafe")
    return out


def sharpened_classes(
    patches: Array,
    prototypes: Array,
    word_class: tuple[int, ...],
    image: NDArray[np.uint8],
    temperature: float,
    threshold: float = 0.0,
) -> LabelMap:
    """The same of a photo uint8 [H, W, 3], its edges drawn by its colours: probabilities of patches at `temperature`,
    bilinear, sharpened (fmbseg_jax.inference.sharpening) at SHARPEN_PX at most, bilinear to the photo's size.

    threshold: pixels whose best class is less probable become class C.
    """
    size_hw, working = (image.shape[0], image.shape[1]), _at_most(image, SHARPEN_PX)
    scores = class_scores(patches @ prototypes.T, np.asarray(word_class)).transpose(2, 0, 1)
    probabilities = softmax(scores.astype(np.float64) / temperature, axis=0).astype(np.float32)
    classes = may_win(probabilities.max((1, 2)))
    maps = sharpened(to_pixels(probabilities[classes], (working.shape[0], working.shape[1])), working)
    best, label_map = np.full(size_hw, -np.inf, np.float32), np.zeros(size_hw, np.uint16)
    for rows, values in _resized_bands(maps, size_hw):
        _keep_best(best[rows], label_map[rows], values, classes)
    label_map[best < threshold] = len(probabilities)
    return label_map


def may_win(highest: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Which classes can be the most probable one of a pixel, ascending, of the highest probability of each anywhere.

    Pixels are means of patches, so that none has more of a class than its highest, and the others share the rest: of n
    classes that are left one has 1/n of it. The least are dropped as long as they are below that.
    """
    order = np.argsort(highest, kind="stable")
    dropped = 0.0
    for n, value in enumerate(highest[order].tolist()):
        dropped += value
        if value * (len(order) - n - 1) >= 1 - dropped:
            return np.sort(order[n:])
    return np.sort(order)


def _at_most(image: NDArray[np.uint8], longest_px: int) -> NDArray[np.uint8]:
    """The photo [H, W, 3], made smaller where a side is longer."""
    sides, longest = image.shape[:2], max(image.shape[:2])
    if longest <= longest_px:
        return image
    height, width = (max(1, round(side * longest_px / longest)) for side in sides)
    return resize(image, (height, width), Image.Resampling.BOX)


def _class_chunks(classes: NDArray[np.int64], size_hw: tuple[int, int]) -> Iterator[NDArray[np.int64]]:
    """The classes in pieces whose logits of 64 rows of pixels fit CHUNK_BYTES."""
    step = max(1, CHUNK_BYTES // (4 * size_hw[1] * min(64, size_hw[0])))
    for start in range(0, len(classes), step):
        yield classes[start : start + step]


def _resized_bands(maps: Array, size_hw: tuple[int, int]) -> Iterator[tuple[slice, Array]]:
    """Bands of rows (slice, float32 [c, band, W]) of patch maps [c, h, w] resized bilinearly to [c, H, W]."""
    (count, h, w), (height, width) = maps.shape, size_hw
    columns = maps @ bilinear_matrix(width, w).T
    rows = bilinear_matrix(height, h)
    band = max(1, CHUNK_BYTES // (4 * count * width))
    for start in range(0, height, band):
        here = slice(start, min(height, start + band))
        yield here, rows[here] @ columns


def _keep_best(best: Array, label_map: LabelMap, logits: Array, classes: NDArray[np.int64]) -> None:
    """Update best [b, W] and label_map [b, W] in place where one of these classes' logits [c, b, W] is higher."""
    for index, plane in zip(classes, logits, strict=True):
        higher = plane > best
        np.copyto(best, plane, where=higher)
        np.copyto(label_map, np.uint16(index), where=higher)
