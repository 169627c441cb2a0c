"""Corrected labels of every kind: whose photo, which classes, what lies on what; and what is refused, by its file."""

import errno
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labelgen.core.errors import UserError
from labelgen.core.ontology import parse_words
from labelgen.labels.matching import match
from labelgen.sources.corrections import open_corrections
from tests.worlds.labelgen_run import edit_mask as edit
from tests.worlds.labelgen_run import label_rows as rows
from tests.worlds.labelgen_run import run

LABEL = ("--stage=label", "--config.labels.name=new")


def test_a_json_of_another_tool(world: Path, copy: Path, out: Path, tmp_path: Path) -> None:
    """Polygons, other ids, other folders in front, a small shape on a large one, unlabelled pixels as a class."""
    height, width = 12, 20
    shapes = [([2, 2, 4, 2, 4, 4, 2, 4], 5), ([0, 0, 20, 0, 20, 6, 0, 6], 9), ([5, 0, 8, 0, 8, 2, 5, 2], 7)]
    read = {
        "images": [{"id": 77, "file_name": "upload/photos/train/000.png", "height": height, "width": width}],
        "categories": [{"id": 5, "name": "ball"}, {"id": 9, "name": "sky"}, {"id": 7, "name": "__ignore__"}],
        "annotations": [
            {"id": i, "image_id": 77, "category_id": category, "segmentation": [ring]}
            for i, (ring, category) in enumerate(shapes)
        ],
    }
    (tmp_path / "tool").mkdir()
    (tmp_path / "tool/instances.json").write_text(json.dumps(read))
    assert run(world, copy, *LABEL, f"--labels_from={tmp_path / 'tool'}") == 0
    wanted = np.full((height, width), 255)
    wanted[:6], wanted[2:4, 2:4], wanted[:2, 5:8] = 0, 2, 255
    assert np.array_equal(rows(copy, "new")["000"].label_map, wanted)


def test_indices_are_those_of_the_legend_beside_them(world: Path, copy: Path, out: Path) -> None:
    """Where it has no colours; else these count."""
    legend = json.loads((out / "classes.json").read_text())
    legend["sky"]["index"], legend["ball"]["index"] = 2, 0
    for fields in legend.values():
        del fields["colour"]
    (out / "classes.json").write_text(json.dumps(legend))
    assert run(world, copy, *LABEL, f"--labels_from={out / 'masks'}") == 0
    free, new = rows(copy, "default")["005"].label_map, rows(copy, "new")["005"].label_map
    assert np.array_equal(new, np.array([2, 1, 0, *[255] * 253])[free])


def unknown_index(out: Path) -> str:
    edit(out / "masks/train/001.png", lambda values: values.fill(9))
    return r"masks/train/001.png: class index 9, which .*classes.json does not have"


def unknown_class(out: Path) -> str:
    legend = (out / "classes.json").read_text()
    (out / "classes.json").write_text(legend.replace('"ball"', '"balloon"'))
    return r"masks/train/\d+.png: class 'balloon', which the words do not have \(sky, grass, ball\); fix it, or take"


def other_size(out: Path) -> str:
    Image.new("L", (5, 4)).save(out / "masks/train/002.png")
    return "masks/train/002.png: 5 x 4 px, but its photo train/002 has 20 x 14; draw on the photo"


def no_photo(out: Path) -> str:
    (out / "masks/train/001.png").rename(out / "masks/train/nobody.png")
    return (
        "masks/train/nobody.png: belongs to no photo of the labelled splits; call it SPLIT/ID as labelgen.export does"
    )


def twice(out: Path) -> str:
    (out / "masks/002.png").write_bytes((out / "masks/train/002.png").read_bytes())
    return "masks/train/002.png: is of the same photo as .*masks/002.png; take one of them out"


def coloured(out: Path) -> str:
    Image.new("RGB", (20, 13)).save(out / "masks/train/001.png")
    return "masks/train/001.png: a mask of mode RGB; class indices as grey or palette values are wanted"


def both(out: Path) -> str:
    (out / "coco").rename(out / "masks/coco")
    return r"masks: has labels in .*masks and .*coco/semantic.json; name those that were corrected: --labels_from="


