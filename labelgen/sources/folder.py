"""Photos as people have them: a folder of pictures at any depth, and maybe a folder of masks beside it.

A photo's id is its path in the folder without the suffix; its mask is the PNG of the same id in the folder of masks.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.sources.base import Source
from labelgen.sources.listing import Listing, Named, by_id
from labelgen.sources.pairs import Pairs, PairSource, Truth
from labelgen.sources.pictures import SUFFIXES, walk

BRIGHT = 128
"""Values of a black-and-white mask from here on are the foreground: edges are often soft."""


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
    listing = Listing(_unlike(root, photos, by_id(walk(root / photos))))
    if not listing:
        raise UserError(f"{root / photos}: no pictures in it ({', '.join(sorted(SUFFIXES))}); mend photos.root")
    pairs = Pairs(
        listing,
        photo=lambda photo_id: os.path.join(photos, listing.file(photo_id)),
        mask=lambda photo_id: os.path.join(masks, f"{photo_id}.png"),
    )
    return PairSource(root, pairs, truth, max_pixels)


def _unlike(root: Path, photos: str, files: Iterable[Named]) -> Iterator[Named]:
    """The files, which are in the order of their ids. UserError for the first two that have one id."""
    before: Named = ("", "")
    for file in files:
        if file[0] == before[0]:
            first, second = (os.path.join(photos, "".join(name)) for name in (before, file))
            raise UserError(f"{root}: {first} and {second} would have the same mask and results; rename one")
        yield file
        before = file
