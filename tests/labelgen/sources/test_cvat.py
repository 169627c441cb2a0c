"""CVAT's xml as label maps, with values drawn by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from labelgen.core.errors import UserError
from labelgen.core.ontology import parse_words
from labelgen.sources.corrections import open_corrections
from labelgen.sources.drawn import Corrections

WORDS = parse_words(["sky", "grass", "ball"], "words")
IMAGE = '<image id="0" name="a.jpg" width="6" height="5">{}</image>'
EMPTY = '<image id="1" name="b.jpg" width="6" height="5"/>'


def opened(folder: Path, *images: str, bom: str = "") -> Corrections:
    text = f'{bom}<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta/>{"".join(images)}'
    (folder / "annotations.xml").write_text(text + "</annotations>", encoding="utf-8")
    return open_corrections(folder, WORDS)


def load(folder: Path, *shapes: str) -> np.ndarray:
    return opened(folder, IMAGE.format("".join(shapes))).load("a.jpg")


@pytest.mark.parametrize(
    "shape",
    [
        '<polygon label="ball" points="1.00,1.00;4.00,1.00;4.00,3.00;1.00,3.00" z_order="0"/>',
        '<box label="ball" xtl="1.00" ytl="1.00" xbr="4.00" ybr="3.00" z_order="0"/>',
        '<box label="ball" xtl="1.5" ytl="0.5" xbr="3.5" ybr="3.5" rotation="90.0"/>',
        '<mask label="ball" source="manual" rle="0, 6" left="1" top="1" width="3" height="2" z_order="0"/>',
        '<mask label="ball" rle="1, 3, 1, 3, 1" left="0" top="1" width="3" height="3"/>'
        '<box label="ball" xtl="1" ytl="1" xbr="4" ybr="3"/><box label="__ignore__" xtl="0" ytl="1" xbr="1" ybr="4"/>'
        '<box label="__ignore__" xtl="0" ytl="3" xbr="6" ybr="5"/>',
        '<box label="sky" xtl="1" ytl="1" xbr="4" ybr="3" z_order="1"/>'
        '<box label="ball" xtl="1" ytl="1" xbr="4" ybr="3" z_order="10"/>'
        '<box label="grass" xtl="1" ytl="1" xbr="4" ybr="3" z_order="2"/>',
    ],
    ids=["polygon", "box", "turned box", "mask", "ignored", "z_order"],
)
def test_a_shape_of_three_by_two_pixels(tmp_path: Path, shape: str) -> None:
    wanted = np.full((5, 6), -1)
    wanted[1:3, 1:4] = 2
    assert np.array_equal(load(tmp_path, shape), wanted)


def test_a_masks_run_lengths_go_row_by_row_and_begin_with_zeros(tmp_path: Path) -> None:
    drawn = load(tmp_path, '<mask label="ball" rle="2, 3, 1" left="3" top="2" width="3" height="2"/>')
    assert drawn[2].tolist() == [-1, -1, -1, -1, -1, 2] and drawn[3].tolist() == [-1, -1, -1, 2, 2, -1]


def test_an_ellipse_turned_by_a_quarter_has_its_radii_exchanged(tmp_path: Path) -> None:
    upright = load(tmp_path, '<ellipse label="ball" cx="3" cy="2.5" rx="1.2" ry="2.4"/>')
    turned = load(tmp_path, '<ellipse label="ball" cx="3" cy="2.5" rx="2.4" ry="1.2" rotation="90"/>')
    assert np.array_equal(upright, turned)
    assert (upright == 2).sum(0).tolist() == [0, 0, 5, 5, 0, 0]


def test_what_has_no_area_and_photos_without_a_shape_are_counted(tmp_path: Path) -> None:
    box = '<box label="ball" xtl="1" ytl="1" xbr="4" ybr="3"/>'
    flat = '<tag label="ball"/><polyline label="ball" points="1,1;2,2"/>'
    corrections = opened(tmp_path, IMAGE.format(box + flat), EMPTY, bom="\ufeff")
    assert corrections.names() == ["a.jpg"] and +corrections.remarks == {
        "listed without an annotation": 1,
        "shapes without an area left out": 2,
    }


def test_a_projects_subset_is_in_front_of_the_name(tmp_path: Path) -> None:
    image = IMAGE.replace('id="0"', 'id="0" subset="{}"').replace(
        "{}</", '<box label="sky" xtl="1" ytl="1" xbr="4" ybr="3"/></'
    )
    assert opened(tmp_path, image.format("train"), image.format("val")).names() == ["train/a.jpg", "val/a.jpg"]
    with pytest.raises(UserError, match="annotations.xml: image 'train/a.jpg' is there twice"):
        opened(tmp_path, image.format("train"), image.format("train"))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ('<polygon label="ball" points="1,1;4,1"/>', r"a polygon of 'ball' \(not three or more points x,y\)"),
        ('<polygon label="ball" points="1,1;4,x;2,2"/>', "a polygon of 'ball'"),
        ('<box label="ball" xtl="1"/>', "a box of 'ball'"),
        (
            '<mask label="ball" rle="2, 3" left="3" top="2" width="3" height="2"/>',
            ".*its run lengths do not fill its box",
        ),
        ('<mask label="ball" rle="2, 4" left="4" top="2" width="3" height="2"/>', ".*its box is not inside the photo"),
        ('<box label="cat" xtl="1" ytl="1" xbr="4" ybr="3"/>', "class 'cat', which the words do not have"),
    ],
)
def test_a_shape_that_cannot_be_right_is_refused(tmp_path: Path, shape: str, message: str) -> None:
    with pytest.raises(UserError, match=f"annotations.xml: image 'a.jpg': {message}"):
        load(tmp_path, shape)


def test_what_is_wrong_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^[^()]*annotations.xml: tracks of a video; export it from CVAT again"):
        opened(tmp_path, '<track id="0" label="sky"/>')
    with pytest.raises(UserError, match=r"^[^()]*annotations.xml: image 'b.jpg' is there twice; export one task"):
        opened(tmp_path, EMPTY, EMPTY)


@pytest.mark.parametrize(
    ("name", "content", "fix"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n", "name the folder that the masks lie in"),
        ("a.txt", b"0 0.1 0.1 0.9 0.1 0.9 0.9\n", "export it again as COCO's json"),
        ("a.xml", b"<annotation><object/></annotation>", "export it again as COCO's json"),
        ("a.zip", b"PK\x03\x04\xff", "export it again as COCO's json"),
    ],
)
def test_a_file_of_another_kind_is_named_as_such(tmp_path: Path, name: str, content: bytes, fix: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        UserError, match=f"{name}: no json of COCO's, LabelMe's or Label Studio's, no xml of CVAT's .*; {fix}"
    ):
        open_corrections(tmp_path / name, WORDS)


def test_a_json_of_coco_is_one_whatever_its_ending(tmp_path: Path) -> None:
    picture = {"id": 1, "file_name": "a.jpg", "height": 5, "width": 6}
    (tmp_path / "a.coco").write_text(json.dumps({"images": [picture], "annotations": [], "categories": []}))
    assert open_corrections(tmp_path / "a.coco", WORDS).names() == []
