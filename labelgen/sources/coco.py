"""COCO's own json: things as polygons and crowds (instances_SPLIT.json), stuff as run lengths (stuff_SPLIT.json).

Lin et al., "Microsoft COCO: Common Objects in Context" (2014); Caesar et al., "COCO-Stuff" (2018).
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.sources.base import Source
from labelgen.sources.coco_json import (
    AS_PUBLISHED,
    JsonSource,
    JsonTruth,
    Picture,
    check_unique,
    read_categories,
    read_json,
    read_pictures,
)
from labelgen.sources.coco_masks import check, mask_of

KINDS = ("instances", "stuff", "instances+stuff")
_THINGS_PIXEL = "other"
"""Stuff's category of pixels that belong to a thing: no class."""


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

    return JsonTruth(path, pictures, tuple(names), indices)


class _Piece(NamedTuple):
    """What an annotation draws."""

    order: tuple[bool, int, int]
    value: int
    mask: NDArray[np.bool_]


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
    found = read_json(path, _kept, "images", "annotations", "categories")
    pictures, categories = read_pictures(path, found["images"]), read_categories(path, found["categories"])
    size_hw = {picture.image_id: picture.size_hw for picture in pictures.values()}
    of_image: dict[int | str, list[Annotation]] = {}
    for annotation in found["annotations"]:
        if not isinstance(annotation, Annotation):
            lacks = f"an annotation without image_id or category_id: {str(annotation)[:80]}"
            raise UserError(f"{path}: {lacks}; {AS_PUBLISHED}")
        _check(path, annotation, size_hw, categories)
        of_image.setdefault(annotation.image_id, []).append(annotation)
    return Annotations(path, pictures, categories, of_image)


def _check(
    path: Path, annotation: Annotation, size_hw: Mapping[Any, tuple[int, int]], categories: Mapping[int, str]
) -> None:
    if annotation.image_id not in size_hw:
        raise _wrong(path, annotation, f"no image has its image_id {annotation.image_id}")
    if annotation.category_id not in categories:
        raise _wrong(path, annotation, f"no category has its category_id {annotation.category_id}")
    try:
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
    crowd = bool(record.get("iscrowd"))
    return Annotation(record.get("id"), record["image_id"], record["category_id"], crowd, segmentation)


def _numbers(ring: Any) -> Any:
    try:
        return array("d", ring)
    except TypeError:
        return ring
