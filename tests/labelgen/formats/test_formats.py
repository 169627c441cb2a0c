"""Every format, written and read back: pixels, names, sizes, classes, confidence, and what is said to be lost."""

import json
import os
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from labelgen.core.errors import UserError
from labelgen.core.ontology import UNLABELLED, Ontology
from labelgen.data.records import png_array
from labelgen.data.rle import encode_mask
from labelgen.formats.classes import class_infos
from labelgen.formats.exporter import FORMATS, Export, read_formats
from labelgen.formats.writers import Annotated, ClassInfo, panoptic_png, things_of
from labelgen.sources.coco_masks import decode_string, encode_string
from tests.worlds.painting import painted

CLASSES = [
    ClassInfo("grass", (230, 159, 0), ("grass", "lawn")),
    ClassInfo('"Ü" <&>', (86, 180, 233), ("u",)),
    ClassInfo("sky: blue", (0, 158, 115), ("sky",)),
]
NAMES = [info.name for info in CLASSES]
Maps = dict[str, np.ndarray]


def photos(folder: Path, confident: bool = True) -> list[Annotated]:
    """A map with a hole that holds an island and an unlabelled pixel, and one of noise; pictures beside them."""
    ring = np.zeros((8, 10), np.int32)
    ring[1:7, 2:8] = 1
    ring[2:6, 3:7] = -1
    ring[3:5, 4:6] = 2
    ring[7, 9] = -1
    rng = np.random.default_rng(0)
    found = []
    for i, (name, label_map) in enumerate({"a/ring": ring, "b & c/noise": rng.integers(-1, 3, (11, 6))}.items()):
        path = folder / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", label_map.shape[::-1]).save(path)
        confidence = rng.integers(0, 256, label_map.shape).astype(np.uint8) if confident else None
        found.append(Annotated(i, name, f"{name}.png", path, label_map.astype(np.int32), confidence))
    return found


@pytest.fixture(name="shown")
def shown_fixture(tmp_path: Path) -> list[Annotated]:
    return photos(tmp_path)


@pytest.fixture(name="out")
def out_fixture(tmp_path: Path, shown: list[Annotated]) -> Path:
    export = Export(tmp_path / "out", tuple(FORMATS), CLASSES)
    for photo in shown:
        export.add(photo)
    export.finish([export.state()])
    return tmp_path / "out"


def same(found: Maps, shown: list[Annotated]) -> bool:
    return found.keys() == {photo.name for photo in shown} and all(
        np.array_equal(found[photo.name], photo.label_map) for photo in shown
    )


def test_png(out: Path, shown: list[Annotated]) -> None:
    found = {}
    for photo in shown:
        image = Image.open(out / f"masks/{photo.name}.png")
        values = np.asarray(image).astype(int)
        assert image.mode == "P" and image.getpalette()[:9] == [c for info in CLASSES for c in info.colour]
        assert image.getpalette()[255 * 3 :] == [255, 255, 255]
        found[photo.name] = np.where(values == 255, -1, values)
        assert np.array_equal(np.asarray(Image.open(out / f"confidence/{photo.name}.png")), photo.confidence)
    assert same(found, shown)
    legend = json.loads((out / "classes.json").read_text())
    assert legend["grass"] == {"index": 0, "colour": "#e69f00", "words": ["grass", "lawn"]} and len(legend) == 3


def test_coco_by_its_own_reader(out: Path, shown: list[Annotated]) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    mask_api = pytest.importorskip("pycocotools.mask")
    read = coco.COCO(str(out / "coco/semantic.json"))
    assert [category["name"] for category in read.loadCats(read.getCatIds())] == NAMES
    found = {}
    for image in read.loadImgs(read.getImgIds()):
        label_map = np.full((image["height"], image["width"]), -1)
        photo = next(photo for photo in shown if photo.file == image["file_name"])
        for annotation in read.loadAnns(read.getAnnIds(image["id"])):
            mask = read.annToMask(annotation).astype(bool)
            assert (label_map[mask] == -1).all() and annotation["iscrowd"] == 0
            assert annotation["area"] == mask.sum() == mask_api.area(annotation["segmentation"])
            assert annotation["bbox"] == mask_api.toBbox(annotation["segmentation"]).tolist()
            assert photo.confidence is not None
            mean = photo.confidence[mask].mean() / 255
            assert annotation["attributes"]["confidence"] == pytest.approx(mean, abs=6e-4)
            label_map[mask] = annotation["category_id"] - 1
        found[photo.name] = label_map
    assert same(found, shown)
    assert sorted(read.anns) == list(range(1, len(read.anns) + 1))


