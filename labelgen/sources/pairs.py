"""Most data sets: a picture file a photo and, for its truth, a mask file whose values stand for classes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from labelgen.sources.base import Photo, PhotoError, check_size, check_there, packed
from labelgen.sources.pictures import read_mask, read_photo


class Pairs(NamedTuple):
    """The photos of a split, and paths from the root on by photo id."""

    ids: Sequence[str]
    """Sorted."""
    photo: Callable[[str], str]
    mask: Callable[[str], str]


class Truth(Protocol):
    """What the values of a mask file mean."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the class indices; None where they are the lines of the user's own file of words."""

    @property
    def count(self) -> int | None:
        """How many classes there are; None: not known."""

    def __call__(self, path: Path, values: NDArray[np.integer]) -> NDArray[np.int64]:
        """Class indices [H, W] of a mask's values, -1 not annotated. UserError, naming `path`, for a wrong value."""


class PairSource:
    """Photos of one split as pairs of files."""

    def __init__(self, root: Path, pairs: Pairs, truth: Truth | None, max_pixels: int) -> None:
        """truth: None where masks are not wanted. UserError when masks are missing."""
        self._root, self._pairs, self._truth, self._max_pixels = root, pairs, truth, max_pixels
        if truth is not None:
            mend = "add them, or set photos.splits' masks to empty to go without truth"
            check_there(root, map(pairs.mask, pairs.ids), "mask", mend)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """See labelgen.sources.base.Source; so the other methods."""
        return self._truth.classes if self._truth else None

    @property
    def has_truth(self) -> bool:
        return self._truth is not None

    def list(self) -> Sequence[str]:
        return self._pairs.ids

    def file(self, photo_id: str) -> str:
        return self._pairs.photo(photo_id)

    def load(self, photo_id: str) -> Photo:
        try:
            photo_id.encode()
        except UnicodeEncodeError:
            raise PhotoError("its name is not UTF-8", "rename it") from None
        path = self._root / self.file(photo_id)
        image = read_photo(path, self._max_pixels)
        if self._truth is None:
            return Photo(photo_id, image)
        mask = self._root / self._pairs.mask(photo_id)
        values = read_mask(mask)
        check_size(str(mask), values.shape, str(path), image.shape[:2])
        indices = self._truth(mask, values)
        highest = int(indices.max(initial=0))
        return Photo(photo_id, image, packed(indices, self._truth.count or highest + 1))
