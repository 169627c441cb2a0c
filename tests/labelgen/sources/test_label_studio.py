"""Label Studio's json as label maps: shapes with values drawn by hand, brushes that its own SDK packed, recorded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelgen.core.errors import UserError
from labelgen.core.ontology import parse_words
from labelgen.sources.corrections import open_corrections
from labelgen.sources.drawn import FLAT, WITHOUT
from labelgen.sources.label_studio import OLDER, LabelStudioJson, brush_mask, picture_name

WORDS = parse_words(["sky", "grass", "ball"], "words")
HEIGHT, WIDTH = 10, 20
PACKED = [
    0, 0, 3, 32, 57, 27, 253, 240, 11, 255, 247, 192, 47, 255, 225, 240, 11, 255, 247, 192, 47, 255, 225, 240, 11,
    255, 247, 192, 47, 255, 240, 35, 240, 0,
]  # fmt: skip
"""label_studio_sdk.converter.brush.mask2rle of 255 where both (x // 4) % 2 and y < 3, 10 x 20 px."""


def region(kind: str, label: str = "ball", **value: Any) -> dict[str, Any]:
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    return {"type": kind, "from_name": "l", "to_name": "image", **size, "value": {kind: [label], **value}}


def annotation(*regions: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": 1, "was_cancelled": False, "updated_at": "2026-11-29T10:00:00Z", "result": list(regions)} | fields


def task(number: int, *annotations: dict[str, Any], **data: Any) -> dict[str, Any]:
    return {
        "id": number,
        "data": data or {"image": f"/data/upload/1/1a2b3c4d-{number}.png"},
        "annotations": annotations,
    }


def read(folder: Path, *tasks: Any) -> LabelStudioJson:
    (folder / "project.json").write_text(json.dumps(tasks))
    found = open_corrections(folder, WORDS)
    assert isinstance(found, LabelStudioJson)
    return found


def load(folder: Path, *regions: dict[str, Any]) -> np.ndarray:
    found = read(folder, task(1, annotation(*regions)))
    assert found.names() == ["data/upload/1/1a2b3c4d-1.png"]
    return found.load(found.names()[0])


def boxed(top: int, bottom: int, left: int, right: int, value: int = 2) -> np.ndarray:
    wanted = np.full((HEIGHT, WIDTH), -1)
    wanted[top:bottom, left:right] = value
    return wanted


POINTS = [[10, 20], [50, 20], [50, 70], [10, 70]]


@pytest.mark.parametrize(
    "drawn",
    [
        region("polygonlabels", points=POINTS, closed=True),
        region("rectanglelabels", x=10, y=20, width=40, height=50, rotation=0),
        region("rectanglelabels", x=50, y=20, width=25, height=80, rotation=90),
        {**region("labels", points=POINTS), "type": "polygon", "value": {"points": POINTS, "labels": ["ball"]}},
    ],
    ids=["polygon", "rectangle", "turned about its first corner", "labels apart from the polygon"],
)
def test_a_shape_of_eight_by_five_pixels(tmp_path: Path, drawn: dict[str, Any]) -> None:
    assert np.array_equal(load(tmp_path, drawn), boxed(2, 7, 2, 10))


def test_an_ellipse_has_its_area(tmp_path: Path) -> None:
    drawn = load(tmp_path, region("ellipselabels", x=50, y=50, radiusX=40, radiusY=40, rotation=0))
    assert abs((drawn == 2).sum() - np.pi * 8 * 4) < 6 and (drawn == drawn[::-1]).all()
    turned = load(tmp_path, region("ellipselabels", x=50, y=50, radiusX=20, radiusY=80, rotation=90))
    assert (turned != drawn).sum() <= 4  # px: 4 across and 8 down, turned by a quarter


def test_regions_are_painted_in_their_order_and_thirds_of_a_percent_are_whole_pixels(tmp_path: Path) -> None:
    whole = region("polygonlabels", "sky", points=[[0, 0], [100, 0], [100, 100], [0, 100]])
    side = 100 / 3
    thirds = {"original_width": 30, "original_height": 30}
    first = {**whole, **thirds}
    second = {
        **region(
            "polygonlabels", "ball", points=[[side, side], [2 * side, side], [2 * side, 2 * side], [side, 2 * side]]
        )
    }
    drawn = load(tmp_path, first, {**second, **thirds})
    wanted = np.zeros((30, 30))
    wanted[10:20, 10:20] = 2
    assert np.array_equal(drawn, wanted)


def test_a_brush_that_its_own_sdk_packed(tmp_path: Path) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    wanted = ((x // 4) % 2 == 1) & (y < 3)
    assert np.array_equal(brush_mask(PACKED, (HEIGHT, WIDTH)), wanted)
    drawn = load(tmp_path, region("brushlabels", "grass", format="rle", rle=PACKED))
    assert np.array_equal(drawn == 1, wanted)


def pack(values: list[int], literal: bool) -> list[int]:
    """One run of `values`: each by itself, or all the first."""
    bits = f"{len(values):032b}{7:05b}" + f"{15:04b}" * 4 + f"{int(not literal)}" + "10" + f"{len(values) - 1:016b}"
    bits += "".join(f"{value:08b}" for value in (values if literal else values[:1]))
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_runs_of_values_and_the_alpha_alone_counts() -> None:
    pixels = [9, 9, 9, 0, 0, 0, 0, 200, 0, 0, 0, 1]
    assert brush_mask(pack(pixels, literal=True), (1, 3)).tolist() == [[False, True, True]]
    assert brush_mask(pack([255] * 12, literal=False), (3, 1)).tolist() == [[True]] * 3


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (PACKED[:20], "its run lengths are cut short"),
        (pack([0] * 16, True), "16 values for 20 x 10 px of four"),
        (pack([0] * 800, False)[:-1], "its run lengths are cut short"),
    ],
)
def test_a_broken_brush_is_refused(tmp_path: Path, packed: list[int], message: str) -> None:
    with pytest.raises(
        UserError, match=rf"task 1 .*: a brush of 'ball' that cannot be drawn \({message}.*\); export it"
    ):
        load(tmp_path, region("brushlabels", rle=packed))


def test_of_several_annotations_the_newest_that_was_not_skipped(tmp_path: Path) -> None:
    old = annotation(region("rectanglelabels", "sky", x=0, y=0, width=100, height=100))
    new = annotation(region("rectanglelabels", x=0, y=0, width=50, height=50), updated_at="2026-11-29T11:00:00Z")
    skipped = annotation(was_cancelled=True, updated_at="2026-11-29T12:00:00Z")
    found = read(tmp_path, task(1, new, old, skipped), task(2), task(3, skipped), task(4, annotation()))
    assert np.array_equal(found.load(found.names()[0]), boxed(0, 5, 0, 10))
    assert found.remarks == {OLDER: 1, WITHOUT: 3, FLAT: 0}


def test_points_are_counted_and_choices_are_no_shapes(tmp_path: Path) -> None:
    choice = {"type": "choices", "from_name": "c", "to_name": "image", "value": {"choices": ["good"]}}
    box = region("rectanglelabels", x=0, y=0, width=50, height=50)
    found = read(tmp_path, task(1, annotation(region("keypointlabels", x=1, y=1, width=1), choice, box)))
    assert np.array_equal(found.load(found.names()[0]), boxed(0, 5, 0, 10)) and found.remarks[FLAT] == 1


def test_a_folder_of_a_file_a_task(tmp_path: Path) -> None:
    box = region("rectanglelabels", x=0, y=0, width=50, height=50)
    for number in (1, 2):
        (tmp_path / f"{number}.json").write_text(json.dumps(task(number, annotation(box))))
    found = open_corrections(tmp_path, WORDS)
    assert len(found.names()) == 2 and np.array_equal(found.load(found.names()[1]), boxed(0, 5, 0, 10))
    assert len(open_corrections(tmp_path / "1.json", WORDS).names()) == 1


def test_its_pngs_need_the_json(tmp_path: Path) -> None:
    png = tmp_path / "task-1-annotation-1-by-a@b.c-l-ball-0.png"
    png.write_bytes(b"")
    with pytest.raises(
        UserError, match=r"ball-0.png: a PNG of Label Studio's, which names no photo; export the same as"
    ):
        open_corrections(tmp_path, WORDS)
    assert read(tmp_path, task(1, annotation(region("rectanglelabels", x=0, y=0, width=50, height=50)))).names()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("/data/upload/3/1a2b3c4d-a%20b.png", "data/upload/3/1a2b3c4d-a b.png"),
        ("/data/local-files/?d=photos/train/a%20b.png", "photos/train/a b.png"),
        ("http://host:8080/train/a.png?token=1", "train/a.png"),
        ("s3://bucket/train/a.png", "train/a.png"),
        ("photos/train/100%25.png", "photos/train/100%25.png"),
    ],
)
def test_names_of_pictures(url: str, name: str) -> None:
    assert picture_name(url) == name


