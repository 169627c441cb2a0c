"""What a region looks like, without a class: texture statistics, silhouettes, and their clusters.

The pocket DINOv2 learns to tell from a patch which cluster of textures and which cluster of silhouettes its region
belongs to. Regions are the generator's (the pocket SAM's masks would do); classes are never read. Textures are
described by the energies of a Gabor bank, invariant to rotation, contrast and mean. Two renderings of one layout show
what in them is style: the differences between twins are whitened away before clustering.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]
_ORIENTATIONS = 8
_BANDS = ((1, 0.5), (1, 0.33), (2, 0.44), (2, 0.29), (4, 0.39), (4, 0.26))
"""(downsampling, cycles a pixel there): six octave-and-a-half bands."""
_SMALLEST_PX = 150
RIDGE = 0.02


def _gabor(frequency: float) -> Tensor:
    """Cosine and sine filters float32 [2 orientations, 1, r, r], no response to a constant."""
    sigma = 0.45 / frequency
    radius = int(np.ceil(2.5 * sigma))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    window = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    window /= window.sum()
    filters = []
    for angle in np.pi * np.arange(_ORIENTATIONS) / _ORIENTATIONS:
        phase = 2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle))
        filters += [window * (wave - (window * wave).sum()) for wave in (np.cos(phase), np.sin(phase))]
    return torch.tensor(np.stack(filters)[:, None], dtype=torch.float32)


_BANK = [(step, _gabor(frequency)) for step, frequency in _BANDS]
_ANGLES = 2 * np.pi * np.arange(_ORIENTATIONS) / _ORIENTATIONS
_HARMONICS = torch.tensor(
    np.stack([np.cos(_ANGLES), np.sin(_ANGLES), np.cos(2 * _ANGLES), np.sin(2 * _ANGLES)]), dtype=torch.float32
)


def textures(photo: NDArray[np.uint8], regions: NDArray[np.uint16]) -> Floats:
    """Texture statistics [R, 38] of the regions 0 … R-1 of a photo uint8 [H, W, 3]."""
    grey = torch.from_numpy(photo.astype(np.float32)).mean(-1) / 255
    weights = _interiors(regions)
    flat = weights.flatten(1) / weights.sum((1, 2)).clamp(min=1)[:, None]
    centred = grey.flatten() - (flat @ grey.flatten())[:, None]
    spread = (flat * centred**2).sum(1, keepdim=True).sqrt() + 1e-3
    tails = [(flat * (centred / spread) ** 4).sum(1).log(), (flat * (centred / spread) ** 3).sum(1).abs()]
    bands = torch.stack([_band(grey, weights, step, bank) for step, bank in _BANK], 1)
    bands[..., 0] -= bands[..., 0].mean(1, keepdim=True)  # contrast is style
    return torch.cat([torch.stack(tails, 1), bands.flatten(1)], 1).double().numpy()


def _interiors(regions: NDArray[np.uint16]) -> Tensor:
    """float32 [R, H, W]: each region without its rim of two pixels, unless little would be left."""
    count = int(regions.max()) + 1
    whole = F.one_hot(torch.from_numpy(regions.astype(np.int64)), count).permute(2, 0, 1).float()
    inner = -F.max_pool2d(-whole[None], 5, 1, 2)[0]
    return torch.where(inner.sum((1, 2), keepdim=True) > 30, inner, whole)


def _band(grey: Tensor, weights: Tensor, step: int, bank: Tensor) -> Tensor:
    """[R, 6] of one frequency band: mean and spread of the log energy; how much one or two orientations prevail,
    at each pixel and over the region."""
    small = F.avg_pool2d(grey[None, None], step)
    inside = F.avg_pool2d(weights[None], step)[0].flatten(1)
    inside = inside / inside.sum(1, keepdim=True).clamp(min=1e-6)
    radius = bank.shape[-1] // 2
    answers = F.conv2d(F.pad(small, (radius,) * 4, mode="reflect"), bank)[0].flatten(1)
    energy = answers[0::2] ** 2 + answers[1::2] ** 2
    total = energy.sum(0) + 1e-6
    log = total.log()
    mean = inside @ log
    deviation = (inside @ log**2 - mean**2).clamp(min=0).sqrt()
    harmonics = _HARMONICS @ energy
    one, two = harmonics[:2].norm(dim=0), harmonics[2:].norm(dim=0)
    region = harmonics @ inside.T / (inside @ total)
    columns = [mean, deviation, inside @ (one / total), inside @ (two / total)]
    return torch.stack([*columns, region[:2].norm(dim=0), region[2:].norm(dim=0)], 1)


def silhouettes(regions: NDArray[np.uint16]) -> Floats:
    """Shape statistics [R, 36] of the regions: angular harmonics 0 … 8 of the pixels in four rings about the centre of
    gravity, in units of the region's own size; NaN for a region that the frame cuts or that is tiny."""
    count = int(regions.max()) + 1
    rows = np.full((count, 36), np.nan)
    border = set(np.concatenate([regions[[0, -1]].ravel(), regions[:, [0, -1]].ravel()]).tolist())
    for region in set(range(count)) - border:
        y, x = np.nonzero(regions == region)
        if len(y) < _SMALLEST_PX:
            continue
        offset = (x - x.mean()) + 1j * (y - y.mean())
        ring = np.minimum((np.abs(offset) / np.sqrt(len(y)) / 0.25).astype(int), 3)
        turns = np.exp(1j * np.outer(np.arange(9), np.angle(offset)))
        rows[region] = np.abs([(turns * (ring == k)).sum(1) for k in range(4)]).ravel() / len(y)
    return rows


