"""Grain of the pocket world's classes: tone maps in [0, 1] over pixel coordinates.

A stuff texture takes (rng, u, v), a thing pattern (rng, u, v, radius_px): u, v float32 [H, W] coordinates in px in the
texture's own frame (rotated by the caller). Periods are in px and do not depend on a thing's size. Tones carry no
colour: two colours drawn freely are mixed by the tone, so the grain alone tells the classes apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tone = NDArray[np.floating[Any]]  # float32 throughout
Rng = np.random.Generator


def smooth_noise(rng: Rng, size_hw: tuple[int, int], knots: int) -> Tone:
    """Smooth noise float32 [H, W], zero mean, about unit variance: a grid of knots x knots values, cosine-blended."""
    height, width = size_hw
    grid = rng.standard_normal((knots, knots)).astype(np.float32)
    return _blend(height, knots) @ grid @ _blend(width, knots).T * np.float32(1.5)


def _blend(length: int, knots: int) -> Tone:
    """Interpolation matrix float32 [length, knots]: each row blends the two nearest knots."""
    position = np.linspace(0, knots - 1, length, dtype=np.float32)
    weight = np.clip(1 - np.abs(position[:, None] - np.arange(knots, dtype=np.float32)), 0, 1)
    return np.asarray(weight * weight * (3 - 2 * weight))


def _cells(rng: Rng, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Tone:
    """A random value in [0, 1) for each integer cell; float32, the shape of rows."""
    table = rng.random((64, 64), dtype=np.float32)
    return np.asarray(table[rows & 63, columns & 63])


def _floor(values: Tone) -> NDArray[np.int64]:
    return np.floor(values).astype(np.int64)


def grass(rng: Rng, u: Tone, v: Tone) -> Tone:
    """Short blades side by side, each brighter towards its tip."""
    column = _floor(u / 2.6)
    along = v / 12 + rng.random(64, dtype=np.float32)[column & 63]
    blade = _floor(along)
    return np.asarray((0.35 + 0.65 * _cells(rng, blade, column)) * (along - blade))


def sand(rng: Rng, u: Tone, v: Tone) -> Tone:
    """Speckle: sparse grains of two sizes on an even ground."""
    fine = _cells(rng, _floor(u / 1.7), _floor(v / 1.7))
    coarse = _cells(rng, _floor(u / 3.1), _floor(v / 3.1))
    return np.float32(0.35) + 0.65 * (fine > 0.86) - 0.35 * (coarse > 0.9)


def water(rng: Rng, u: Tone, v: Tone) -> Tone:
    """Warped ripples with soft crests."""
    bend = smooth_noise(rng, u.shape, 7)
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (v / 15 + 0.45 * bend))
    return np.asarray(wave * np.clip(0.75 + 0.2 * smooth_noise(rng, u.shape, 6), 0.3, 1))


def brick(rng: Rng, u: Tone, v: Tone) -> Tone:
    """Courses of bricks, mortar between them, each brick of its own tone."""
    row = _floor(v / 12)
    across = u / 27 + 0.5 * (row & 1)
    column = _floor(across)
    mortar = (v / 12 - row < 0.2) | (across - column < 0.09)
    return np.where(mortar, np.float32(1), 0.4 * _cells(rng, row, column))


def sky(rng: Rng, u: Tone, v: Tone) -> Tone:
    """Clouds: smooth at every point, no fine grain."""
    tone = sum(smooth_noise(rng, u.shape, knots) / np.float32(knots) for knots in (3, 5, 9))
    return np.asarray(np.clip(0.5 + 1.1 * np.asarray(tone, np.float32), 0, 1))


def wood(rng: Rng, u: Tone, v: Tone) -> Tone:
    """Planks with dark seams and growth rings around a knot in each."""
    plank = _floor(u / 30)
    across = u - 30 * plank - 15
    knot = 110 * rng.random(64, dtype=np.float32)[plank & 63]
    along = (v + knot) % 110 - 55
    rings = np.hypot(across, 0.2 * along) + smooth_noise(rng, u.shape, 9)
    early = (rings / 5 % 1) ** 2  # each ring darkens slowly and ends sharply
    return np.where(np.abs(across) > 13.4, np.float32(0), 0.95 - 0.6 * early)


def dots(rng: Rng, u: Tone, v: Tone, radius_px: float) -> Tone:
    """Polka dots on a hexagonal lattice."""
    row = _floor(v / 12)
    x = (u + 7 * (row & 1)) % 14 - 7
    y = v - 12 * row - 6
    return np.asarray((x * x + y * y < 20).astype(np.float32))


def chevrons(rng: Rng, u: Tone, v: Tone, radius_px: float) -> Tone:
    """Zigzag bands."""
    fold = np.abs(u % 18 - 9)
    return ((v + fold) % 13 < 6.5).astype(np.float32)


def dashes(rng: Rng, u: Tone, v: Tone, radius_px: float) -> Tone:
    """Sectors around the centre, about 11 px long each at three quarters of the radius."""
    pairs = max(4, round(2 * np.pi * 0.75 * radius_px / 22))
    return ((np.arctan2(v, u) * pairs / (2 * np.pi)) % 1 < 0.5).astype(np.float32)


def checks(rng: Rng, u: Tone, v: Tone, radius_px: float) -> Tone:
    """A chessboard."""
    return ((_floor(u / 9) + _floor(v / 9)) & 1).astype(np.float32)


def stripes(rng: Rng, u: Tone, v: Tone, radius_px: float) -> Tone:
    """Straight hard-edged bands."""
    return (v % 14 < 7).astype(np.float32)


def windows(rng: Rng, u: Tone, v: Tone, radius_px: float) -> Tone:
    """Square panes with a cross in each; above the eaves (v < -0.2 radius) rows of tiles."""
    x, y = np.abs(u % 19 - 9.5), np.abs((v + 4) % 19 - 9.5)
    panes = (np.maximum(x, y) < 6.5) & (np.minimum(x, y) > 1)
    tiles = (v % 6 < 2) | ((u + 4 * (_floor(v / 6) & 1)) % 8 < 1.5)
    return np.where(v < -0.2 * radius_px, 0.8 * tiles, panes).astype(np.float32)


def plain(rng: Rng, u: Tone, v: Tone, radius_px: float) -> Tone:
    """One colour."""
    return np.zeros_like(u)


STUFF_TEXTURES: dict[str, Callable[[Rng, Tone, Tone], Tone]] = {
    "grass": grass, "sand": sand, "water": water, "brick": brick, "sky": sky, "wood": wood,
}  # fmt: skip
THING_PATTERNS: dict[str, Callable[[Rng, Tone, Tone, float], Tone]] = {
    "ball": dots, "star": chevrons, "ring": dashes, "box": checks, "flag": stripes, "house": windows, "": plain,
}  # fmt: skip


def paint(rng: np.random.Generator, tone: Tone) -> Tone:
    """Mixes two free colours, of clearly different lightness in either order, by a tone [H, W] -> float32 [H, W, 3]."""
    dark, light = rng.uniform(0.08, 0.4), rng.uniform(0.6, 0.95)
    colours = [np.clip(level + rng.uniform(-0.3, 0.3, 3), 0, 1) for level in rng.permutation([dark, light])]
    first, second = (np.asarray(colour, np.float32) for colour in colours)
    return first + tone[..., None] * (second - first)


def light(rng: np.random.Generator, size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """A factor for each pixel, float32 [H, W], falling off in one direction."""
    angle, strength = rng.uniform(-np.pi, np.pi), rng.uniform(0, 0.3)
    y, x = np.ogrid[-1 : 1 : size_hw[0] * 1j, -1 : 1 : size_hw[1] * 1j]
    return np.asarray(rng.uniform(0.8, 1.1) * (1 + strength * (x * np.sin(angle) + y * np.cos(angle))), np.float32)