def nothing(out: Path) -> str:
    for path in (out / "masks/train").glob("*"):
        path.unlink()
    return "masks: no PNG, no json of LabelMe, COCO or Label Studio in it; write some with"


@pytest.mark.parametrize("spoil", [unknown_index, unknown_class, other_size, no_photo, twice, coloured, both, nothing])
def test_what_the_user_must_fix(
    spoil: Callable[[Path], str], world: Path, copy: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = spoil(out)
    assert run(world, copy, *LABEL, f"--labels_from={out / 'masks'}") == 2
    lines = capsys.readouterr().err.splitlines()
    assert re.search(message, lines[-1]), lines[-1]
    assert not (copy / "labels/new").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 4}, "annotation 1: no category has its category_id 4; export it again"),
        ({"segmentation": {"size": [17, 20], "counts": "0"}}, "image .*annotation 1: its RLE does not fill"),
    ],
)
def test_a_json_that_cannot_be_right(
    change: dict[str, Any], message: str, world: Path, copy: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = out / "coco/semantic.json"
    read = json.loads(path.read_text())
    read["annotations"][0].update(change)
    path.write_text(json.dumps(read))
    assert run(world, copy, *LABEL, f"--labels_from={path}") == 2
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape_type": "circle"}, "labelme/train/005.json: a circle of .* points; draw polygons with LabelMe"),
        ({"label": "cat"}, "labelme/train/005.json: class 'cat', which the words do not have"),
        ({"points": [[0, 0], [1, "x"]]}, "labelme/train/005.json: not a file of LabelMe's .*; draw polygons"),
    ],
)
def test_a_file_of_labelme_that_cannot_be_right(
    change: dict[str, Any], message: str, world: Path, copy: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = out / "labelme/train/005.json"
    read = json.loads(path.read_text())
    read["shapes"][0].update(change)
    path.write_text(json.dumps(read))
    assert run(world, copy, *LABEL, f"--labels_from={out / 'labelme'}") == 2
    assert re.search(message, capsys.readouterr().err.splitlines()[-1])


def test_polygons_of_labelme_are_painted_in_their_order(world: Path, copy: Path, tmp_path: Path) -> None:
    shapes = [("ball", [[0, 0], [9, 0], [9, 9], [0, 9]]), ("sky", [[3, 3], [20, 3], [20, 8], [3, 8]])]
    drawn = [{"label": label, "points": points, "shape_type": "polygon"} for label, points in shapes]
    (tmp_path / "made").mkdir()
    fields = {"shapes": drawn, "imagePath": "000.png", "imageHeight": 12, "imageWidth": 20}
    (tmp_path / "made/000.json").write_text(json.dumps(fields))
    assert run(world, copy, *LABEL, f"--labels_from={tmp_path / 'made'}") == 0
    wanted = np.full((12, 20), 255)
    wanted[:9, :9], wanted[3:8, 3:] = 2, 0
    assert np.array_equal(rows(copy, "new")["000"].label_map, wanted)


class Named:
    """Corrections of these names."""

    def __init__(self, *names: str) -> None:
        self.remarks = Counter[str]()
        self._names = names

    def names(self) -> tuple[str, ...]:
        return self._names

    def where(self, name: str) -> str:
        return name

    def load(self, name: str, size_hw: tuple[int, int] | None = None) -> np.ndarray:
        raise NotImplementedError


def test_files_find_their_photos_by_the_end_of_their_path() -> None:
    photos = [("train", "a/1"), ("train", "b/1"), ("train", "b.v2"), ("val", "2"), ("train", "2")]
    found = match(Named("x/train/a/1.png", "b\\1.jpg", "b.v2", "val/2.jpg", "photos/train/2"), photos)
    assert found == {
        ("train", "a/1"): "x/train/a/1.png", ("train", "b/1"): "b\\1.jpg", ("train", "b.v2"): "b.v2",
        ("val", "2"): "val/2.jpg", ("train", "2"): "photos/train/2",
    }  # fmt: skip
    with pytest.raises(
        UserError, match="^1.png: may be that of train/a/1 or train/b/1 of the labelled splits; call it"
    ):
        match(Named("1.png"), photos)
    with pytest.raises(UserError, match="^elsewhere/2.png: may be that of val/2 or train/2"):
        match(Named("elsewhere/2.png"), photos)


@pytest.mark.parametrize(
    "names", [("IMG.jpg", "IMG.jpg.jpg"), ("IMG.json", "IMG.jpg.json"), ("IMG.PNG", "IMG.jpg.PNG")]
)
def test_a_photo_may_have_the_name_of_another_ones_file(names: tuple[str, str]) -> None:
    """IMG.jpg beside IMG.jpg.jpg, whose id is IMG.jpg."""
    both = [("train", "IMG"), ("train", "IMG.jpg")]
    assert match(Named(*names), both) == dict(zip(both, names, strict=True))
    assert match(Named(names[0]), both) == {both[0]: names[0]}
    assert match(Named("IMG.jpg.png"), both[:1]) == {both[0]: "IMG.jpg.png"}  # as some tools call the masks of IMG.jpg
    assert match(Named("a/IMG.jpg"), both[1:]) == {both[1]: "a/IMG.jpg"}  # a list without suffixes


def test_a_photo_may_be_called_as_another_one_in_a_folder() -> None:
    photos = [("train", "a"), ("train", "b/a"), ("train", "c/b/a")]
    for names in (
        ("train/a.png", "train/b/a.png", "train/c/b/a.png"),  # masks of labelgen.export
        ("a.jpg", "b/a.jpg", "c/b/a.jpg"),  # its COCO json, for photos at the root
        ("photos/a.jpg", "photos/b/a.jpg", "photos/c/b/a.jpg"),
    ):
        assert match(Named(*names), photos) == dict(zip(photos, names, strict=True))
    with pytest.raises(UserError, match="^a.jpg: may be that of train/a or train/b/a"):
        match(Named("a.jpg"), photos)  # of a job that had the folder b alone


def test_a_backslash_may_be_of_a_photos_name() -> None:
    photos = [("train", "a\\b"), ("train", "c/d")]
    found = match(Named("train/a\\b.png", "train\\c\\d.png"), photos)
    assert found == {photos[0]: "train/a\\b.png", photos[1]: "train\\c\\d.png"}


def test_names_of_label_studio_find_their_photos() -> None:
    """1a2b3c4d-NAME of an upload, 1a2b3c4d__NAME of a link; a photo that is called so itself comes first."""
    photos = [("train", "cat"), ("train", "0a1b2c3d-dog"), ("train", "e/deadbeef")]
    names = ("images/1a2b3c4d__cat.jpg", "0a1b2c3d-dog.jpg", "deadbeef.jpg")
    assert match(Named(*names), photos) == dict(zip(photos, names, strict=True))
    assert match(Named("00000000-0a1b2c3d-dog.png"), photos) == {photos[1]: "00000000-0a1b2c3d-dog.png"}
    with pytest.raises(UserError, match="belongs to no photo"):
        match(Named("1a2b3c4-cat.jpg"), photos)  # seven digits


def test_an_accent_may_be_a_letter_of_its_own() -> None:
    """macOS writes it so; the photo has it in the letter, or the other way round."""
    photos = [("train", "caf\u00e9/a\u0300"), ("train", "e\u0301")]
    names = ("cafe\u0301/\u00e0.png", "\u00e9.png")
    assert match(Named(*names), photos) == dict(zip(photos, names, strict=True))


def test_hidden_files_are_no_labels_and_suffixes_have_any_case(world: Path, copy: Path, out: Path) -> None:
    """macOS puts ._NAME beside what it copies to other disks."""
    masks, labelme = out / "masks/train", out / "labelme/train"
    edit(masks / "005.png", lambda values: values.fill(2))
    (masks / "005.png").rename(masks / "005.PNG")
    (labelme / "005.json").rename(labelme / "005.JSON")
    for path in (masks / "._005.png", masks / ".cache/001.png", out / "masks/__MACOSX/x.png", labelme / "._005.json"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\0\5\x16\7")
    assert run(world, copy, *LABEL, f"--labels_from={out / 'masks'}") == 0
    assert (rows(copy, "new")["005"].label_map == 2).all()
    words = parse_words(["sky", "grass", "ball"], "words")
    assert "train/005.JSON" in open_corrections(out / "labelme", words).names()


def test_a_folder_of_labels_may_be_a_link_and_a_link_to_itself_ends(out: Path, tmp_path: Path) -> None:
    words = parse_words(["sky", "grass", "ball"], "words")
    (tmp_path / "given").mkdir()
    (tmp_path / "given/masks").symlink_to(out / "masks")
    (out / "masks/train/here").symlink_to(out / "masks")
    names = open_corrections(tmp_path / "given", words).names()
    assert len(names) == 10 and names[0] == "train/000.png"


def test_a_folder_of_labels_that_cannot_be_read_is_named(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def failing(path: Any) -> Any:
        if str(path).endswith("train"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    with pytest.raises(UserError, match=r"masks/train: the folder cannot be read \(Input/output error\)"):
        open_corrections(out / "masks", WORDS).names()


def photos_of(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 12)).save(folder / name)


WORDS = parse_words(["sky", "grass", "ball"], "words")


def written(path: Path, fields: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))
    return path


def coco_fields(*files: str) -> dict[str, Any]:
    """The first 3 x 2 px of each are ball, in a category whose name LabelMe's files have as a key."""
    images = [{"id": i, "file_name": file, "height": 12, "width": 20} for i, file in enumerate(files)]
    ring = [0, 0, 3, 0, 3, 2, 0, 2]
    drawn = [{"id": i, "image_id": i, "category_id": 1, "segmentation": [ring]} for i in range(len(files))]
    categories = [{"id": 1, "name": "ball", "supercategory": "shapes"}]
    return {"info": {"shapes": 3}, "images": images, "annotations": drawn, "categories": categories}


@pytest.mark.parametrize("name", ["instances.json", "labels.JSON"])
def test_a_coco_json_among_png_photos_is_taken(tmp_path: Path, name: str) -> None:
    photos_of(tmp_path, "images/000.png", "001.png")
    written(tmp_path / name, coco_fields("000.png", "001.png"))
    corrections = open_corrections(tmp_path, WORDS)
    assert corrections.names() == ["000.png", "001.png"]
    assert corrections.load("000.png")[:3, :4].tolist() == [[2, 2, 2, -1], [2, 2, 2, -1], [-1] * 4]


def test_labelmes_files_among_png_photos_are_taken(tmp_path: Path) -> None:
    Image.new("L", (20, 12), 9).save(tmp_path / "000.png")
    photos_of(tmp_path, "001.png")
    ring = [[0, 0], [3, 0], [3, 2], [0, 2]]
    for name in ("000", "001"):
        shape = {"label": "ball", "points": ring, "shape_type": "polygon"}
        written(tmp_path / f"{name}.json", {"shapes": [shape], "imageHeight": 12, "imageWidth": 20, "imagePath": name})
    corrections = open_corrections(tmp_path, WORDS)
    assert corrections.names() == ["000.json", "001.json"] and (corrections.load("001.json") == 2).sum() == 6


def test_where_two_kinds_are_meant_the_advice_is_not_what_was_given(tmp_path: Path) -> None:
    Image.new("L", (20, 12)).save(tmp_path / "a.png")
    path = written(tmp_path / "instances.json", coco_fields("a.png"))
    with pytest.raises(
        UserError, match=rf"has labels in .*; name those .*: --labels_from={re.escape(str(path))}, or take"
    ):
        open_corrections(tmp_path, WORDS)
    assert open_corrections(path, WORDS).names() == ["a.png"]


def panoptic(folder: Path, name: str) -> None:
    """As COCO publishes them, and datumaro writes them: two photos, of which one is done."""
    ids = np.zeros((12, 20, 3), np.uint8)
    ids[:2, :3], ids[5:] = (7, 1, 0), (9, 0, 0)
    (folder / name).mkdir(parents=True)
    Image.fromarray(ids).save(folder / name / "000.png")
    segments = [{"id": 7 + 256, "category_id": 3, "iscrowd": 1}, {"id": 9, "category_id": 1, "iscrowd": 0}]
    images = [{"id": i, "file_name": f"00{i}.jpg", "height": 12, "width": 20} for i in (0, 1)]
    categories = [{"id": 3, "name": "ball"}, {"id": 1, "name": "sky"}]
    drawn = [{"image_id": 0, "file_name": "000.png", "segments_info": segments}]
    written(folder / f"{name}.json", {"images": images, "annotations": drawn, "categories": categories})


@pytest.mark.parametrize("given", ["", "panoptic_val2017.json"])
def test_a_panoptic_folder_of_another_tool(tmp_path: Path, given: str) -> None:
    panoptic(tmp_path, "panoptic_val2017")
    corrections = open_corrections(tmp_path / given, WORDS)
    assert corrections.names() == ["000.jpg"] and +corrections.remarks == {"listed without an annotation": 1}
    wanted = np.full((12, 20), -1)
    wanted[:2, :3], wanted[5:] = 2, 0
    assert np.array_equal(corrections.load("000.jpg"), wanted)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "not json, or cut short .*; export it again$"),
        ("a.json", '{"shapes": [', "not JSON; draw polygons with LabelMe"),
        ("a.json", "{}", "no list 'images' in it; export it again as COCO's json"),
        ("a.xml", "<annotations>", "not xml, or cut short .*; export it from CVAT again"),
        ("a.xml", "<annotations></annotations>", "no image of CVAT's in it; export it from CVAT again"),
        ("a.xml", "<annotations><track/></annotations>", "tracks of a video; export it from CVAT again"),
    ],
)
def test_a_file_that_is_no_labels_has_advice_that_helps(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"{name}: {message}"):
        open_corrections(tmp_path / name, WORDS)