def large_enough(regions: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """bool [R]: regions whose statistics mean something."""
    return np.bincount(regions.ravel()) >= _SMALLEST_PX


@dataclass(frozen=True)
class Clusters:
    """Linear map [d, k] of standardised statistics and centres [K, k]; `assign` gives the nearest."""

    mean: Floats
    linear: Floats
    centres: Floats

    def assign(self, rows: Floats) -> NDArray[np.int64]:
        """Cluster of each row of statistics [n, d]: int64 [n]."""
        return _nearest((rows - self.mean) @ self.linear, self.centres)


def cluster(first: Floats, second: Floats, count: int, directions: int, seed: int = 0) -> Clusters:
    """k-means over statistics [n, d] of the same regions in two renderings.

    The twins' difference is whitened (with a ridge), then the directions of largest variance are kept.
    """
    pooled = np.concatenate([first, second])
    mean, deviation = pooled.mean(0), pooled.std(0) + 1e-6
    difference = (first - second) / deviation / np.sqrt(2)
    within = difference.T @ difference / len(difference)
    values, vectors = np.linalg.eigh(within + (RIDGE * np.trace(within) / len(within) + 1e-9) * np.eye(len(within)))
    whiten = vectors / np.sqrt(values) / deviation[:, None]
    signal = np.linalg.eigh(np.cov(((first + second) / 2 - mean) @ whiten, rowvar=False))[1][:, ::-1][:, :directions]
    linear = whiten @ signal
    centres = _kmeans((pooled - mean) @ linear, count, seed)
    return Clusters(mean, linear, centres)


def _kmeans(rows: Floats, count: int, seed: int, starts: int = 4, rounds: int = 40) -> Floats:
    """Centres [count, k] of the best of several starts, each seeded by k-means++."""
    rng = np.random.default_rng(seed)
    best, best_cost = rows[:count], np.inf
    for _ in range(starts):
        centres = rows[rng.choice(len(rows), 1)]
        nearest = ((rows - centres[0]) ** 2).sum(1)
        for _ in range(count - 1):
            new = rows[rng.choice(len(rows), p=nearest / nearest.sum())]
            centres = np.concatenate([centres, new[None]])
            nearest = np.minimum(nearest, ((rows - new) ** 2).sum(1))
        for _ in range(rounds):
            of = _nearest(rows, centres)
            centres = np.stack([rows[of == k].mean(0) if (of == k).any() else centres[k] for k in range(count)])
        cost = ((rows - centres[_nearest(rows, centres)]) ** 2).sum()
        if cost < best_cost:
            best, best_cost = centres, cost
    return best


def _nearest(rows: Floats, centres: Floats) -> NDArray[np.int64]:
    return np.asarray(np.argmin((centres**2).sum(1) - 2 * rows @ centres.T, 1))
