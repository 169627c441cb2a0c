"""What the pocket DINOv2 is trained on: layouts drawn several times, and what each patch's region looks like.

A drawing is resized as the encoder is fed: longest side 192 px, whole patches of 8 px. The drawings of a layout share
the clusters of their regions (pocket.regions); classes are never read.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelgen.core.geometry import view_grid
from pocket.regions import cluster, large_enough, silhouettes, textures
from pocket.scenes import Layout, draw_layout, render, scene_rng

SIZE_PX, PATCH_PX = 192, 8
GRID = SIZE_PX // PATCH_PX
SEED = 404
DRAWINGS = 4
MOST_REGIONS = 8
NONE = -1
TEXTURES, SILHOUETTES = 40, 24
"""Clusters of either kind."""


@dataclass(frozen=True)
class Twins:
    """n layouts drawn DRAWINGS times each.

    photos uint8 [n, DRAWINGS, 192, 192, 3] RGB, zeros below and right of the grid; shares float16 [n, 8, 24, 24] of
    each region in each patch, zero outside the grid; grids int64 [n, 2] patches h, w; texture, silhouette int64
    [n, 8] cluster of each region, NONE where it is too small, or cut by the frame.
    """

    photos: NDArray[np.uint8]
    shares: NDArray[np.float16]
    grids: NDArray[np.int64]
    texture: NDArray[np.int64]
    silhouette: NDArray[np.int64]


def fit(photo: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """(picture uint8 [192, 192, 3], grid h, w): the photo as the encoder sees it, in the upper left corner."""
    grid, (height, width) = view_grid((photo.shape[0], photo.shape[1]), SIZE_PX, PATCH_PX)
    square = np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)
    square[:height, :width] = np.asarray(Image.fromarray(photo).resize((width, height), Image.Resampling.BICUBIC))
    return square, grid


def patch_shares(regions: NDArray[np.uint16], grid_hw: tuple[int, int]) -> NDArray[np.float16]:
    """Share of each region in each patch, float16 [8, 24, 24]."""
    size = grid_hw[1] * PATCH_PX, grid_hw[0] * PATCH_PX
    resized = np.asarray(Image.fromarray(regions.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
    masks = resized == np.arange(MOST_REGIONS)[:, None, None]
    shares = np.zeros((MOST_REGIONS, GRID, GRID), np.float16)
    patches = masks.reshape(MOST_REGIONS, grid_hw[0], PATCH_PX, grid_hw[1], PATCH_PX)
    shares[:, : grid_hw[0], : grid_hw[1]] = patches.mean((2, 4))
    return shares


def open_twins(folder: Path, count: int) -> Twins:
    """The first `count` layouts under SEED, split "train"; drawn into the folder unless they lie there already."""
    folder.mkdir(parents=True, exist_ok=True)
    photos, facts = folder / f"twins-{count}.u8", folder / f"twins-{count}.npz"
    if not facts.exists():
        _draw(photos, facts, count)
    with np.load(facts) as file:
        arrays = {name: file[name] for name in ("shares", "grids", "texture", "silhouette")}
    return Twins(np.memmap(photos, np.uint8, "r", shape=(count, DRAWINGS, SIZE_PX, SIZE_PX, 3)), **arrays)


def _draw(photos: Path, facts: Path, count: int) -> None:
    looks = np.full((count, DRAWINGS, MOST_REGIONS, 38), np.nan)
    shapes = np.full((count, MOST_REGIONS, 36), np.nan)
    shares = np.zeros((count, MOST_REGIONS, GRID, GRID), np.float16)
    grids = np.zeros((count, 2), np.int64)
    with open(photos, "wb") as file:
        for i in range(count):
            rng = scene_rng(SEED, i, "train")
            layout = draw_layout(rng)
            for k in range(DRAWINGS):
                photo = render(layout, rng).photo
                square, grid = fit(photo)
                file.write(square.tobytes())
                _describe(looks[i, k], layout, photo)
            grids[i], shares[i] = grid, patch_shares(layout.regions, grid)
            found = silhouettes(layout.regions)
            shapes[i, : len(found)] = found
    partial = facts.with_suffix(f".{os.getpid()}.npz")
    texture, silhouette = _cluster_textures(looks), _cluster_silhouettes(shapes)
    np.savez(partial, shares=shares, grids=grids, texture=texture, silhouette=silhouette)
    os.replace(partial, facts)  # last: its presence says complete


def _describe(looks: NDArray[np.float64], layout: Layout, photo: NDArray[np.uint8]) -> None:
    rows = textures(photo, layout.regions)
    large = large_enough(layout.regions)
    looks[: len(rows)][large] = rows[large]


def _cluster_textures(looks: NDArray[np.float64]) -> NDArray[np.int64]:
    """[n, 8] from statistics [n, DRAWINGS, 8, d]: the cluster of the drawings' median, for a thing may be restyled."""
    valid = np.isfinite(looks).all((1, 3))
    first, second = looks[:, 0][valid], looks[:, 1][valid]
    clusters = cluster(first, second, TEXTURES, directions=16)
    out = np.full(valid.shape, NONE)
    out[valid] = clusters.assign(np.median(looks.transpose(0, 2, 1, 3)[valid], 1))
    return out


def _cluster_silhouettes(shapes: NDArray[np.float64]) -> NDArray[np.int64]:
    """[n, 8] from statistics [n, 8, d]; a silhouette has no twin, so a little noise stands in for one."""
    valid = np.isfinite(shapes).all(2)
    rows = shapes[valid]
    noise = 0.05 * rows.std(0) * np.random.default_rng(SEED).normal(size=rows.shape)
    out = np.full(valid.shape, NONE)
    out[valid] = cluster(rows, rows + noise, SILHOUETTES, directions=8).assign(rows)
    return out
