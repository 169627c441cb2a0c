"""COCO's json: which pixels of a photo have which class, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from labelgen.core.errors import PhotoError, UserError
from labelgen.sources.coco import coco_source, read_annotations, remarks_of
from labelgen.sources.coco_masks import mask_of
from labelgen.sources.photos import Source
from labelgen.sources.registry import open_source
from tests.worlds.coco import (
    PHOTOS,
    annotation,
    box,
    categories,
    change,
    image_record,
    needs_assets,
    write_json,
    write_photos,
)

THINGS = categories((3, "cup"), (1, "table"), (7, "person"))
STUFF = categories((94, "sky"), (92, "wall"), (183, "other"))
NOT = 255


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three photos; the first has things and stuff, the second a crowd, the third nothing."""
    write_photos(tmp_path / "val2017", 1, 2, 3)
    images = [image_record(number) for number in (3, 1, 2)]
    things = [
        annotation(11, 1, 3, box(1, 1, 2, 1)),  # on the table, though it comes first
        annotation(12, 1, 1, box(0, 0, 4, 3)),
        annotation(13, 2, 7, {"size": [4, 6], "counts": [0, 12, 12]}, iscrowd=1),
        annotation(14, 2, 7, box(2, 0, 1, 4)),
    ]
    instances = {"info": {}, "images": images, "annotations": things, "categories": THINGS}
    write_json(tmp_path / "annotations/instances_val2017.json", instances)
    drawn = [
        annotation(21, 1, 183, {"size": [4, 6], "counts": [0, 16, 8]}),
        annotation(22, 1, 94, {"size": [4, 6], "counts": "`08"}),
        annotation(23, 2, 92, {"size": [4, 6], "counts": [0, 2, 22]}),
    ]
    stuff = {"images": images, "annotations": drawn, "categories": STUFF}
    write_json(tmp_path / "annotations/stuff_val2017.json", stuff)
    return tmp_path


def maps(source: Source) -> dict[str, list[list[int]]]:
    found = {}
    for photo_id in source.list():
        label_map = source.load(photo_id).label_map
        assert label_map is not None and label_map.dtype == np.uint8 and label_map.shape == (4, 6)
        found[photo_id.lstrip("0")] = label_map.tolist()
    return found


def test_instances_lie_on_background_smaller_ones_on_top(root: Path) -> None:
    source = coco_source(root, "val2017", "instances", 10**6)
    assert source.classes == ("background", "table", "cup", "person") and source.has_truth
    assert source.list() == [f"{number:012d}" for number in (1, 2, 3)]
    assert source.file("000000000002") == "val2017/000000000002.jpg"
    found = maps(source)
    assert found["1"] == [[1, 1, 1, 1, 0, 0], [1, 2, 2, 1, 0, 0], [1, 1, 1, 1, 0, 0], [0] * 6]
    assert found["2"] == [[NOT, NOT, 3, 0, 0, 0]] * 4  # the crowd is columns 0 to 2, a person stands in column 2
    assert found["3"] == [[0] * 6] * 4


def test_of_pieces_of_one_size_the_later_is_on_top(root: Path) -> None:
    path = root / "annotations/instances_val2017.json"
    change(path, lambda c: c["annotations"].extend([annotation(31, 3, 7, box(0, 0, 2, 1))]))
    change(path, lambda c: c["annotations"].extend([annotation(32, 3, 1, box(1, 0, 2, 1))]))
    assert maps(coco_source(root, "val2017", "instances", 10**6))["3"][0] == [3, 1, 1, 0, 0, 0]


def test_stuff_alone_has_no_background_and_no_things(root: Path) -> None:
    source = coco_source(root, "val2017", "stuff", 10**6)
    assert source.classes == ("wall", "sky")
    found = maps(source)
    assert found["1"] == [[NOT] * 4 + [1] * 2] * 4
    assert found["2"] == [[0] + [NOT] * 5] * 2 + [[NOT] * 6] * 2
    assert found["3"] == [[NOT] * 6] * 4


