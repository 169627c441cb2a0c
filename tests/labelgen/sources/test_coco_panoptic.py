"""COCO's panoptic format: segment ids in RGB, categories in json."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from labelgen.core.errors import PhotoError, UserError
from labelgen.sources.coco_panoptic import panoptic_source, read_segment_ids
from labelgen.sources.registry import open_source
from tests.worlds.coco import PHOTOS, categories, change, image_record, needs_assets, write_json, write_photos

IDS = np.array([[0, 1, 256, 65536], [16777215, 1, 256, 7]])
NOT = 255


def write_ids(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)).save(path)


def segment(number: int, category: int, iscrowd: int = 0) -> dict[str, Any]:
    return {"id": number, "category_id": category, "iscrowd": iscrowd, "area": 1, "bbox": [0, 0, 1, 1]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two photos; id 7 of the first is a crowd."""
    write_photos(tmp_path / "val2017", 1, 2)
    ids = np.tile(IDS, (2, 2))[:, :6]
    write_ids(tmp_path / "annotations/panoptic_val2017/1.png", ids)
    write_ids(tmp_path / "annotations/panoptic_val2017/2.png", np.full((4, 6), 9))
    segments = [segment(1, 5), segment(256, 200), segment(65536, 5), segment(16777215, 3), segment(7, 3, iscrowd=1)]
    annotations = [
        {"image_id": 1, "file_name": "1.png", "segments_info": segments},
        {"image_id": 2, "file_name": "2.png", "segments_info": [segment(9, 200)]},
    ]
    contents = {"images": [image_record(1), image_record(2)], "annotations": annotations}
    named = categories((5, "cat"), (200, "sky-merged"), (3, "person"))
    write_json(tmp_path / "annotations/panoptic_val2017.json", contents | {"categories": named})
    return tmp_path


def test_segments_have_the_classes_of_their_categories_void_and_crowds_none(root: Path) -> None:
    splits = {"val": {"photos": "val2017", "masks": "panoptic_val2017"}}
    photos = {"root": str(root), "source": "coco_panoptic", "max_pixels": 10**6, "ignore_index": 255}
    source = open_source(ConfigDict(photos | {"splits": splits}), "val")
    assert source.classes == ("person", "cat", "sky-merged") and source.has_truth
    assert source.list() == ["000000000001", "000000000002"]
    photo = source.load("000000000001")
    assert photo.label_map is not None and photo.label_map.dtype == np.uint8 and photo.image.shape == (4, 6, 3)
    assert photo.label_map.tolist() == [[NOT, 1, 2, 1, NOT, 1], [0, 1, 2, NOT, 0, 1]] * 2
    other = source.load("000000000002").label_map
    assert other is not None and (other == 2).all()


def test_photos_and_masks_may_end_in_another_case_than_in_the_json(root: Path) -> None:
    for path in [*root.rglob("*.jpg"), *root.rglob("*.png")]:
        path.rename(path.with_suffix(path.suffix.upper()))
    splits = {"val": {"photos": "val2017", "masks": "panoptic_val2017"}}
    photos = {"root": str(root), "source": "coco_panoptic", "max_pixels": 10**6, "ignore_index": 255}
    source = open_source(ConfigDict(photos | {"splits": splits}), "val")
    label_map = source.load("000000000002").label_map
    assert label_map is not None and (label_map == 2).all()
    assert source.file("000000000002").endswith("000000000002.JPG")


