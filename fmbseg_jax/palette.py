"""Photos tinted by the colours of their classes."""

import numpy as np
from numpy.typing import NDArray

from labelgen.palette import Palette, palette

__all__ = ["Palette", "overlay", "palette"]


def overlay(image: NDArray[np.uint8], label_map: NDArray[np.integer], colours: Palette) -> NDArray[np.uint8]:
    """The photo uint8 [H, W, 3] tinted by the colours [C, 3] of label_map [H, W], the borders of regions drawn dark."""
    tinted = image * 0.45 + colours[label_map] * 0.55
    border = np.zeros(label_map.shape, bool)
    border[1:] |= label_map[1:] != label_map[:-1]
    border[:, 1:] |= label_map[:, 1:] != label_map[:, :-1]
    tinted[border] *= 0.3
    rounded: NDArray[np.uint8] = tinted.astype(np.uint8)
    return rounded
