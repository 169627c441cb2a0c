"""Silhouettes of the pocket world's things: exact, hard-edged, in the thing's own frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Coordinates = NDArray[np.floating[Any]]
Silhouette = NDArray[np.bool_]


def _ball(u: Coordinates, v: Coordinates) -> Silhouette:
    return u * u + v * v < 0.92


def _star(u: Coordinates, v: Coordinates) -> Silhouette:
    """Five plump points: in polar coordinates a straight edge between the radii 1.25 and 0.66 of each half sector."""
    half = np.float32(np.pi / 5)
    angle = np.abs((np.arctan2(u, -v) + half) % (2 * half) - half)
    radius = np.hypot(u, v)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    inner_x, inner_y = 0.66 * np.cos(half), 0.66 * np.sin(half)
    return np.asarray((1.25 - x) * inner_y - y * (1.25 - inner_x) > 0)


def _ring(u: Coordinates, v: Coordinates) -> Silhouette:
    square = u * u + v * v
    return (square < 1.1) & (square > 0.25)


def _box(u: Coordinates, v: Coordinates) -> Silhouette:
    return (np.abs(u) < 0.9) & (np.abs(v) < 0.78)


def _flag(u: Coordinates, v: Coordinates) -> Silhouette:
    """A pole on the left, a waving cloth at its upper part."""
    wave = v + 0.12 * np.sin(3.2 * u)
    cloth = (u > -0.95) & (u < 1.1) & (wave > -1) & (wave < 0.35)
    return np.asarray(cloth | ((u > -1.08) & (u < -0.92) & (v > -1.05) & (v < 1.1)))


def _house(u: Coordinates, v: Coordinates) -> Silhouette:
    body = (np.abs(u) < 0.8) & (v < 0.95) & (v >= -0.2)
    roof = (v < -0.2) & (np.abs(u) < 1.05 * (v + 1.1) / 0.9)
    return body | roof


SHAPES: dict[str, Callable[[Coordinates, Coordinates], Silhouette]] = {
    "ball": _ball, "star": _star, "ring": _ring, "box": _box, "flag": _flag, "house": _house,
}  # fmt: skip
REACH = 1.55  # radii from the centre that no silhouette passes
