"""What COCO's two kinds of json share: records of pictures, categories, and photos whose truth they describe."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.sources.base import Photo, check_once, check_size, check_there, packed
from labelgen.sources.pictures import read_photo

AS_PUBLISHED = "take the json as it was published"
Hook = Callable[[dict[str, Any]], Any]


class Picture(NamedTuple):
    """One of the json's `images`."""

    image_id: int | str
    file_name: str
    size_hw: tuple[int, int]


class JsonTruth(NamedTuple):
    """What a json says of the photos of a split."""

    path: Path
    """The json, for messages."""
    pictures: Mapping[str, Picture]
    """Photo id -> its record."""
    classes: tuple[str, ...]
    indices: Callable[[Picture], NDArray[np.int64]]
    """Class indices [H, W] of a picture, -1 not annotated; UserError for truth that cannot be right."""


def read_json(path: Path, hook: Hook, *keys: str) -> dict[str, Any]:
    """The json object of a file, which has these keys, a list each.

    hook: called with each object in it as soon as it is read; what it returns is kept in its place. The whole as
    Python objects would be many times the file, which has hundreds of megabytes.
    """
    found: dict[str, Any]
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file, object_hook=hook)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; unpack the annotations beside the photos, mend photos.splits' masks, or set them "
            "to empty to go without truth"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not json, or cut short ({error}); unpack it again") from None
    for key in keys:
        if not isinstance(found, dict) or not isinstance(found.get(key), list):
            raise UserError(f"{path}: no list {key!r} in it; {AS_PUBLISHED}")
    return found


def fields(path: Path, what: str, record: Any, *names: str) -> tuple[Any, ...]:
    """Values of a record's fields. UserError when it has not all of them."""
    missing = [name for name in names if not isinstance(record, dict) or name not in record]
    if missing:
        raise UserError(f"{path}: {what} without {missing[0]!r}: {str(record)[:80]}; {AS_PUBLISHED}")
    return tuple(record[name] for name in names)


def read_pictures(path: Path, records: Iterable[Any]) -> dict[str, Picture]:
    """Photo id (file name without suffix) -> its record. UserError for a record that is there twice or not whole."""
    pictures = []
    for record in records:
        image_id, name, *size_hw = fields(path, "an image", record, "id", "file_name", "height", "width")
        sized = all(isinstance(side, int) and side > 0 for side in size_hw)
        if not isinstance(image_id, int | str) or not isinstance(name, str) or not sized:
            raise UserError(f"{path}: an image without id, name or size: {str(record)[:80]}; {AS_PUBLISHED}")
        pictures.append(Picture(image_id, name, (size_hw[0], size_hw[1])))
    check_unique(path, "image id", [picture.image_id for picture in pictures])
    photo_ids = [os.path.splitext(picture.file_name)[0] for picture in pictures]
    check_once(photo_ids, str(path))
    return dict(zip(photo_ids, pictures, strict=True))


def read_categories(path: Path, records: Iterable[Any]) -> dict[int, str]:
    """Category id -> name, ids ascending. UserError when an id is there twice."""
    pairs = [fields(path, "a category", record, "id", "name") for record in records]
    if any(not isinstance(number, int) for number, _ in pairs):
        raise UserError(f"{path}: a category whose id is not a whole number; {AS_PUBLISHED}")
    check_unique(path, "category id", [number for number, _ in pairs])
    return {number: str(name) for number, name in sorted(pairs)}


def check_unique(path: Path, what: str, values: Iterable[Any]) -> None:
    """UserError when a value is there twice."""
    for value, count in Counter(values).most_common(1):
        if count > 1:
            raise UserError(f"{path}: {what} {value!r} is there {count} times; {AS_PUBLISHED}")


def find_folder(root: Path, photos: str) -> str:
    """SPLIT or images/SPLIT, whichever there is."""
    for folder in (photos, f"images/{photos}"):
        if (root / folder).is_dir():
            return folder
    raise UserError(f"{root / photos}: no such folder of photos; mend photos.root or photos.splits, or unpack it")


class JsonSource:
    """Photos that a json lists; what else is in their folder is not theirs."""

    has_truth = True

    def __init__(self, root: Path, photos: str, truth: JsonTruth, max_pixels: int) -> None:
        """UserError when photos that the json lists are missing."""
        self._root, self._folder, self._truth, self._max_pixels = root, find_folder(root, photos), truth, max_pixels
        mend = f"{truth.path} names them: unpack the rest of the photos, or take the json that belongs to them"
        check_there(root, [self.file(photo_id) for photo_id in truth.pictures], "photo", mend)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """See labelgen.sources.base.Source; so the other methods."""
        return self._truth.classes

    def list(self) -> Sequence[str]:
        return sorted(self._truth.pictures)

    def file(self, photo_id: str) -> str:
        return f"{self._folder}/{self._truth.pictures[photo_id].file_name}"

    def load(self, photo_id: str) -> Photo:
        picture = self._truth.pictures[photo_id]
        image = read_photo(self._root / self.file(photo_id), self._max_pixels)
        record = f"{self._truth.path}: image {picture.image_id}"
        check_size(record, picture.size_hw, self.file(photo_id), image.shape[:2])
        return Photo(photo_id, image, packed(self._truth.indices(picture), len(self._truth.classes)))
