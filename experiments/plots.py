"""Plots as SVG, written by hand: lines over x, the mean with the seeds' spread as a band."""

import math
import shutil
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from labelgen.core.files import write_atomic

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 60, 150, 16, 46
COLOURS = ("#1f6f8b", "#d1495b", "#66a182", "#edae49", "#7b5ea7", "#555555")


def write_plots(claims: Mapping[str, Any], pictures: Path, folder: Path) -> None:
    """FOLDER/NAME.svg of every plot, and the pictures that claims made."""
    for claim in claims["claims"].values():
        for plot in claim["plots"]:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / f"{plot['name']}.svg", lines(plot).encode())
        for name in claim["pictures"]:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pictures / name, folder / name)


def lines(plot: Mapping[str, Any]) -> str:
    """The SVG of a plot of claims.json."""
    xs = [math.log(x) if plot["log_x"] else float(x) for x in plot["x"]]
    every = [v for seeds in plot["series"].values() for values in seeds for v in values if v is not None]
    low, high = bounds(every)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - xs[0]) / ((xs[-1] - xs[0]) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = axes(plot, xs, low, high, place)
    for i, (name, seeds) in enumerate(plot["series"].items()):
        parts += series(name, np.array(seeds, float), xs, COLOURS[i % len(COLOURS)], TOP + 12 + 20 * i, place)
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *parts, "</svg>"]) + "\n"


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """Round limits around the values."""
    low, high = min(values), max(values)
    step = 10 ** math.floor(math.log10(max(high - low, 1e-3)))
    return math.floor(low / step) * step, math.ceil(high / step + 1e-9) * step


def axes(plot: Mapping[str, Any], xs: Sequence[float], low: float, high: float, place: Any) -> list[str]:
    """Grid lines with their figures, and the names of both axes."""
    parts = []
    for y in np.linspace(low, high, 6):
        (x0, at), (x1, _) = place(xs[0], y), place(xs[-1], y)
        parts.append(f'<path d="M{x0:.1f} {at:.1f}H{x1:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x0 - 6:.1f}" y="{at + 4:.1f}" text-anchor="end">{y:.3g}</text>')
    for x, shown in zip(xs, plot["x"], strict=True):
        across, down = place(x, low)
        parts.append(f'<text x="{across:.1f}" y="{down + 16:.1f}" text-anchor="middle">{shown:g}</text>')
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(plot["x_name"])}</text>')
    parts.append(
        f'<text transform="translate(14 {TOP + (HEIGHT - TOP - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(plot['y_name'])}</text>"
    )
    return parts


def series(name: str, seeds: Any, xs: Sequence[float], colour: str, legend_y: float, place: Any) -> list[str]:
    """One line: the mean, a band of one standard deviation, dots, its name at the right."""
    mean = np.nanmean(seeds, 0)
    spread = np.nanstd(seeds, 0, ddof=1) if len(seeds) > 1 else np.zeros_like(mean)
    upper, lower = ([place(x, y) for x, y in zip(xs, mean + sign * spread, strict=True)] for sign in (1, -1))
    points = [place(x, y) for x, y in zip(xs, mean, strict=True)]
    parts = [f'<polygon points="{joined([*upper, *reversed(lower)])}" fill="{colour}" opacity=".2"/>']
    parts.append(f'<polyline points="{joined(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    parts.append(f'<text x="{WIDTH - RIGHT + 10}" y="{legend_y}" fill="{colour}">{escape(name)}</text>')
    return parts


def joined(points: Sequence[tuple[float, float]]) -> str:
    """`x,y x,y ...`."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