def test_run_lengths_are_written_as_pycocotools_writes_them() -> None:
    mask_api = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for shape, share in (((1, 1), 1), ((1, 1), 0), ((3, 2), 0.5), ((300, 4000), 0.5), ((900, 1100), 0.001)):
        mask = rng.random(shape) < share
        runs = encode_mask(mask.T)
        wanted = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert encode_string(runs) == wanted and np.array_equal(decode_string(wanted), runs)


def test_panoptic(out: Path, shown: list[Annotated]) -> None:
    read = json.loads((out / "coco/panoptic.json").read_text())
    files = {image["id"]: image["file_name"] for image in read["images"]}
    found = {}
    for annotation in read["annotations"]:
        pixels = np.asarray(Image.open(out / "coco/panoptic" / annotation["file_name"])).astype(int)
        ids = pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2]
        category = {segment["id"]: segment["category_id"] for segment in annotation["segments_info"]}
        assert set(np.unique(ids)) - {0} == category.keys()
        assert all((ids == segment["id"]).sum() == segment["area"] for segment in annotation["segments_info"])
        name = os.path.splitext(files[annotation["image_id"]])[0]
        found[name] = np.vectorize(lambda number, of=category: of.get(number, 0) - 1)(ids)
    assert same(found, shown)


def classes_of(roles: str) -> list[ClassInfo]:
    """Classes a, b, c ... with roles by letter: t thing, s stuff, - not known."""
    kinds = {"t": "thing", "s": "stuff", "-": ""}
    return [ClassInfo(chr(ord("a") + i), (i, i, i), (), kinds[role]) for i, role in enumerate(roles)]


@pytest.mark.parametrize(
    ("roles", "there", "things", "said"),
    [
        ("t-s", {0: 5, 1: 9}, {0}, ""),
        ("t-s", {0: 5, 2: 9}, {0}, ""),
        ("---", {0: 9, 1: 5, 2: 7}, {1}, "calls 'b' a thing, as pq_compute wants both kinds .eval.groups.things"),
        ("s--", {0: 1, 1: 5, 2: 7}, {1}, "calls 'b' a thing"),
        ("t--", {1: 5, 2: 7}, {0, 1}, "calls 'b' a thing"),
        ("sss", {0: 9, 1: 5}, {1}, "calls 'b' a thing"),
        ("ttt", {0: 9, 1: 5, 2: 7}, {1, 2}, "calls 'a' stuff, as"),
        ("---", {1: 5}, set(), "all there is is stuff: pq_compute wants"),
        ("---", {}, set(), ""),
    ],
)
def test_panoptic_has_things_and_stuff(
    roles: str, there: dict[int, int], things: set[int], said: str, tmp_path: Path
) -> None:
    classes = classes_of(roles)
    found, message = things_of(classes, Counter(there))
    assert found == things and bool(re.search(said, message)) and bool(message) == bool(said)
    export = Export(tmp_path, ("coco",), classes)
    export.add(Annotated(0, "a", "a", None, np.repeat([-1, *there], [1, *there.values()]).astype(np.int32)[None]))
    export.finish([export.state()])
    categories = json.loads((tmp_path / "coco/panoptic.json").read_text())["categories"]
    assert [category["isthing"] for category in categories] == [int(i in things) for i in range(len(classes))]
    assert export.remarks([export.state()]) == (f"; coco: {message}" if message else "")


def test_what_is_a_thing_is_said_by_role_by_group_and_by_cocos_names() -> None:
    names = ("blob", "lawn", "cat", "pet", "moss", "background")
    words = ("blob", "lawn", "cat", "dog", "grass", "sky")
    ontology = Ontology(names, words, tuple(range(6)), ("thing", "", "stuff", "", "", "background"))
    infos = class_infos(ontology, names, {"Things": ("lawn", "moss"), "rare": ("blob", "pet")})
    assert [info.role for info in infos] == ["thing", "thing", "stuff", "thing", "thing", "stuff"]
    plain = Ontology(names[:5], words[:5], tuple(range(5)), ("",) * 5)
    assert [info.role for info in class_infos(plain, names)] == ["", "", "thing", "thing", "stuff", "stuff"]


def test_a_panoptic_png_is_called_as_its_picture(tmp_path: Path) -> None:
    files = {"train/a": "photos/a.jpg", "val/a": "photos/a.jpg", "train/b": "photos/b.PNG", "train/c": "../c.jpg"}
    export = Export(tmp_path / "out", ("coco",), classes_of("ts"))
    for number, (name, file) in enumerate(files.items()):
        export.add(Annotated(number, name, file, tmp_path / file, np.array([[0, 1]], np.int32)))
    export.add(Annotated(4, "train/d", "train/d", None, np.array([[0, 1]], np.int32)))
    export.finish([export.state()])
    pngs = ["photos/a.png", "val/a.png", "photos/b.png", "train/c.png", "train/d.png"]
    read = json.loads((tmp_path / "out/coco/panoptic.json").read_text())
    assert [annotation["file_name"] for annotation in read["annotations"]] == pngs
    assert all((tmp_path / "out/coco/panoptic" / png).is_file() for png in pngs)
    assert export.remarks([export.state()]) == ""


