"""Label maps as polygons: regions of one class and their borders, along the edges of pixels, nothing smoothed.

A polygon has no holes. Painted in the order given here, larger ones first, polygons give the label map back exactly:
what lies in a hole of one is painted over it later, unlabelled pixels as a region of their own.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Ids = NDArray[np.int32]
Ring = NDArray[np.int64]
NO_CLASS = -1
_DIAGONALS_TOO = np.ones((3, 3), bool)


class Region(NamedTuple):
    """Pixels of one class that hang together by their sides."""

    value: int
    """The class; NO_CLASS for unlabelled pixels in another region's hole."""
    ring_xy: Ring
    """int64 [n, 2] corners of the outer border in px, clockwise as seen; (0, 0) is the photo's upper left corner."""
    holes: int
    confidence: float | None
    """Mean of the region's pixels, 0 to 1."""


class Outlines(NamedTuple):
    """All polygons of a photo, in the order to paint them."""

    regions: list[Region]
    unlabelled_px: int
    """Unlabelled pixels in holes: those that a format without NO_CLASS gives to the class around them."""

    @property
    def with_holes(self) -> int:
        """How many polygons cover what is not theirs."""
        return sum(region.holes > 0 for region in self.regions)


def outlines(label_map: NDArray[np.int32], confidence: NDArray[np.uint8] | None = None) -> Outlines:
    """Polygons of label_map [H, W], class or -1; confidence: [H, W], 255 = certain.

    Of unlabelled pixels, only regions in holes are there.
    """
    ids, values = number_regions(label_map)
    rings = [(number, ring, signed_area(ring)) for number, ring in trace(ids)]
    outer = {number: ring for number, ring, area in rings if area > 0}
    areas = {number: area for number, _, area in rings if area > 0}
    holes = np.bincount([number for number, _, area in rings if area < 0], minlength=len(values) + 1)
    of_classes = np.flatnonzero((holes[1:] > 0) & (values >= 0)) + 1
    covered = in_holes(ids, of_classes) & (label_map < 0)
    numbers = [number for number in outer if values[number - 1] >= 0] + np.unique(ids[covered]).tolist()
    numbers.sort(key=lambda number: -areas[number])
    means = [None] * len(numbers) if confidence is None else (ndimage.mean(confidence, ids, numbers) / 255).tolist()
    regions = [
        Region(int(values[number - 1]), outer[number], int(holes[number]), mean)
        for number, mean in zip(numbers, means, strict=True)
    ]
    return Outlines(regions, int(covered.sum()))


def number_regions(label_map: NDArray[np.int32]) -> tuple[Ids, NDArray[np.int32]]:
    """(ids int32 [H, W] from 1 on, values int32 [n]): the region of each pixel, and the value of each region."""
    ids = np.zeros(label_map.shape, np.int32)
    values: list[int] = []
    for value, box in enumerate(ndimage.find_objects(label_map - label_map.min() + 1), int(label_map.min())):
        if box is not None:
            numbered, count = ndimage.label(label_map[box] == value)
            np.copyto(ids[box], numbered + len(values), where=numbered > 0)
            values += [value] * count
    return ids, np.array(values, np.int32)


def in_holes(ids: Ids, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool [H, W]: pixels in a hole of one of the regions `numbers`."""
    inside = np.zeros(ids.shape, bool)
    boxes = ndimage.find_objects(ids)
    for number in numbers:
        own = ids[boxes[number - 1]] == number
        inside[boxes[number - 1]] |= ndimage.binary_fill_holes(own, _DIAGONALS_TOO) & ~own
    return inside


def signed_area(ring: Ring) -> float:
    """Area of a ring in px, above 0 for one that runs clockwise as seen: an outer border (the shoelace formula)."""
    x, y = ring.T
    return float(x[:-1] @ y[1:] - y[:-1] @ x[1:] + x[-1] * y[0] - y[-1] * x[0]) / 2


def trace(ids: Ids) -> list[tuple[int, Ring]]:
    """(region, ring) for every border of every region: the outer ones clockwise, those of holes the other way round.

    An edge of a pixel is walked with its region on the right. Where two pixels of a region meet at a corner alone the
    walk keeps to its own pixel, so that regions hang together by sides and what is around them by corners too.
    """
    corners = _corners(np.pad(ids, 1))
    successor, region = corners.successor.tolist(), corners.region.tolist()
    done = bytearray(len(successor))
    rings = []
    for start in range(len(successor)):
        ring, edge = [], start
        while not done[edge]:
            done[edge] = 1
            ring.append(edge)
            edge = successor[edge]
        if ring:
            rings.append((region[start], corners.xy[ring]))
    return rings


class _Corners(NamedTuple):
    """Where borders turn: the region on the right, the place int64 [n, 2], and which corner follows."""

    region: NDArray[np.int32]
    xy: Ring
    successor: NDArray[np.int64]


class _Turns(NamedTuple):
    """Ends of the straight runs of one heading: their pixels, places in the flat map, and which edges come next."""

    pixel: NDArray[np.int64]
    next_pixel: NDArray[np.int64]
    next_heading: NDArray[np.int64]


def _corners(padded: Ids) -> _Corners:
    """Of ids with a border of zeros. Headings are 0 east, 1 south, 2 west, 3 north."""
    height, width = padded.shape
    flat = padded.ravel()
    steps = (1, width, -1, -width)
    turns = [_turns(flat, heading, steps) for heading in range(4)]
    first = np.cumsum([0, *(len(turn.pixel) for turn in turns)])

    def along(pixel: NDArray[np.int64], heading: int) -> NDArray[np.int64]:
        """A number that grows by one a step east, or south."""
        return pixel if heading % 2 == 0 else pixel % width * height + pixel // width

    def ends(pixel: NDArray[np.int64], heading: int) -> NDArray[np.int64]:
        """The corners at which walks that start with these edges come to a turn."""
        keys = along(turns[heading].pixel, heading)
        order = np.argsort(keys)
        place = along(pixel, heading)
        found = np.searchsorted(keys[order], place) if heading < 2 else np.searchsorted(keys[order], place, "right") - 1
        return np.asarray(first[heading] + order[found])

    pixel, next_pixel, next_heading = (np.concatenate(parts) for parts in zip(*turns, strict=True))
    successor = np.zeros(len(pixel), np.int64)
    for heading in range(4):
        here = next_heading == heading
        successor[here] = ends(next_pixel[here], heading)
    headings = np.repeat(np.arange(4), np.diff(first))
    x = pixel % width - 1 + (headings < 2)
    y = pixel // width - 1 + ((headings == 1) | (headings == 2))
    return _Corners(flat[pixel], np.stack([x, y], 1), successor)


def _turns(flat: NDArray[Any], heading: int, steps: tuple[int, ...]) -> _Turns:
    ahead, leftward = steps[heading], steps[heading - 1]
    pixel = np.flatnonzero((flat != np.roll(flat, -leftward)) & (flat > 0))
    own = flat[pixel]
    blocked = flat[pixel + ahead] != own
    to_left = ~blocked & (flat[pixel + ahead + leftward] == own)
    turning = blocked | to_left
    pixel, to_left = pixel[turning], to_left[turning]
    return _Turns(
        pixel,
        np.where(to_left, pixel + ahead + leftward, pixel),
        np.where(to_left, heading - 1, heading + 1) % 4,
    )
