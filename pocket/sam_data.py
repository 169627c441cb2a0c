"""What the pocket SAM is trained on: scenes drawn ahead into memory maps, and point prompts with their regions.

A photo is brought into the model's frame by segment_anything's own transform: longest side to SIZE_PX, padded at the
right and the bottom. A region is what the generator calls one: a thing's visible pixels, or those of one stuff (also
where a thing parts them or a ring encloses some). Classes are never read.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from labelgen.models.libraries import ResizeLongestSide
from pocket.sam_model import CONFIG, SIZE_PX
from pocket.scenes import STUFF, Scene, draw

PAD = 255  # region number outside the photo
SEED = 6006  # the scenes of this training; seed 0 is the demo's own
_SMALLEST_PX = 30  # regions with fewer visible pixels are not prompted


@dataclass(frozen=True)
class Scenes:
    """photos uint8 [n, S, S, 3]; regions uint8 [n, S, S], PAD outside; is_thing bool [n, 16]; size_hw uint8 [n, 2]."""

    photos: NDArray[np.uint8]
    regions: NDArray[np.uint8]
    is_thing: NDArray[np.bool_]
    size_hw: NDArray[np.uint8]


def to_frame(scene: Scene) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[int, int]]:
    """A scene in the model's frame: photo uint8 [S, S, 3], regions uint8 [S, S] with PAD, the valid (h, w)."""
    small = ResizeLongestSide(SIZE_PX).apply_image(scene.photo)
    height, width = small.shape[:2]
    photo = np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)
    regions = np.full((SIZE_PX, SIZE_PX), PAD, np.uint8)
    photo[:height, :width] = small
    numbers = Image.fromarray(scene.regions.astype(np.uint8))
    regions[:height, :width] = np.asarray(numbers.resize((width, height), Image.Resampling.NEAREST))
    return photo, regions, (height, width)


def region_is_thing(scene: Scene) -> NDArray[np.bool_]:
    """bool [16]: which region numbers are things (they are prompted more often, being smaller and harder)."""
    things = np.zeros(16, np.bool_)
    things[np.unique(scene.regions[scene.mask >= len(STUFF)])] = True
    return things


def drawn(folder: Path, count: int, seed: int = SEED, split: str = "train") -> Scenes:
    """`count` scenes of a seed as memory maps under folder, drawn on the first call (about 10 ms each)."""
    shapes = {
        "photos": ((count, SIZE_PX, SIZE_PX, 3), np.uint8), "regions": ((count, SIZE_PX, SIZE_PX), np.uint8),
        "is_thing": ((count, 16), np.bool_), "size_hw": ((count, 2), np.uint8),
    }  # fmt: skip
    final = folder / f"{split}-{seed}-{count}"
    if not final.exists():
        partial = final.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        arrays = {
            name: np.lib.format.open_memmap(partial / f"{name}.npy", "w+", dtype, shape)
            for name, (shape, dtype) in shapes.items()
        }
        for index in range(count):
            scene = draw(seed, index, split)
            arrays["photos"][index], arrays["regions"][index], arrays["size_hw"][index] = to_frame(scene)
            arrays["is_thing"][index] = region_is_thing(scene)
        for array in arrays.values():
            array.flush()
        os.replace(partial, final)
    return Scenes(**{name: np.load(final / f"{name}.npy", mmap_mode="r") for name in shapes})


@dataclass(frozen=True)
class Batch:
    """B pictures with P prompts each, in the model's frame.

    photos float32 [B, 3, S, S], normalised, zeros outside; regions int64 [B, S, S] with PAD; points_xy float32
    [B, P, 2] px; targets int64 [B, P], the region number under each point.
    """

    photos: torch.Tensor
    regions: torch.Tensor
    points_xy: torch.Tensor
    targets: torch.Tensor


def batch(scenes: Scenes, rng: np.random.Generator, size: int, prompts: int, thing_weight: float = 2.5) -> Batch:
    """A random batch, half of it mirrored, its light and contrast varied."""
    rows = [_row(scenes, int(i), rng, prompts, thing_weight) for i in rng.integers(0, len(scenes.photos), size)]
    photos, regions, points, targets = (np.stack(part) for part in zip(*rows, strict=True))
    return Batch(*(torch.from_numpy(part) for part in (photos, regions, points, targets)))


def _row(
    scenes: Scenes, index: int, rng: np.random.Generator, prompts: int, thing_weight: float
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    height, width = scenes.size_hw[index]
    photo, regions = np.array(scenes.photos[index]), np.array(scenes.regions[index])
    if rng.random() < 0.5:
        photo[:height, :width] = photo[:height, :width][:, ::-1].copy()
        regions[:height, :width] = regions[:height, :width][:, ::-1].copy()
    gain, shift = rng.uniform(0.8, 1.2), rng.uniform(-20, 20)
    varied = normalised(np.clip(photo * np.float32(gain) + np.float32(shift), 0, 255), (height, width))
    points, targets = prompt_points(regions, scenes.is_thing[index], rng, prompts, thing_weight)
    return varied, regions.astype(np.int64), points, targets


def normalised(photo: NDArray[np.float32] | NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """What Sam.preprocess makes of a photo [S, S, 3] in 0…255: float32 [3, S, S], zeros outside size_hw."""
    out = np.zeros((3, *photo.shape[:2]), np.float32)
    height, width = size_hw
    inside = photo[:height, :width]
    out[:, :height, :width] = ((inside - CONFIG["pixel_mean"]) / CONFIG["pixel_std"]).transpose(2, 0, 1)
    return out


def prompt_points(
    regions: NDArray[np.uint8], is_thing: NDArray[np.bool_], rng: np.random.Generator, count: int, thing_weight: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Random points xy float32 [count, 2] px and their region numbers int64 [count]; first a region, then a pixel."""
    flat = regions.ravel()
    sizes = np.bincount(flat, minlength=256)[:16]
    weights = np.where(is_thing, thing_weight, 1.0) * (sizes >= _SMALLEST_PX)
    targets = rng.choice(16, count, p=weights / weights.sum())
    order = np.argsort(flat, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    pixels = order[starts[targets] + (rng.random(count) * sizes[targets]).astype(np.int64)]
    points = np.stack([pixels % regions.shape[1], pixels // regions.shape[1]], 1)
    return points.astype(np.float32), targets.astype(np.int64)
