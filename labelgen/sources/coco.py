"""COCO's own json: things as polygons and crowds (instances_SPLIT.json), stuff as run lengths (stuff_SPLIT.json).

Lin et al., "Microsoft COCO: Common Objects in Context" (2014); Caesar et al., "COCO-Stuff" (2018). What it shares with
the panoptic kind (labelgen.sources.coco_panoptic) comes last: records of pictures, categories, and photos whose truth a
json describes.
"""

import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.core.files import encoding_of
from labelgen.sources.coco_masks import check, is_empty, mask_of
from labelgen.sources.decoding import read_photo
from labelgen.sources.finding import LeftOut
from labelgen.sources.photos import Photo, Source, check_once, check_size, check_there, found, packed

AS_PUBLISHED = "take the json as it was published"
Hook = Callable[[dict[str, Any]], Any]
KINDS = ("instances", "stuff", "instances+stuff")
_FEW = 0.05
"""Crowds are no more of the annotations in the data sets that mean them; of COCO's 2017 things 1.2 %."""
_THINGS_PIXEL = "other"
"""Stuff's category of pixels that belong to a thing: no class."""


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
    remarks: tuple[str, ...] = ()
    """What is to be said of annotations that are no truth; the same wherever the json lies."""
    bare: int = 0
    """Images without an annotation, which are not among the pictures."""


class Annotation(NamedTuple):
    """One of the json's `annotations`, without what truth does not need."""

    annotation_id: Any
    image_id: Any
    category_id: Any
    crowd: bool
    segmentation: Any


class Annotations(NamedTuple):
    """A json's contents."""

    path: Path
    pictures: Mapping[str, Picture]
    categories: Mapping[int, str]
    of_image: Mapping[int | str, Sequence[Annotation]]
    empty: int
    """Annotations that were left out, as their segmentation is empty."""


class _Piece(NamedTuple):
    """What an annotation draws."""

    order: tuple[bool, int, int]
    value: int
    mask: NDArray[np.bool_]


def coco_source(root: Path, photos: str, masks: str, max_pixels: int) -> Source:
    """Photos of PHOTOS/ or images/PHOTOS/ with the truth of annotations/KIND_PHOTOS.json; masks: KIND.

    instances: pixels in no annotation are class "background", the first. stuff: they are not annotated. instances+stuff
    (COCO-Stuff's 171): things lie on stuff, the rest is not annotated.
    Crowds, of which no single thing is drawn, are not annotated unless something else lies there. Where annotations of
    one json overlap, the one with fewer pixels is on top, and of equal ones the later: a cup is drawn on its table.
    UserError when files or keys are missing or when records do not fit together.
    """
    if masks not in KINDS:
        raise UserError(f"photos.splits: masks = {masks!r}; of COCO set {', '.join(KINDS)} or nothing")
    layers = [read_annotations(root / "annotations" / f"{kind}_{photos}.json") for kind in masks.split("+")]
    return JsonSource(root, photos, _truth(layers, background=masks == "instances"), max_pixels)


def _truth(layers: Sequence[Annotations], background: bool) -> JsonTruth:
    """The truth of jsons of the same photos, the first on top; background: a class of its own for all other pixels."""
    path, pictures = layers[0].path, layers[0].pictures
    for layer in layers[1:]:
        odd = set(layer.pictures.values()) ^ set(pictures.values())
        if odd:
            name = min(picture.file_name for picture in odd)
            raise UserError(f"{layer.path}: not the images of {path}, {name} for one; take both json of one split")
    categories = sorted(pair for layer in layers for pair in layer.categories.items())
    check_unique(layers[-1].path, "category id", [number for number, _ in categories])
    names = ["background"] * background + [name for _, name in categories if name != _THINGS_PIXEL]
    check_unique(layers[-1].path, "category", names)
    index = {number: names.index(name) if name in names else -1 for number, name in categories}

    def indices(picture: Picture) -> NDArray[np.int64]:
        drawn = np.full(picture.size_hw, 0 if background else -1, np.int64)
        pieces = (piece for depth, layer in enumerate(layers) for piece in _pieces(layer, depth, picture, index))
        for piece in sorted(pieces, key=lambda piece: piece.order):
            drawn[piece.mask] = piece.value
        return drawn

    return JsonTruth(path, pictures, tuple(names), indices, tuple(_remarks(layers, background)))


