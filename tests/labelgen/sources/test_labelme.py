"""LabelMe's shapes as label maps, with values drawn by hand."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labelgen.core.errors import UserError
from labelgen.core.ontology import parse_words
from labelgen.sources.labelme import LabelmeFolder

WORDS = parse_words(["sky", "grass", "ball"], "words")


def load(folder: Path, *shapes: dict[str, Any], **fields: Any) -> np.ndarray:
    sizes = {"imageHeight": 5, "imageWidth": 6}
    (folder / "a.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.jpg"} | sizes | fields))
    return LabelmeFolder(folder, WORDS).load("a.json", (5, 6))


def shape(kind: Any, points: Any, label: str = "ball", **fields: Any) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": points} | fields


def picture(values: Any) -> str:
    data = io.BytesIO()
    Image.fromarray(np.array(values, np.uint8)).save(data, "PNG")
    return base64.b64encode(data.getvalue()).decode()


RING = [[1, 1], [4, 1], [4, 3], [1, 3]]


@pytest.mark.parametrize(
    "drawn",
    [
        shape("polygon", RING),
        shape(None, RING),
        {"label": "ball", "points": RING},
        shape("rectangle", [[1, 1], [4, 3]]),
        shape("rectangle", [[4, 3], [1, 1]]),
        shape("rectangle", RING),
        shape("oriented_rectangle", RING),
        shape("mask", [[1, 1], [3, 2]], mask=picture([[1, 1, 1], [255, 1, 1]])),
    ],
    ids=["polygon", "null", "of old files", "rectangle", "turned", "four corners", "oriented", "mask"],
)
def test_a_shape_of_three_by_two_pixels(tmp_path: Path, drawn: dict[str, Any]) -> None:
    wanted = np.full((5, 6), -1)
    wanted[1:3, 1:4] = 2
    assert np.array_equal(load(tmp_path, drawn), wanted)


def test_a_masks_corners_are_both_pixels_of_it_and_what_is_outside_the_photo_is_cut_off(tmp_path: Path) -> None:
    drawn = load(tmp_path, shape("mask", [[4.0, 3.0], [6.0, 5.0]], mask=picture([[1, 0, 1], [0, 1, 0], [1, 1, 1]])))
    assert (drawn[3:, 4:] == [[2, -1], [-1, 2]]).all() and (drawn != -1).sum() == 2
    drawn = load(tmp_path, shape("mask", [[-1, -1], [0, 0]], mask=picture([[0, 1], [1, 1]])))
    assert drawn[0, 0] == 2 and (drawn != -1).sum() == 1


def test_a_circle_has_the_pixels_whose_middle_is_inside(tmp_path: Path) -> None:
    drawn = load(tmp_path, shape("circle", [[3, 2], [3, 4]])) == 2
    assert drawn[:4].tolist() == [
        [False, False, True, True, False, False],
        [False, True, True, True, True, False],
        [False, True, True, True, True, False],
        [False, False, True, True, False, False],
    ]
    assert not drawn[4].any()


@pytest.mark.parametrize("sizes", [{"imageHeight": None, "imageWidth": None}, {"imageHeight": 5.0, "imageWidth": 6.0}])
def test_a_file_without_the_photos_size_has_the_photos(tmp_path: Path, sizes: dict[str, Any]) -> None:
    assert load(tmp_path, shape("polygon", RING), **sizes).shape == (5, 6)


def test_later_shapes_lie_on_earlier_ones_and_ignore_is_unlabelled(tmp_path: Path) -> None:
    drawn = load(
        tmp_path,
        shape("rectangle", [[0, 0], [6, 5]], "sky"),
        shape("rectangle", [[0, 0], [2, 1]], "grass"),
        shape("rectangle", [[1, 0], [3, 1]], "__ignore__"),
    )
    assert drawn[0].tolist() == [1, -1, -1, 0, 0, 0] and (drawn[1:] == 0).all()


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (shape("ring", [[0, 0], [3, 3]]), "a ring of 'ball' with 2 points; draw polygons"),
        (shape("mask", [[1, 1], [3, 2]]), "a mask of 'ball' with 2 points"),
        (shape("mask", [[1, 1], [4, 3]], mask=picture([[1, 1, 1], [1, 1, 1]])), "a mask of 'ball' with 2 points"),
        (shape("mask", [[1, 1], [3, 2]], mask="no picture"), "a mask of 'ball' with 2 points"),
        (shape("polygon", [[0, 0], [3, float("nan")], [3, 3]]), "a polygon of 'ball' with 3 points"),
        (shape("polygon", RING, "cat"), r"class 'cat', which the words do not have \(sky, grass, ball\)"),
        ({"label": "ball"}, "not a file of LabelMe's"),
    ],
)
def test_what_has_no_area_or_no_class_is_refused(tmp_path: Path, drawn: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"a.json: {message}"):
        load(tmp_path, drawn)


def test_files_without_a_shape_are_counted_and_have_no_label_map(tmp_path: Path) -> None:
    load(tmp_path, shape("polygon", RING))
    (tmp_path / "b.json").write_text('{"shapes": []}')
    corrections = LabelmeFolder(tmp_path, WORDS)
    assert corrections.names() == ["a.json"] and +corrections.remarks == {"listed without an annotation": 1}
    flat = [shape(kind, RING, "of no class") for kind in ("point", "line", "linestrip", "points")]
    (tmp_path / "c.json").write_text(json.dumps({"shapes": flat}))
    load(tmp_path, shape("polygon", RING), flat[0])
    corrections = LabelmeFolder(tmp_path, WORDS)
    assert corrections.names() == ["a.json"] and (corrections.load("a.json", (5, 6)) == 2).sum() == 6
    assert corrections.remarks == {"listed without an annotation": 2, "shapes without an area left out": 5}
    one = LabelmeFolder(tmp_path / "a.json", WORDS)
    assert one.names() == ["a.json"] and (one.load("a.json") == 2).sum() == 6