def test_without_masks_no_json_is_needed(root: Path) -> None:
    (root / "annotations/panoptic_val2017.json").unlink()
    splits = {"val": {"photos": "val2017", "masks": ""}}
    settings = {"source": "coco_panoptic", "root": str(root), "max_pixels": 10**6, "splits": splits}
    source = open_source(ConfigDict(settings), "val")
    assert len(source.list()) == 2 and source.classes is None and source.load("000000000001").label_map is None


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            lambda c: c["annotations"][0].pop("segments_info"),
            "an annotation without image_id, file_name or segments_info",
        ),
        (lambda c: c["annotations"][0].update(image_id=4), "annotation of image_id 4: no image has this id"),
        (lambda c: c["annotations"].pop(), "image 2 has no annotation"),
        (lambda c: c["annotations"][1].update(image_id=1), "annotation of image_id 1 is there 2 times"),
        (lambda c: c["images"][1].update(id=1), "image id 1 is there 2 times"),
        (lambda c: c["annotations"][1].update(file_name="3.png"), "3.png: no such mask; 1 of 2 masks are missing"),
        (lambda c: c["images"][1].update(file_name="3.jpg"), "val2017/3.jpg: no such photo; 1 of 2 photos are missing"),
        (
            lambda c: c["annotations"][0]["segments_info"][0].update(category_id=4),
            "1.png: segment 1: no category has its category_id 4",
        ),
        (lambda c: c["annotations"][0]["segments_info"][0].update(id=256), "1.png: segment id 256 is there 2 times"),
        (lambda c: c["annotations"][0]["segments_info"][0].pop("id"), "1.png: a segment without id or category_id"),
        (lambda c: c["categories"][0].update(name="person"), "category 'person' is there 2 times"),
        (lambda c: c["categories"][0].update(id=3), "category id 3 is there 2 times"),
    ],
)
def test_records_that_do_not_fit_are_refused_at_once(
    root: Path, how: Callable[[dict[str, Any]], Any], message: str
) -> None:
    change(root / "annotations/panoptic_val2017.json", how)
    with pytest.raises(UserError, match=message):
        panoptic_source(root, "val2017", "panoptic_val2017", 10**6)


def test_masks_that_are_not_of_the_photo_or_its_json_stop_the_run(root: Path) -> None:
    folder = root / "annotations/panoptic_val2017"
    source = panoptic_source(root, "val2017", "panoptic_val2017", 10**6)

    def refused(message: str) -> None:
        with pytest.raises(UserError, match=message):
            source.load("000000000002")

    write_ids(folder / "2.png", np.full((4, 6), 10))
    refused("2.png: segment id 10 is not in the json's segments_info")
    write_ids(folder / "2.png", np.full((6, 4), 9))
    refused("2.png: 4 x 6 px, but its photo 000000000002.jpg has 6 x 4")
    Image.new("L", (6, 4), 9).save(folder / "2.png")
    refused("2.png: a mask of mode L; segment ids in RGB are wanted")
    (folder / "2.png").write_bytes(b"broken")
    refused("2.png: the mask cannot be read")
    (root / "val2017/000000000002.jpg").write_bytes(b"broken")
    with pytest.raises(PhotoError, match="not a picture"):
        source.load("000000000002")
    Image.new("RGB", (6, 5)).save(root / "val2017/000000000002.jpg")
    refused("panoptic_val2017.json: image 2: 6 x 4 px, but its photo val2017/000000000002.jpg has 6 x 5")


def test_a_missing_json_is_named(root: Path) -> None:
    with pytest.raises(UserError, match="annotations/panoptic_train2017.json: no such file"):
        panoptic_source(root, "val2017", "panoptic_train2017", 10**6)


def test_another_json_of_coco_is_told_from_a_panoptic_one(root: Path) -> None:
    detection = {"id": 1, "image_id": 1, "category_id": 5, "segmentation": [[0, 0, 1, 0, 1, 1]]}
    change(root / "annotations/panoptic_val2017.json", lambda c: c.update(annotations=[detection]))
    with pytest.raises(UserError, match="is it a panoptic json"):
        panoptic_source(root, "val2017", "panoptic_val2017", 10**6)


@needs_assets
@pytest.mark.parametrize(("name", "count"), [("panoptic_val2017", 133), ("panoptic_derived", 171)])
def test_official_areas_are_those_of_the_classes(name: str, count: int) -> None:
    folder = PHOTOS / "coco_panoptic"
    contents = json.loads((folder / f"annotations/{name}.json").read_text())
    source = panoptic_source(folder, "val2017", name, 10**8)
    assert source.classes is not None and len(source.classes) == count
    names = {each["id"]: each["name"] for each in contents["categories"]}
    assert len(source.list()) == len(contents["annotations"]) > 0
    for each in contents["annotations"]:
        label_map = source.load(each["file_name"].removesuffix(".png")).label_map
        assert label_map is not None
        areas = dict.fromkeys(names.values(), 0)
        for part in each["segments_info"]:
            areas[names[part["category_id"]]] += part["area"] * (not part["iscrowd"])
        found = np.bincount(label_map.ravel(), minlength=256)
        assert found[: len(names)].tolist() == [areas[name] for name in source.classes]
        ids = read_segment_ids(folder / "annotations" / name / each["file_name"])
        assert {int(number) for number in np.unique(ids)} - {0} == {part["id"] for part in each["segments_info"]}
        assert found[NOT] == label_map.size - sum(areas.values())
