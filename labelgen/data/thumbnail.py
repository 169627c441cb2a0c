"""A photo at 8 x 8 px, kept in its row: whether a picture file still is the photo that was encoded.

Means over areas, compared with a tolerance: another decoder's rounding is the same photo, another photo of the same
name and size is not.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelgen.core.geometry import HW

SIDE = 8
_TOLERANCE = 4


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [8, 8, 3] means of a photo uint8 [H, W, 3]."""
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX))


def is_same(image: NDArray[np.uint8], size_hw: HW, known: NDArray[np.uint8] | None) -> bool:
    """Whether uint8 [H, W, 3] is the photo of that size and thumbnail; None: by its size alone."""
    if image.shape[:2] != size_hw:
        return False
    return known is None or int(np.abs(thumbnail(image).astype(np.int64) - known).max()) <= _TOLERANCE