BOX = region("rectanglelabels", x=0, y=0, width=50, height=50)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            task(1, annotation(region("rectanglelabels", "cat", x=0, y=0, width=9, height=9))),
            "class 'cat', which the words",
        ),
        (task(1, annotation(region("rectanglelabels", x=0, y=0))), "a rectangle of 'ball' that cannot be drawn"),
        (task(1, annotation(region("polygonlabels", points=[[0, 0]]))), "not three or more points"),
        (task(1, annotation({**BOX, "image_rotation": 90})), "the picture was turned there; turn it back"),
        (task(1, annotation({**BOX, "value": {**BOX["value"], "rectanglelabels": ["sky", "ball"]}})), "with 2 labels"),
        (task(1, annotation(BOX, {**BOX, "original_width": 9})), "regions of pictures of 2 sizes"),
        (task(1, annotation(BOX), text="hello"), r"0 of its fields \(text\) name a picture"),
        (task(1, annotation(BOX), a="a.png", b="b.png"), r"2 of its fields \(a, b\) name a picture"),
        ({"id": 1, "image": "a.png", "label": [], "annotator": 1, "annotation_id": 1}, r"not tasks .* \(not MIN\)"),
        (task(1, {"id": 1}), "not tasks of Label Studio's"),
    ],
)
def test_what_the_user_must_fix(tmp_path: Path, wrong: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        found = read(tmp_path, wrong)
        found.load(found.names()[0])
    assert "project.json" in str(caught.value)


def test_two_tasks_of_one_picture(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"task 2: is of a.png, as is .*task 1; take one of them out"):
        read(tmp_path, task(1, annotation(BOX), image="a.png"), task(2, annotation(BOX), image="a.png"))