def test_things_lie_on_stuff_and_crowds_below_both(root: Path) -> None:
    source = coco_source(root, "val2017", "instances+stuff", 10**6)
    assert source.classes == ("table", "cup", "person", "wall", "sky")
    found = maps(source)
    assert found["1"] == [[0, 0, 0, 0, 4, 4], [0, 1, 1, 0, 4, 4], [0, 0, 0, 0, 4, 4], [NOT] * 4 + [4, 4]]
    assert found["2"] == [[3, NOT, 2, NOT, NOT, NOT]] * 2 + [[NOT, NOT, 2, NOT, NOT, NOT]] * 2


def test_a_thing_lies_on_stuff_even_where_it_is_larger(root: Path) -> None:
    small = annotation(24, 1, 92, {"size": [4, 6], "counts": [0, 1, 23]})
    change(root / "annotations/stuff_val2017.json", lambda c: c["annotations"].append(small))
    assert maps(coco_source(root, "val2017", "instances+stuff", 10**6))["1"][0][0] == 0


def test_without_masks_the_folder_is_listed_and_no_json_is_needed(root: Path) -> None:
    write_photos(root / "val2017", 4)
    for path in (root / "annotations").iterdir():
        path.write_text("not json")
    photos = {"root": str(root), "source": "coco", "max_pixels": 10**6, "ignore_index": 255}
    config = ConfigDict(photos | {"splits": {"val": {"photos": "val2017", "masks": "instances"}}})
    source = open_source(config, "val", truth=False)
    assert [photo_id.lstrip("0") for photo_id in source.list()] == ["1", "2", "3", "4"]
    assert source.classes is None and not source.has_truth and source.load("000000000004").label_map is None


def opened(root: Path, photos: str, masks: str) -> Source:
    """A split as a config names it."""
    splits = {"val": {"photos": photos, "masks": masks}}
    settings = {"source": "coco", "root": str(root), "max_pixels": 10**6, "splits": splits}
    return open_source(ConfigDict(settings), "val")


def test_photos_may_lie_in_images_and_photos_that_the_json_does_not_list_are_not_taken(root: Path) -> None:
    write_photos(root / "val2017", 4)
    (root / "images").mkdir()
    (root / "val2017").rename(root / "images/val2017")
    for masks in ("instances", ""):
        source = opened(root, "val2017", masks)
        assert len(source.list()) == (3 if masks else 4)
        assert source.file("000000000001") == "images/val2017/000000000001.jpg"
        assert source.load("000000000001").image.shape == (4, 6, 3)


def test_more_than_255_classes_take_sixteen_bits(root: Path) -> None:
    more = categories(*((number, f"thing {number}") for number in range(100, 400)))
    change(root / "annotations/instances_val2017.json", lambda c: c["categories"].extend(more))
    label_map = coco_source(root, "val2017", "instances", 10**6).load("000000000002").label_map
    assert label_map is not None and label_map.dtype == np.uint16
    assert label_map[0].tolist() == [65535, 65535, 3, 0, 0, 0]


def first(key: str, **fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda contents: contents[key][0].update(fields)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda c: c.pop("categories"), "no list 'categories' in it"),
        (lambda c: c.update(annotations={}), "no list 'annotations' in it"),
        (lambda c: c["images"][0].pop("height"), "an image without 'height'"),
        (first("images", width="6"), "an image without id, name or size"),
        (first("images", id=1), "image id 1 is there 2 times"),
        (first("images", file_name="000000000001.png"), "photo 000000000001 stands there 2 times"),
        (lambda c: c["images"].clear(), "names no photo"),
        (
            first("images", file_name="9.jpg"),
            "9.jpg: no such photo; 1 of 3 photos are missing.*instances_val2017.json names them",
        ),
        (first("categories", id=1), "category id 1 is there 2 times"),
        (first("categories", name="table"), "category 'table' is there 2 times"),
        (first("categories", name="background"), "category 'background' is there 2 times"),
        (first("categories", id="3"), "a category whose id is not a whole number"),
        (first("annotations", category_id=99), "annotation 11: no category has its category_id 99"),
        (first("annotations", image_id=99), "annotation 11: no image has its image_id 99"),
        (lambda c: c["annotations"][0].pop("image_id"), "an annotation without image_id or category_id"),
        (
            lambda c: [each.update(segmentation=[]) for each in c["annotations"]],
            r"not one of 4 annotations has a segmentation \(boxes are no truth\)",
        ),
        (first("annotations", segmentation=[[1, 2]]), "annotation 11: it has a polygon that is not"),
        (
            first("annotations", segmentation={"size": [6, 4], "counts": [24]}),
            r"annotation 11: its RLE has size \[6, 4\], its image record \[4, 6\]",
        ),
    ],
)
def test_a_json_whose_records_do_not_fit_is_refused_at_once(
    root: Path, how: Callable[[dict[str, Any]], Any], message: str
) -> None:
    change(root / "annotations/instances_val2017.json", how)
    with pytest.raises(UserError, match=message) as error:
        coco_source(root, "val2017", "instances", 10**6)
    assert "annotations/instances_val2017.json" in str(error.value)


