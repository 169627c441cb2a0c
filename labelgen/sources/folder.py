"""Photos as people have them: a folder of pictures at any depth, and maybe a folder of masks beside it.

A photo's id is its path in the folder without the suffix; its mask is the PNG of the same id in the folder of masks.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labelgen.errors import UserError
from labelgen.sources.base import Source
from labelgen.sources.pairs import Pair, PairSource, Truth
from labelgen.sources.pictures import SUFFIXES, walk

BRIGHT = 128
"""Values of a black-and-white mask from here on are the foreground: edges are often soft."""


@dataclass(frozen=True)
class IndexTruth:
    """Values are class indices: lines of the user's file of words. count: how many there are (None: no check)."""

    count: int | None
    ignore_index: int
    classes: tuple[str, ...] | None = None

    def __call__(self, path: Path, values: NDArray[np.integer]) -> NDArray[np.int64]:
        annotated = values != self.ignore_index
        highest = int(values.max(initial=0, where=annotated))
        if self.count is not None and highest >= self.count:
            raise UserError(
                f"{path}: class index {highest}, but there are {self.count} classes, 0 to {self.count - 1}; "
                f"mend the mask, the ontology or photos.ignore_index = {self.ignore_index}"
            )
        return np.where(annotated, values.astype(np.int64), -1)


@dataclass(frozen=True)
class BlackAndWhiteTruth:
    """White is the foreground, black the background; eval.truth says which classes these are."""

    classes: tuple[str, ...] = ("background", "foreground")
    count: int = 2

    def __call__(self, path: Path, values: NDArray[np.integer]) -> NDArray[np.int64]:
        bright = 1 if values.dtype == np.bool_ else BRIGHT
        return (values >= bright).astype(np.int64)


def folder_source(root: Path, max_pixels: int, photos: str = "", masks: str = "", truth: Truth | None = None) -> Source:
    """Pictures under root/photos, at any depth, with the masks root/masks/ID.png where `truth` is given.

    UserError when a folder is missing or empty, when two pictures have one id, or when masks are missing.
    """
    for folder in (root, root / photos, root / masks):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder of photos; mend photos.root or photos.splits in the config")
    pairs: dict[str, Pair] = {}
    for name in walk(root / photos):
        photo_id = os.path.splitext(name)[0]
        pair = Pair(os.path.join(photos, name), os.path.join(masks, f"{photo_id}.png") if truth else "")
        if photo_id in pairs:
            raise UserError(
                f"{root}: {pairs[photo_id].photo} and {pair.photo} would have the same mask and results; rename one"
            )
        pairs[photo_id] = pair
    if not pairs:
        raise UserError(f"{root / photos}: no pictures in it ({', '.join(sorted(SUFFIXES))}); mend photos.root")
    return PairSource(root, pairs, truth, max_pixels)
