"""The trees of published data sets, in miniature: photos found, values read as their classes, half of it refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.default import get_config
from labelgen.core.errors import UserError
from labelgen.sources import folders
from labelgen.sources.folders import read_table, table_truth
from labelgen.sources.photos import Source
from labelgen.sources.registry import open_source

SIZE = (3, 4)
CITY = "aachen/aachen_000000_000019"


def opened(root: Path, source: str, photos: str, masks: str = "") -> Source:
    config = get_config().photos
    config.update(root=str(root), source=source, splits={"val": {"photos": photos, "masks": masks}})
    return open_source(config, "val")


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1], "green").save(path)


def mask(path: Path, values: Any, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.resize(np.array(values, np.uint8), SIZE))
    if palette:
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette(list(range(256)) * 3)
    image.save(path)


def lists(root: Path, kind: str, **names: str) -> None:
    (root / "ImageSets" / kind).mkdir(parents=True, exist_ok=True)
    for name, text in names.items():
        (root / "ImageSets" / kind / f"{name}.txt").write_text(text)


def voc(root: Path) -> None:
    lists(root, "Segmentation", val="2007_000033\n2007_000042\n", train="2007_000033\n")
    for name in ("2007_000033", "2007_000042", "2008_not_listed"):
        photo(root / f"JPEGImages/{name}.jpg")
    mask(root / "SegmentationClass/2007_000033.png", [0, 1, 20, 255], palette=True)
    mask(root / "SegmentationClass/2007_000042.png", [15, 12, 0, 255], palette=True)


def named(source: Source, photo_id: str) -> list[str]:
    """The names of the first row of a photo's label map; "" where it is not annotated."""
    label_map, classes = source.load(photo_id).label_map, source.classes
    assert label_map is not None and classes is not None and label_map.dtype == np.uint8
    return ["" if value == 255 else classes[value] for value in label_map[0]]


def test_voc_reads_its_lists_and_palette(tmp_path: Path) -> None:
    voc(tmp_path)
    source = opened(tmp_path, "voc", "val", "SegmentationClass")
    assert source.list() == ["2007_000033", "2007_000042"] and source.has_truth
    assert source.file("2007_000042") == "JPEGImages/2007_000042.jpg"
    assert named(source, "2007_000033") == ["background", "aeroplane", "tvmonitor", ""]
    assert named(source, "2007_000042") == ["person", "dog", "background", ""]


def test_of_several_lists_the_first_that_is_there_is_taken(tmp_path: Path) -> None:
    voc(tmp_path)
    assert opened(tmp_path, "voc", "trainaug|train").list() == ["2007_000033"]
    lists(tmp_path, "Segmentation", trainaug="2007_000042\n")
    assert opened(tmp_path, "voc", "trainaug|train").list() == ["2007_000042"]


def test_context_has_lists_of_its_own(tmp_path: Path) -> None:
    lists(tmp_path, "SegmentationContext", val="2008_000002\n")
    photo(tmp_path / "JPEGImages/2008_000002.jpg")
    mask(tmp_path / "SegmentationClassContext/2008_000002.png", [0, 1, 59, 255])
    source = opened(tmp_path, "context", "val", "SegmentationClassContext")
    assert named(source, "2008_000002") == ["background", "aeroplane", "wood", ""]


def test_cityscapes_label_ids_and_train_ids_are_the_same_classes(tmp_path: Path) -> None:
    photo(tmp_path / f"leftImg8bit/val/{CITY}_leftImg8bit.png")
    mask(tmp_path / f"gtFine/val/{CITY}_gtFine_labelIds.png", [7, 26, 33, 3])
    mask(tmp_path / f"gtFine/val/{CITY}_gtFine_labelTrainIds.png", [0, 13, 18, 255])
    for masks in ("labelIds", "labelTrainIds"):
        source = opened(tmp_path, "cityscapes", "val", masks)
        assert source.list() == [CITY]
        assert named(source, CITY) == ["road", "car", "bicycle", ""]
    with pytest.raises(UserError, match="masks = 'gtFine'; of Cityscapes set labelIds, labelTrainIds or nothing"):
        opened(tmp_path, "cityscapes", "val", "gtFine")


def test_ade20k_counts_from_one(tmp_path: Path) -> None:
    photo(tmp_path / "images/validation/ADE_val_00000001.jpg")
    mask(tmp_path / "annotations/validation/ADE_val_00000001.png", [0, 1, 3, 150])
    assert named(opened(tmp_path, "ade20k", "validation", "annotations"), "ADE_val_00000001") == [
        "", "wall", "sky", "flag",
    ]  # fmt: skip


def test_camvid_leaves_the_unlabelled_out(tmp_path: Path) -> None:
    photo(tmp_path / "test/0001TP_008550.png")
    mask(tmp_path / "testannot/0001TP_008550.png", [0, 3, 10, 11])
    assert named(opened(tmp_path, "camvid", "test", "testannot"), "0001TP_008550") == ["sky", "road", "bicyclist", ""]


@pytest.mark.parametrize("folder", ["val2017", "images/val2017"])
@pytest.mark.parametrize(("ending", "values"), [("", [0, 89, 181, 255]), ("_labelTrainIds", [0, 79, 170, 255])])
def test_the_two_orders_of_coco_stuff_are_told_apart(tmp_path: Path, folder: str, ending: str, values: Any) -> None:
    photo(tmp_path / folder / "000000000139.jpg")
    mask(tmp_path / f"stuffthingmaps/val2017/000000000139{ending}.png", values)
    source = opened(tmp_path, "coco_stuff", "val2017", "stuffthingmaps")
    assert source.list() == ["000000000139"] and len(source.classes or ()) == 171
    assert named(source, "000000000139") == ["person", "toothbrush", "wood", ""]