@pytest.mark.parametrize("segmentation", [[], [[]], None, {}])
def test_an_annotation_of_which_nothing_is_drawn_is_left_out_and_counted(root: Path, segmentation: Any) -> None:
    path = root / "annotations/instances_val2017.json"
    before = maps(coco_source(root, "val2017", "instances", 10**6))
    change(path, lambda c: c["annotations"].append(annotation(33, 1, 3, segmentation)))
    source = coco_source(root, "val2017", "instances", 10**6)
    assert maps(source) == before
    assert f"{path.name}: 1 annotations with an empty segmentation left out" in remarks_of(source)


def test_crowds_are_counted_where_they_are_more_than_a_few(root: Path) -> None:
    """Tools write iscrowd 1 for every mask, by which COCO means that it is no truth."""
    path = root / "annotations/instances_val2017.json"
    crowd, *rest = remarks_of(coco_source(root, "val2017", "instances", 10**6))
    assert crowd.startswith(
        f"{path.name}: 1 of 4 annotations are crowds, whose pixels are taken as not annotated; where a "
    )
    assert '"iscrowd": 1 for every mask' in crowd and rest == [
        f"{path.name}: 1 of 3 photos have no annotation and are all background"
    ]
    change(path, lambda c: [each.update(iscrowd=1) for each in c["annotations"]])
    assert "4 of 4 annotations are crowds" in remarks_of(coco_source(root, "val2017", "instances", 10**6))[0]
    change(path, lambda c: [each.update(iscrowd="0") for each in c["annotations"]])  # as some tools write it
    change(path, lambda c: c["annotations"].append(annotation(34, 3, 1, box(0, 0, 1, 1))))
    assert not remarks_of(coco_source(root, "val2017", "instances", 10**6))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [4, 6], "counts": [3]}, "annotation 11: its RLE does not fill 6 x 4 px"),
        ([["a", "b", "c", "d", "e", "f"]], "annotation 11: it has a polygon that is not"),
    ],
)
def test_a_segmentation_that_cannot_be_decoded_stops_at_its_photo(root: Path, segmentation: Any, message: str) -> None:
    change(root / "annotations/instances_val2017.json", first("annotations", segmentation=segmentation))
    source = coco_source(root, "val2017", "instances", 10**6)
    assert source.load("000000000002").image.size
    with pytest.raises(UserError, match=f"instances_val2017.json: {message}"):
        source.load("000000000001")


@pytest.mark.parametrize("text", ["", "{", '{"images": [', "[1, 2]", "\x80"])
def test_what_is_not_json_is_named(root: Path, text: str) -> None:
    path = root / "annotations/stuff_val2017.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(
        UserError, match="stuff_val2017.json: (not json, or cut short|no list 'images' in it|not UTF-8 text)"
    ):
        coco_source(root, "val2017", "instances+stuff", 10**6)