def _remarks(layers: Sequence[Annotations], background: bool) -> Iterator[str]:
    for layer in layers:
        annotations = [each for of_one in layer.of_image.values() for each in of_one]
        yield from crowds(layer.path, sum(each.crowd for each in annotations), len(annotations))
        if layer.empty:
            yield f"{layer.path.name}: {layer.empty} annotations with an empty segmentation left out"
        bare = len(layer.pictures) - len(layer.of_image)
        if bare and background:
            yield f"{layer.path.name}: {bare} of {len(layer.pictures)} photos have no annotation and are all background"


def crowds(path: Path, count: int, total: int) -> Iterator[str]:
    """What is to be said of crowds (`iscrowd` 1), where they are more than a few: their pixels are no truth."""
    if count > _FEW * total:
        yield (
            f"{path.name}: {count} of {total} annotations are crowds, whose pixels are taken as not annotated; where a "
            'tool writes "iscrowd": 1 for every mask (datumaro, supervision), set it to 0 in the json and take another '
            "--out"
        )


def _pieces(layer: Annotations, depth: int, picture: Picture, index: Mapping[int, int]) -> Iterator[_Piece]:
    """Pieces of a picture; in order, crowds come first, then deeper layers, then larger ones."""
    for annotation in layer.of_image.get(picture.image_id, ()):
        try:
            mask = mask_of(annotation.segmentation, picture.size_hw)
        except ValueError as error:
            raise _wrong(layer.path, annotation, error) from None
        value = -1 if annotation.crowd else index[annotation.category_id]
        yield _Piece((not annotation.crowd, -depth, -int(mask.sum())), value, mask)


def _wrong(path: Path, annotation: Annotation, reason: object) -> UserError:
    return UserError(f"{path}: annotation {annotation.annotation_id}: {reason}; {AS_PUBLISHED}")


def read_annotations(path: Path) -> Annotations:
    """A json's contents, annotations by image. UserError when it cannot be read or its records do not fit together."""
    contents = read_json(path, _kept, "images", "annotations", "categories")
    pictures, categories = read_pictures(path, contents["images"]), read_categories(path, contents["categories"])
    size_hw = {picture.image_id: picture.size_hw for picture in pictures.values()}
    of_image: dict[int | str, list[Annotation]] = {}
    empty = 0
    for annotation in contents["annotations"]:
        if not isinstance(annotation, Annotation):
            lacks = f"an annotation without image_id or category_id: {str(annotation)[:80]}"
            raise UserError(f"{path}: {lacks}; {AS_PUBLISHED}")
        _check(path, annotation, size_hw, categories)
        if is_empty(annotation.segmentation):
            empty += 1
        else:
            of_image.setdefault(annotation.image_id, []).append(annotation)
    if empty and not of_image:
        raise UserError(
            f"{path}: not one of {empty} annotations has a segmentation (boxes are no truth); {AS_PUBLISHED}"
        )
    return Annotations(path, pictures, categories, of_image, empty)


def _check(
    path: Path, annotation: Annotation, size_hw: Mapping[Any, tuple[int, int]], categories: Mapping[int, str]
) -> None:
    if annotation.image_id not in size_hw:
        raise _wrong(path, annotation, f"no image has its image_id {annotation.image_id}")
    if annotation.category_id not in categories:
        raise _wrong(path, annotation, f"no category has its category_id {annotation.category_id}")
    try:
        if not is_empty(annotation.segmentation):
            check(annotation.segmentation, size_hw[annotation.image_id])
    except ValueError as error:
        raise _wrong(path, annotation, error) from None


