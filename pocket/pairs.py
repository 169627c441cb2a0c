"""Picture-caption pairs for the pocket CLIP: scenes drawn once into a scratch folder, cropped anew for every batch.

Photos of the web show things at every scale, so a pair is a crop of a scene, from a third of it to the
whole, and a caption of what that crop shows; half of the crops are framed around one thing, as people take photos.
"""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pocket import captions
from pocket.scenes import draw

SMALLEST_CROP = 0.3  # side of the smallest crop as a share of the photo's short side
FRAMED = 0.5  # share of the crops framed around a thing, where the scene has one

FILES = ("photos", "masks", "regions")

Batch = tuple[NDArray[np.uint8], list[str], list[tuple[int, ...]]]


class SceneStore:
    """Scenes in three flat files: [i] -> photo uint8 [H, W, 3], mask uint8 [H, W], regions uint8 [H, W]."""

    def __init__(self, folder: Path) -> None:
        self._sizes = np.load(folder / "sizes.npy")
        self._starts = np.concatenate([[0], np.cumsum(self._sizes.prod(axis=1))])
        self._files = [np.memmap(folder / name, np.uint8, "r") for name in FILES]

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        start, stop = self._starts[i : i + 2]
        photos, masks, regions = self._files
        photo = photos[3 * start : 3 * stop].reshape(*self._sizes[i], 3)
        return photo, masks[start:stop].reshape(self._sizes[i]), regions[start:stop].reshape(self._sizes[i])


def open_store(folder: Path, seed: int, count: int) -> SceneStore:
    """Scenes 0 … count-1 of split "train" under `seed`; drawn into `folder` unless they lie there already."""
    if not (folder / "sizes.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        sizes = np.empty((count, 2), np.int64)
        with ExitStack() as stack:
            files = [stack.enter_context(open(folder / name, "wb")) for name in FILES]
            for i in range(count):
                scene = draw(seed, i, "train")
                sizes[i] = scene.mask.shape
                arrays = scene.photo, scene.mask, scene.regions.astype(np.uint8)
                for file, array in zip(files, arrays, strict=True):
                    file.write(array.tobytes())
        np.save(folder / "sizes.npy", sizes)  # last: its presence says complete
    return SceneStore(folder)


def crop_box(rng: np.random.Generator, mask: NDArray[np.uint8], regions: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns of a square inside the photo: anywhere at any scale, or framed around one thing."""
    height, width = mask.shape
    short = min(height, width)
    side = short * np.exp(rng.uniform(np.log(SMALLEST_CROP), 0))
    y, x = rng.uniform(0, (height, width))
    coarse = regions[::2, ::2]  # every other pixel is enough to frame a thing
    things = np.flatnonzero(np.bincount(coarse[captions.IS_THING[mask[::2, ::2]]]))
    if len(things) and rng.random() < FRAMED:
        rows, columns = (2 * c for c in np.nonzero(coarse == rng.choice(things)))
        extent = max(np.ptp(rows), np.ptp(columns)) + 2
        side = min(max(extent * rng.uniform(0.8, 2.0), SMALLEST_CROP * short), short)
        y, x = rng.normal((rows.mean(), columns.mean()), 0.1 * side)
    size = int(side)
    top, left = (int(np.clip(c - side / 2, 0, n - size)) for c, n in ((y, height), (x, width)))
    return slice(top, top + size), slice(left, left + size)


def batch(store: SceneStore, side_px: int, count: int, seed: tuple[int, ...]) -> Batch:
    """`count` pairs, a pure function of the arguments.

    Returns:
        crops uint8 [B, side_px, side_px, 3], captions [B], and the classes that each caption names, sorted [B].
    """
    rng = np.random.default_rng(seed)
    crops, texts, classes = [], [], []
    for i in rng.integers(len(store), size=count):
        photo, mask, regions = store[int(i)]
        window = crop_box(rng, mask, regions)
        chosen = captions.choose(rng, captions.visible(captions.shares_of(mask[window])))
        crop = Image.fromarray(photo[window]).resize((side_px, side_px), Image.Resampling.BICUBIC)
        crops.append(np.asarray(crop)[:, :: -1 if rng.random() < 0.5 else 1])
        texts.append(captions.phrase(rng, chosen))
        classes.append(tuple(sorted(chosen)))
    return np.stack(crops), texts, classes