def test_xml_and_json_that_are_no_labels_do_not_stand_in_the_way(tmp_path: Path) -> None:
    Image.new("L", (20, 12), 1).save(tmp_path / "a.png")
    (tmp_path / "a.xml").write_text("<annotation><object/></annotation>")
    written(tmp_path / "meta.json", {"author": "me"})
    assert (open_corrections(tmp_path, WORDS).load("a.png") == 1).all()


@pytest.mark.parametrize(
    ("count", "dtype", "drawn", "meant"),
    [
        (300, np.uint16, [[255, 254], [3, 65535]], [[255, 254], [3, -1]]),
        (300, np.uint16, [[255, 254], [3, 255]], [[255, 254], [3, 255]]),
        (20, np.uint16, [[255, 0], [3, 65535]], [[-1, 0], [3, -1]]),
        (20, np.uint8, [[255, 0], [3, 19]], [[-1, 0], [3, 19]]),
        (300, np.uint8, [[255, 0], [3, 19]], [[-1, 0], [3, 19]]),
    ],
)
def test_what_is_unlabelled_follows_from_the_files_type_and_the_classes(
    tmp_path: Path, count: int, dtype: Any, drawn: list[list[int]], meant: list[list[int]]
) -> None:
    Image.fromarray(np.array(drawn, dtype)).save(tmp_path / "a.png")
    words = parse_words([f"class {i}" for i in range(count)], "words")
    corrections = open_corrections(tmp_path, words)
    assert corrections.load("a.png").tolist() == meant
    guessed = {"of 8 bits with 255 taken as unlabelled, which is a class in 16"}
    assert set(+corrections.remarks) == (guessed if count > 255 and dtype == np.uint8 else set())


def test_greys_without_a_file_among_labelmes_are_a_second_kind(tmp_path: Path) -> None:
    Image.new("L", (20, 12), 1).save(tmp_path / "001.png")
    written(tmp_path / "000.json", {"shapes": [], "imageHeight": 12, "imageWidth": 20, "imagePath": "000.jpg"})
    with pytest.raises(
        UserError, match=r"files of LabelMe or Label Studio, and grey PNGs that belong to none .* folder$"
    ):
        open_corrections(tmp_path, WORDS)
