"""How much of each patch lies inside each mask, from the run lengths alone: no mask is unpacked."""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from labelgen.core.geometry import area_matrix
from labelgen.data.rle import MaskSet

Sums = NDArray[np.float64]


def coverage(masks: MaskSet, grid_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Share of each patch inside each mask, float32 [M, h, w]; the grid h x w covers the photo exactly.

    With F(t) the share of the patch's area that the first t pixels of the photo have, row by row, a run of ones from
    pixel s to e covers F(e) - F(s) of it. F is the whole rows before t, plus the beginning of t's row; both are sums of
    few products, so that the cost is that of the runs, not of the pixels.
    """
    height, width = masks.size_hw
    count, (h, w) = len(masks), grid_hw
    mask, pixel, sign = _ends(masks)
    y, x = np.divmod(pixel, width)
    row_shares = np.pad(area_matrix(h, height).T.astype(np.float64), ((0, 1), (0, 0)))  # [H + 1, h]
    whole = csr_matrix((sign, (mask, y)), (count, height + 1)) @ _before(row_shares[:-1])
    within = csr_matrix((sign, (mask * (height + 1) + y, x)), (count * (height + 1), width + 1))
    begun = row_shares.T @ (within @ _before(area_matrix(w, width).T)).reshape(count, height + 1, w)
    return np.asarray(whole[:, :, None] + begun, np.float32)


def _before(shares: NDArray[np.floating]) -> Sums:
    """[n + 1, cells]: the sum of the rows of [n, cells] before each place."""
    return np.pad(np.cumsum(shares, 0, dtype=np.float64), ((1, 0), (0, 0)))


def _ends(masks: MaskSet) -> tuple[NDArray[np.int64], NDArray[np.int64], Sums]:
    """Mask, pixel and sign of the ends of all runs: 1 where ones end, -1 where they begin."""
    counts = np.diff(masks.offsets)
    mask = np.repeat(np.arange(len(masks)), counts)
    within = np.arange(len(mask)) - masks.offsets[:-1][mask]
    pixels = masks.size_hw[0] * masks.size_hw[1]
    pixel = np.cumsum(masks.runs, dtype=np.int64) - mask * pixels
    sign = np.where(within % 2, 1.0, -1.0)
    sign[(pixel == pixels) & (sign < 0)] = 0  # the photo ends with zeros: nothing begins
    return mask, pixel, sign