def test_missing_files_and_wrong_names_are_refused(root: Path) -> None:
    with pytest.raises(UserError, match="annotations/instances_train2017.json: no such file; unpack the annotations"):
        coco_source(root, "train2017", "instances", 10**6)
    with pytest.raises(UserError, match="test2017: no such folder of photos"):
        opened(root, "test2017", "")
    with pytest.raises(UserError, match="masks = 'things'; of COCO set instances, stuff, instances.stuff or nothing"):
        coco_source(root, "val2017", "things", 10**6)


def test_the_two_json_must_be_of_the_same_photos_and_of_different_classes(root: Path) -> None:
    path = root / "annotations/stuff_val2017.json"
    whole = path.read_text()
    change(path, lambda c: c["images"].pop(0))
    with pytest.raises(UserError, match="stuff_val2017.json: not the images of .*instances_val2017.json, 000000000003"):
        coco_source(root, "val2017", "instances+stuff", 10**6)
    path.write_text(whole)
    change(path, lambda c: c["categories"].append({"id": 7, "name": "floor"}))
    with pytest.raises(UserError, match="category id 7 is there 2 times"):
        coco_source(root, "val2017", "instances+stuff", 10**6)


def test_a_photo_of_another_size_stops_and_a_damaged_one_is_a_failure(root: Path) -> None:
    Image.new("RGB", (5, 4)).save(root / "val2017/000000000001.jpg")
    (root / "val2017/000000000002.jpg").write_bytes(b"")
    source = coco_source(root, "val2017", "instances", 10**6)
    with pytest.raises(UserError, match="image 1: 6 x 4 px, but its photo val2017/000000000001.jpg has 5 x 4"):
        source.load("000000000001")
    with pytest.raises(PhotoError, match="the file is empty"):
        source.load("000000000002")


@needs_assets
@pytest.mark.parametrize("name", ["instances", "stuff"])
@pytest.mark.parametrize("split", ["val2017", "train2017"])
def test_official_areas_and_boxes_are_those_of_the_decoded_masks(name: str, split: str) -> None:
    path = PHOTOS / f"coco/annotations/{name}_{split}.json"
    official = {each["id"]: each for each in json.loads(path.read_text())["annotations"]}
    contents = read_annotations(path)
    size_hw = {picture.image_id: picture.size_hw for picture in contents.pictures.values()}
    found = [each for annotations in contents.of_image.values() for each in annotations]
    assert len(found) == len(official) > 50
    for each in found:
        mask = mask_of(each.segmentation, size_hw[each.image_id])
        area, (x, y, width, height) = (official[each.annotation_id][key] for key in ("area", "bbox"))
        drawn = Image.fromarray(mask).getbbox() or (0, 0, 0, 0)
        if name == "stuff":
            assert mask.sum() == area
        elif not each.crowd:  # of the outline, not of the pixels in it
            assert abs(mask.sum() - area) <= 0.2 * 2 * (width + height) + 2
        if isinstance(each.segmentation, dict):
            assert np.abs(np.subtract(drawn, (x, y, x + width, y + height))).max() <= 2


@needs_assets
def test_official_things_fill_the_pixels_that_stuff_leaves_to_them() -> None:
    things = coco_source(PHOTOS / "coco", "val2017", "instances", 10**8)
    stuff = coco_source(PHOTOS / "coco", "val2017", "stuff", 10**8)
    both = coco_source(PHOTOS / "coco", "val2017", "instances+stuff", 10**8)
    assert things.classes is not None and len(things.classes) == 81 and things.classes[1:3] == ("person", "bicycle")
    assert both.classes is not None and len(both.classes) == 171 and len(stuff.classes or ()) == 91
    for photo_id in both.list():
        thing, below, all_ = (source.load(photo_id).label_map for source in (things, stuff, both))
        assert thing is not None and below is not None and all_ is not None
        drawn = (thing > 0) & (thing != NOT)
        assert np.array_equal(all_[drawn], thing[drawn] - 1)
        free = ~drawn & (below != NOT)
        assert np.array_equal(all_[free], below[free] + 80)
        assert (all_[~drawn & ~free] == NOT).all()
        assert ((thing > 0) & (below != NOT)).mean() < 0.02  # both were drawn at different times