def upper_case(root: Path) -> None:
    for path in [*root.rglob("*.jpg"), *root.rglob("*.png")]:
        path.rename(path.with_suffix(path.suffix.upper()))


def test_endings_may_be_in_upper_case(tmp_path: Path) -> None:
    voc(tmp_path / "voc")
    photo(tmp_path / f"city/leftImg8bit/val/{CITY}_leftImg8bit.png")
    mask(tmp_path / f"city/gtFine/val/{CITY}_gtFine_labelIds.png", [7, 26, 33, 3])
    photo(tmp_path / "ade/images/validation/a.jpg")
    mask(tmp_path / "ade/annotations/validation/a.png", [0, 1, 3, 150])
    photo(tmp_path / "stuff/val2017/b.jpg")
    mask(tmp_path / "stuff/maps/val2017/b_labelTrainIds.png", [0, 79, 170, 255])
    upper_case(tmp_path)
    source = opened(tmp_path / "voc", "voc", "val", "SegmentationClass")
    assert named(source, "2007_000042") == ["person", "dog", "background", ""]
    assert source.file("2007_000042") == "JPEGImages/2007_000042.JPG"
    assert named(opened(tmp_path / "city", "cityscapes", "val", "labelIds"), CITY) == ["road", "car", "bicycle", ""]
    assert named(opened(tmp_path / "ade", "ade20k", "validation", "annotations"), "a") == ["", "wall", "sky", "flag"]
    stuff = opened(tmp_path / "stuff", "coco_stuff", "val2017", "maps")
    assert named(stuff, "b") == ["person", "toothbrush", "wood", ""]


def test_what_is_not_named_as_the_data_sets_photos_is_counted(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png", "c.webp", "d.jpeg"):
        photo(tmp_path / "images/validation" / name)
    source = opened(tmp_path, "ade20k", "validation")
    assert source.list() == ["a"]
    assert source.left_out.said() == "left out: 1 .jpeg of other names, 1 .png of other names, 1 .webp of other names"
    line = next(iter(source.left_out.lines()))
    assert line["file"] == str(tmp_path / "images/validation/d.jpeg") and "set photos.source=folder" in line["mend"]
    photo(tmp_path / "images/validation/a.JPG")
    with pytest.raises(UserError, match=r"validation: a.jpg is there twice, with its ending in another case"):
        opened(tmp_path, "ade20k", "validation")


def absent(root: Path) -> None:
    (root / "JPEGImages/2007_000042.jpg").unlink()


@pytest.mark.parametrize(
    ("spoil", "photos", "masks", "message"),
    [
        (absent, "val", "", "2007_000042.jpg: no such photo; 1 of 2 photos are missing.*val.txt names them: unpack"),
        (lambda r: None, "test", "", r"test.txt: no such list of photos; lists there: train, val; fix"),
        (lambda r: lists(r, "Segmentation", val="a\nb\na\n"), "val", "", "val.txt: photo a stands there 2 times"),
        (lambda r: lists(r, "Segmentation", val="\n"), "val", "", "val.txt: names no photo"),
        (
            lambda r: (r / "ImageSets").rename(r / "x"),
            "val",
            "",
            "Sets/Segmentation: no such folder; fix.*unpack",
        ),
        (lambda r: None, "val", "SegmentationClassAug", "2007_000033.png: no such mask; 2 of 2 masks are missing"),
    ],
    ids=["absent photo", "absent list", "twice", "empty list", "half unpacked", "no masks"],
)
def test_half_a_data_set_is_refused(
    tmp_path: Path, spoil: Callable[[Path], Any], photos: str, masks: str, message: str
) -> None:
    voc(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        opened(tmp_path, "voc", photos, masks)


def test_a_photo_without_pictures_of_its_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images/training").mkdir(parents=True)
    with pytest.raises(UserError, match="images/training: no .jpg picture in it; unpack the photos there"):
        opened(tmp_path, "ade20k", "training")
    with pytest.raises(UserError, match="images/validation: no such folder"):
        opened(tmp_path, "ade20k", "validation")


def test_masks_of_another_data_set_are_refused(tmp_path: Path) -> None:
    voc(tmp_path)
    mask(tmp_path / "SegmentationClass/2007_000033.png", [0, 77, 20, 255])
    source = opened(tmp_path, "voc", "val", "SegmentationClass")
    with pytest.raises(UserError, match="2007_000033.png: value 77 stands for no class of voc .0 to 20.; are these"):
        source.load("2007_000033")
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "SegmentationClass/2007_000033.png")
    with pytest.raises(UserError, match="2007_000033.png: a mask of mode RGB"):
        source.load("2007_000033")


def test_a_table_is_lines_of_value_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.txt").write_text("# comment\n7: road  # where cars drive\n\n3: side walk\n")
    monkeypatch.setattr(folders, "FOLDER", tmp_path)
    assert list(read_table("small").items()) == [(3, "side walk"), (7, "road")]
    truth = table_truth("small", 0)
    assert truth.classes == ("side walk", "road") and truth.count == 2
    assert truth(Path("m.png"), np.array([[7, 3, 0]])).tolist() == [[1, 0, -1]]