def _kept(record: dict[str, Any]) -> Any:
    """What is kept of an object of the json: a number of a polygon takes 8 bytes in an array, 32 in a list."""
    if "image_id" not in record or "category_id" not in record:
        return record
    segmentation = record.get("segmentation")
    if isinstance(segmentation, list):
        segmentation = [_numbers(ring) for ring in segmentation]
    crowd = is_crowd(record)
    return Annotation(record.get("id"), record["image_id"], record["category_id"], crowd, segmentation)


def is_crowd(record: Mapping[str, Any]) -> bool:
    """By `iscrowd`; some tools write it as a text, or as a boolean."""
    return record.get("iscrowd") not in (None, "", "0", "false", "False", 0)


def _numbers(ring: Any) -> Any:
    try:
        return array("d", ring)
    except TypeError:
        return ring


class JsonSource:
    """Photos that a json lists; what else is in their folder is not theirs."""

    has_truth = True

    def __init__(self, root: Path, photos: str, truth: JsonTruth, max_pixels: int) -> None:
        """UserError when photos that the json lists are missing."""
        self._root, self._folder, self._truth, self._max_pixels = root, find_folder(root, photos), truth, max_pixels
        fix = f"{truth.path} names them: unpack the rest of the photos, or take the json that belongs to them"
        check_there(root, [f"{self._folder}/{each.file_name}" for each in truth.pictures.values()], "photo", fix)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """See labelgen.sources.photos.Source; so the other methods."""
        return self._truth.classes

    @property
    def left_out(self) -> LeftOut:
        return LeftOut()

    @property
    def remarks(self) -> Sequence[str]:
        """What is to be said of annotations that are no truth."""
        return self._truth.remarks

    def list(self) -> Sequence[str]:
        return sorted(self._truth.pictures)

    def file(self, photo_id: str) -> str:
        named = f"{self._folder}/{self._truth.pictures[photo_id].file_name}"
        return found(self._root, named) or named

    def load(self, photo_id: str) -> Photo:
        picture = self._truth.pictures[photo_id]
        image = read_photo(self._root / self.file(photo_id), self._max_pixels)
        record = f"{self._truth.path}: image {picture.image_id}"
        check_size(record, picture.size_hw, self.file(photo_id), image.shape[:2])
        return Photo(photo_id, image, packed(self._truth.indices(picture), len(self._truth.classes)))


def remarks_of(source: Source) -> Sequence[str]:
    """What is to be said of a source's truth where a json describes it."""
    return source.remarks if isinstance(source, JsonSource) else ()


def find_folder(root: Path, photos: str) -> str:
    """SPLIT or images/SPLIT, whichever there is."""
    for folder in (photos, f"images/{photos}"):
        if (root / folder).is_dir():
            return folder
    raise UserError(f"{root / photos}: no such folder of photos; fix photos.root or photos.splits, or unpack it")


def read_json(path: Path, hook: Hook, *keys: str) -> dict[str, Any]:
    """The json object of a file, which has these keys, a list each.

    hook: called with each object in it as soon as it is read; what it returns is kept in its place. The whole as
    Python objects would be many times the file, which has hundreds of megabytes.
    """
    contents: dict[str, Any]
    try:
        with open(path, encoding=encoding_of(path)) as file:
            contents = json.load(file, object_hook=hook)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; unpack the annotations beside the photos, fix photos.splits' masks, or set them "
            "to empty to go without truth"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not json, or cut short ({error}); unpack it again") from None
    for key in keys:
        if not isinstance(contents, dict) or not isinstance(contents.get(key), list):
            raise UserError(f"{path}: no list {key!r} in it; {AS_PUBLISHED}")
    return contents


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
        sized = all(isinstance(side, int | float) and side > 0 and side == int(side) for side in size_hw)
        if not isinstance(image_id, int | str) or not isinstance(name, str) or not sized:
            raise UserError(f"{path}: an image without id, name or size: {str(record)[:80]}; {AS_PUBLISHED}")
        pictures.append(Picture(image_id, name, (int(size_hw[0]), int(size_hw[1]))))
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
