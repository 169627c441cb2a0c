"""Colours of the classes, and photos tinted by them.

Class i has colour i, whatever the list of words, distinct for colour-blind eyes too.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

Palette = NDArray[np.uint8]

# Linear RGB as seen without the green or the red cones (Viénot, Brettel and Mollon 1999), and as it is.
_EYES = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
        [[0.10889, 0.89111, 0], [0.10889, 0.89111, 0], [0.00447, -0.00447, 1]],
    ]
)
# The set of Okabe and Ito (2008): orange, sky blue, green, yellow, blue, vermilion, purple.
_FIRST = [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)]
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


@cache
def palette(count: int = 256) -> Palette:
    """Colours uint8 [count, 3] RGB; a longer palette starts with the shorter one.

    The first seven are Okabe and Ito's. Each next colour is the one whose nearest earlier colour is farthest in CIE
    Lab, for the worst of three kinds of eyes and half as much for normal ones. No class is black or white.
    """
    levels = np.linspace(0, 255, 9).round()
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    colours = np.concatenate([np.array(_FIRST, np.float64), grid])
    lab = np.stack([_lab(colours, eye) for eye in _EYES])
    nearest = np.full(len(colours), np.inf)

    def take(index: int) -> None:
        distances = np.linalg.norm(lab - lab[:, index : index + 1], axis=-1)
        np.minimum(nearest, distances.min(0) + distances[0] / 2, out=nearest)

    take(len(_FIRST))
    take(len(colours) - 1)
    chosen: list[int] = []
    while len(chosen) < count:
        chosen.append(len(chosen) if len(chosen) < len(_FIRST) else int(nearest.argmax()))
        take(chosen[-1])
    return colours[chosen].astype(np.uint8)


def _lab(rgb: NDArray[np.float64], eye: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB [n, 3] in 0..255 as an eye (matrix of linear RGB) sees it, in CIE Lab [n, 3]."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ eye.T, 0, 1) @ _XYZ.T / _XYZ.sum(1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], -1)


def overlay(image: NDArray[np.uint8], label_map: NDArray[np.integer], colours: Palette) -> NDArray[np.uint8]:
    """The photo uint8 [H, W, 3] tinted by the colours [C, 3] of label_map [H, W], the borders of regions drawn dark."""
    tinted = image * 0.45 + colours[label_map] * 0.55
    border = np.zeros(label_map.shape, bool)
    border[1:] |= label_map[1:] != label_map[:-1]
    border[:, 1:] |= label_map[:, 1:] != label_map[:, :-1]
    tinted[border] *= 0.3
    rounded: NDArray[np.uint8] = tinted.astype(np.uint8)
    return rounded