def test_panoptic_ids_beyond_a_byte() -> None:
    assert png_array(panoptic_png(np.array([[-1, 254, 255, 70000]], np.int32))).tolist() == [
        [[0, 0, 0], [255, 0, 0], [0, 1, 0], [70001 % 256, 70001 // 256 % 256, 1]]
    ]


def index(label: str) -> int:
    return -1 if label == UNLABELLED else NAMES.index(label)


def test_labelme(out: Path, shown: list[Annotated]) -> None:
    found = {}
    for photo in shown:
        path = out / f"labelme/{photo.name}.json"
        read = json.loads(path.read_text())
        size_hw = read["imageHeight"], read["imageWidth"]
        assert (path.parent / read["imagePath"]).samefile(photo.path or "") and read["imageData"] is None
        assert {shape["shape_type"] for shape in read["shapes"]} == {"polygon"}
        found[photo.name] = painted([(index(shape["label"]), shape["points"]) for shape in read["shapes"]], size_hw)
        assert all(0 <= float(shape["description"].removeprefix("confidence ")) <= 1 for shape in read["shapes"])
    assert same(found, shown)


def test_cvat(out: Path, shown: list[Annotated]) -> None:
    root = ElementTree.parse(out / "cvat/annotations.xml").getroot()
    assert root.findtext("version") == "1.1" and root.findtext("meta/task/size") == "2"
    labels = [label.findtext("name") for label in root.iterfind("meta/task/labels/label")]
    assert labels == [*NAMES, UNLABELLED]
    found = {}
    for image in root.iterfind("image"):
        polygons = sorted(image.iterfind("polygon"), key=lambda polygon: int(polygon.attrib["z_order"]))
        rings = [[list(map(int, pair.split(","))) for pair in p.attrib["points"].split(";")] for p in polygons]
        drawn = [(index(p.attrib["label"]), np.array(ring)) for p, ring in zip(polygons, rings, strict=True)]
        assert [polygon.attrib["z_order"] for polygon in polygons] == list(map(str, range(len(polygons))))
        size_hw = int(image.attrib["height"]), int(image.attrib["width"])
        found[os.path.splitext(image.attrib["name"])[0]] = painted(drawn, size_hw)
        assert all(0 <= float(p.findtext("attribute[@name='confidence']") or "") <= 1 for p in polygons)
    assert same(found, shown)


def test_yolo_loses_the_unlabelled_pixels_in_holes_alone(out: Path, shown: list[Annotated]) -> None:
    lost = 0
    for photo in shown:
        size_hw = photo.label_map.shape[0], photo.label_map.shape[1]
        polygons = []
        for line in (out / f"yolo/labels/{photo.name}.txt").read_text().splitlines():
            value, *numbers = line.split()
            ring = np.array(numbers, float).reshape(-1, 2) * size_hw[::-1]
            assert len(ring) >= 3 and abs(ring - ring.round()).max() < 1e-4
            polygons.append((int(value), ring.round().astype(int)))
        found = painted(polygons, size_hw)
        labelled = photo.label_map >= 0
        assert np.array_equal(found[labelled], photo.label_map[labelled])
        lost += int((found != photo.label_map).sum())
    assert lost == sum(photo.outlines.unlabelled_px for photo in shown) > 4
    assert yaml.safe_load((out / "yolo/data.yaml").read_text())["names"] == dict(enumerate(NAMES))


def test_what_is_lost_is_said(tmp_path: Path) -> None:
    export = Export(tmp_path / "out", ("png", "coco", "labelme", "yolo"), CLASSES)
    export.add(photos(tmp_path)[0])
    assert export.remarks([export.state()]) == (
        "; coco: panoptic.json calls 'sky: blue' a thing, as pq_compute wants both kinds "
        "(eval.groups.things and .stuff say which are)"
        "; labelme, yolo: 3 polygons have holes, which polygons after them are to paint over"
        "; labelme, yolo: the tool itself draws outlines as inside, up to a pixel more to the right and below"
        "; yolo: 12 unlabelled pixels in holes count as the class around them"
    )
    assert Export(tmp_path / "none", ("labelme",), CLASSES).remarks([]) == ""


def test_photos_of_several_processes_come_together(out: Path, shown: list[Annotated], tmp_path: Path) -> None:
    halves = [Export(tmp_path / "halves", tuple(FORMATS), CLASSES) for _ in shown]
    for half, photo in zip(halves, reversed(shown), strict=True):
        half.add(photo)
    states = [json.loads(json.dumps(half.state())) for half in halves]
    halves[0].finish(states)
    for file in ("coco/semantic.json", "coco/panoptic.json", "cvat/annotations.xml", "yolo/data.yaml", "classes.json"):
        assert (tmp_path / "halves" / file).read_bytes() == (out / file).read_bytes()


def test_without_confidence_and_without_a_picture_there_is_no_word_of_them(tmp_path: Path) -> None:
    photo = Annotated(0, "train/a", "train/a", None, np.zeros((2, 3), np.int32))
    export = Export(tmp_path, tuple(FORMATS), CLASSES)
    export.add(photo)
    export.finish([export.state()])
    assert not (tmp_path / "confidence").exists()
    assert "confidence" not in (tmp_path / "cvat/annotations.xml").read_text()
    assert "attributes" not in (tmp_path / "coco/semantic.json").read_text()
    shapes: Any = json.loads((tmp_path / "labelme/train/a.json").read_text())
    assert shapes["shapes"][0]["description"] == "" and shapes["imagePath"] == "a"


def test_formats_are_named() -> None:
    assert read_formats("yolo, png,yolo") == ("yolo", "png")
    for text, name in (("png,xml", "xml"), ("", "")):
        with pytest.raises(UserError, match=f"--format={text}: {name!r} is no format; there are png, coco, labelme"):
            read_formats(text)


ODD = 'a\x01b\x7f\ufffe c\x85d\u2028e \U0001f600 \\x01 <&>"'


def test_letters_that_a_format_lacks(tmp_path: Path) -> None:
    classes = [ClassInfo(ODD, (1, 2, 3), (ODD,)), CLASSES[0]]
    photo = Annotated(0, "train/a\x02", "photos/a\x02.jpg", None, np.array([[0, 1]], np.int32))
    export = Export(tmp_path, tuple(FORMATS), classes)
    export.add(photo)
    export.finish([export.state()])
    root = ElementTree.parse(tmp_path / "cvat/annotations.xml").getroot()
    shown = ODD.replace("\x01", "\\x01").replace("\ufffe", "\\ufffe")
    assert [label.findtext("name") for label in root.iterfind("meta/task/labels/label")] == [shown, "grass"]
    assert [image.attrib["name"] for image in root.iterfind("image")] == ["photos/a\\x02.jpg"]
    assert {polygon.attrib["label"] for polygon in root.iterfind("image/polygon")} == {shown, "grass"}
    assert "; cvat: 2 names have letters that XML lacks, written like \\x01" in export.remarks([export.state()])
    assert yaml.safe_load((tmp_path / "yolo/data.yaml").read_text())["names"] == {0: ODD, 1: "grass"}
    for file in ("coco/semantic.json", "coco/panoptic.json"):
        assert json.loads((tmp_path / file).read_text())["categories"][0]["name"] == ODD
    assert json.loads((tmp_path / "labelme/train/a\x02.json").read_text())["shapes"][0]["label"] in (ODD, "grass")
    assert list(json.loads((tmp_path / "classes.json").read_text())) == [ODD, "grass"]


def test_a_picture_whose_path_is_not_utf8_is_named_all_the_same(tmp_path: Path) -> None:
    folder = os.path.join(os.fsencode(tmp_path), b"\xff")
    os.mkdir(folder)
    path = Path(os.fsdecode(folder), "a.png")
    Image.new("RGB", (2, 1)).save(path)
    export = Export(tmp_path / "out", ("labelme",), CLASSES)
    export.add(Annotated(0, "a", "a.png", path, np.array([[0, 1]], np.int32)))
    read = json.loads((tmp_path / "out/labelme/a.json").read_bytes())
    assert (tmp_path / "out/labelme" / read["imagePath"]).samefile(path)


@pytest.mark.parametrize("linked", ["out", "out/labelme", "photos", "photo"])
def test_labelme_finds_its_picture_through_links(tmp_path: Path, linked: str) -> None:
    places = {"out": tmp_path / "out", "out/labelme": tmp_path / "out/labelme", "photos": tmp_path / "photos"}
    for place in places.values():
        if place.name == linked.rpartition("/")[2]:
            real = tmp_path / "deep/er/disk" / place.name
            real.mkdir(parents=True)
            place.parent.mkdir(exist_ok=True)
            place.symlink_to(real)
    picture = tmp_path / "photos/a/b.png"
    picture.parent.mkdir(parents=True)
    file = tmp_path / "elsewhere.png" if linked == "photo" else picture
    Image.new("RGB", (2, 1)).save(file)
    if linked == "photo":
        picture.symlink_to(file)
    export = Export(tmp_path / "out", ("labelme",), CLASSES)
    export.add(Annotated(0, "train/a/b", "a/b.png", picture, np.array([[0, 1]], np.int32)))
    written = tmp_path / "out/labelme/train/a/b.json"
    way = json.loads(written.read_text())["imagePath"]
    assert os.path.samefile(os.path.join(written.parent, way), picture) and way.endswith("a/b.png")
