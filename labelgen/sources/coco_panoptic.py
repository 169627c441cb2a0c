"""COCO's panoptic format: a PNG of segment ids a photo, and a json that says which category each segment has.

Kirillov et al., "Panoptic Segmentation" (2019); a pixel's segment id is R + 256 G + 65536 B, 0 belongs to none.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelgen.core.errors import UserError
from labelgen.sources.coco import (
    AS_PUBLISHED,
    JsonSource,
    JsonTruth,
    Picture,
    check_unique,
    crowds,
    is_crowd,
    read_categories,
    read_json,
    read_pictures,
)
from labelgen.sources.photos import Source, check_size, check_there, found


class Segment(NamedTuple):
    """One of a picture's `segments_info`."""

    segment_id: Any
    category_id: Any
    crowd: bool


class Segments(NamedTuple):
    """One of the json's `annotations`: the segments of a picture."""

    image_id: Any
    file_name: Any
    segments: Any


def panoptic_source(root: Path, photos: str, masks: str, max_pixels: int) -> Source:
    """Photos of PHOTOS/ or images/PHOTOS/ with the truth of annotations/MASKS.json and its PNGs in annotations/MASKS/.

    Classes are the json's categories by ascending id. Pixels of no segment (id 0) and of crowds are not annotated.
    UserError when files or keys are missing or when records do not fit together.
    """
    return JsonSource(root, photos, panoptic_truth(root / "annotations", masks), max_pixels)


def panoptic_truth(folder: Path, name: str, labels: bool = False) -> JsonTruth:
    """What FOLDER/NAME.json and the PNGs in FOLDER/NAME/ say.

    labels: they are to be labels, not truth: crowds have a class as all else has, and images without an annotation are
    left out.
    """
    path = folder / f"{name}.json"
    contents = read_json(path, _kept, "images", "annotations", "categories")
    pictures, categories = read_pictures(path, contents["images"]), read_categories(path, contents["categories"])
    check_unique(path, "category", categories.values())
    index = {number: i for i, number in enumerate(categories)}
    of_image = _by_image(path, contents["annotations"], pictures, index, labels)
    files = [f"{name}/{segments.file_name}" for segments in of_image.values()]
    check_there(folder, files, "mask", "unpack the PNGs of the json beside it")

    def indices(picture: Picture) -> NDArray[np.int64]:
        segments = of_image[picture.image_id]
        named = f"{name}/{segments.file_name}"
        mask = folder / (found(folder, named) or named)
        ids = read_segment_ids(mask)
        check_size(str(mask), ids.shape, picture.file_name, picture.size_hw)
        drawn = [each for each in segments.segments if labels or not each.crowd]
        value = dict.fromkeys([each.segment_id for each in segments.segments], -1)
        return _named(mask, ids, {0: -1} | value | {each.segment_id: index[each.category_id] for each in drawn})

    segments = [each for of_one in of_image.values() for each in of_one.segments]
    remarks = tuple(crowds(path, sum(each.crowd for each in segments), len(segments)))
    there = {photo_id: each for photo_id, each in pictures.items() if each.image_id in of_image}
    return JsonTruth(path, there, tuple(categories.values()), indices, remarks, len(pictures) - len(there))


def _by_image(
    path: Path, annotations: Sequence[Any], pictures: Mapping[str, Picture], index: Mapping[int, int], labels: bool
) -> dict[Any, Segments]:
    """Segments of each picture. UserError when one has none, but for labels, or names what there is not."""
    for each in annotations:
        _check(path, each, index)
    check_unique(path, "annotation of image_id", [each.image_id for each in annotations])
    of_image: dict[Any, Segments] = {each.image_id: each for each in annotations if each.segments or not labels}
    known = {picture.image_id for picture in pictures.values()}
    for number in of_image.keys() - known:
        raise UserError(f"{path}: annotation of image_id {number}: no image has this id; {AS_PUBLISHED}")
    for number in () if labels else known - of_image.keys():
        raise UserError(f"{path}: image {number} has no annotation; {AS_PUBLISHED}")
    return of_image


def _check(path: Path, annotation: Any, index: Mapping[int, int]) -> None:
    if not isinstance(annotation, Segments):
        raise UserError(
            f"{path}: an annotation without image_id, file_name or segments_info: {str(annotation)[:80]}; "
            "is it a panoptic json?"
        )
    name = annotation.file_name
    for segment in annotation.segments:
        if not isinstance(segment, Segment):
            raise UserError(f"{path}: {name}: a segment without id or category_id: {segment}; {AS_PUBLISHED}")
        number = segment.category_id
        if number not in index:
            lacks = f"no category has its category_id {number}"
            raise UserError(f"{path}: {name}: segment {segment.segment_id}: {lacks}; {AS_PUBLISHED}")
    check_unique(path, f"{name}: segment id", [segment.segment_id for segment in annotation.segments])


def read_segment_ids(path: Path) -> NDArray[np.int64]:
    """int64 [H, W] segment ids of an RGB PNG. UserError for another kind of file."""
    try:
        with Image.open(path) as image:
            mode, pixels = image.mode, np.asarray(image, np.int64)
    except Exception as error:  # Pillow's decoders raise of many kinds on broken files
        raise UserError(f"{path}: the mask cannot be read: {' '.join(str(error).split())}; unpack it again") from None
    if mode != "RGB":
        raise UserError(f"{path}: a mask of mode {mode}; segment ids in RGB are wanted: is it COCO's panoptic PNG?")
    ids: NDArray[np.int64] = pixels @ np.array([1, 256, 65536])
    return ids


def _named(path: Path, ids: NDArray[np.int64], value: Mapping[Any, int]) -> NDArray[np.int64]:
    """Class indices [H, W] of segment ids."""
    segment_ids, where = np.unique(ids, return_inverse=True)
    foreign = [number for number in segment_ids.tolist() if number not in value]
    if foreign:
        raise UserError(f"{path}: segment id {foreign[0]} is not in the json's segments_info; {AS_PUBLISHED}")
    return np.array([value[number] for number in segment_ids.tolist()], np.int64)[where.reshape(ids.shape)]


def _kept(record: dict[str, Any]) -> Any:
    """What is kept of an object of the json: no boxes, no areas, no addresses of photos."""
    if "segments_info" in record and "image_id" in record and "file_name" in record:
        return Segments(record["image_id"], record["file_name"], record["segments_info"])
    if "id" in record and "category_id" in record:
        return Segment(record["id"], record["category_id"], is_crowd(record))
    return record
