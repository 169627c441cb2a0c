"""Corrected labels of every kind: whose photo, which classes, what lies on what; and what is refused, by its file."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labelgen.core.errors import UserError
from labelgen.core.ontology import parse_words
from labelgen.labels.corrected import match, open_corrections
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
    return "masks: no PNG, no json of LabelMe or COCO in it; write some with labelgen.export"


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
        self._names = names

    def names(self) -> tuple[str, ...]:
        return self._names

    def where(self, name: str) -> str:
        return name

    def load(self, name: str) -> np.ndarray:
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
    ("count", "dtype", "drawn", "meant"),
    [
        (300, np.uint16, [[255, 254], [3, 65535]], [[255, 254], [3, -1]]),
        (300, np.uint16, [[255, 254], [3, 255]], [[255, 254], [3, 255]]),
        (20, np.uint16, [[255, 0], [3, 65535]], [[-1, 0], [3, -1]]),
        (20, np.uint8, [[255, 0], [3, 19]], [[-1, 0], [3, 19]]),
    ],
)
def test_what_is_unlabelled_follows_from_the_files_type_and_the_classes(
    tmp_path: Path, count: int, dtype: Any, drawn: list[list[int]], meant: list[list[int]]
) -> None:
    Image.fromarray(np.array(drawn, dtype)).save(tmp_path / "a.png")
    words = parse_words([f"class {i}" for i in range(count)], "words")
    assert open_corrections(tmp_path, words).load("a.png").tolist() == meant
