"""labelgen.export on a small DATA: every photo, its picture's name, its labels; what it says and what it refuses."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labelgen import export
from labelgen.core.command import command
from labelgen.data.dataset import Dataset
from labelgen.data.records import LabelRow
from tests.worlds.labelgen_run import run


def exported(world: Path, data: Path, out: Path, *more: str) -> int:
    arguments = [f"--config={world}/config.py", f"--data={data}", f"--out={out}", *more]
    return command(export.main, export.arguments(), arguments)


def test_the_free_labels_of_every_photo(
    world: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported(world, whole, tmp_path, "--format=png,coco") == 0
    rows = Dataset.open(whole).label_reader("default", "train")
    images = json.loads((tmp_path / "coco/semantic.json").read_text())["images"]
    for i in range(len(rows)):
        row = LabelRow.decode(rows[i])
        for kind, values in (("masks", row.label_map), ("confidence", row.confidence)):
            assert np.array_equal(np.asarray(Image.open(tmp_path / f"{kind}/train/{row.photo_id}.png")), values)
        assert images[i]["file_name"] == f"photos/train/{row.photo_id}.png"
    assert len(rows) == len(images) == len(list((tmp_path / "masks").rglob("*.png"))) == 10
    assert list(json.loads((tmp_path / "classes.json").read_text())) == ["ball", "grass", "sky"]
    said = capsys.readouterr().out
    assert f"wrote the labels 'default' of 10 photos (png, coco) to {tmp_path}; " in said
    assert "; coco: panoptic.json calls 'ball' a thing, as pq_compute wants both kinds" in said
    assert f"--stage=label --labels_from={tmp_path}/masks --config.labels.name=corrected" in said


def test_pictures_that_are_no_longer_there(
    world: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported(world, whole, tmp_path, "--format=coco", "--config.photos.root=gone") == 0
    assert json.loads((tmp_path / "coco/semantic.json").read_text())["images"][0]["file_name"] == "train/000"
    assert "; 10 pictures are not under photos.root: their file names lack a suffix" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.labels.name=other", "labels/other/labels.json: missing; label first: .*there are: default"),
        ("--format=gif", "--format=gif: 'gif' is no format; there are png, coco, labelme, cvat, yolo, fiftyone"),
    ],
)
def test_what_the_user_must_fix(
    flag: str, message: str, world: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exported(world, whole, tmp_path, flag) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_next_command_can_be_typed_and_keeps_what_was_set(
    world: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "for LabelMe & co"
    more = [f"--config.photos.root={world}/my photos", "--config.labels.splits=train", "--config.labels.name=default"]
    assert exported(world, whole, out, "--format=labelme", *more) == 0
    line = capsys.readouterr().out.strip().rpartition("once corrected: ")[2]
    python, option, module, *arguments = shlex.split(line)
    assert (python, option, module) == ("python", "-m", "labelgen.run")
    assert arguments == [
        f"--config={world}/config.py",
        *more[:2],
        f"--out={whole}",
        "--stage=label",
        f"--labels_from={out}/labelme",
        "--config.labels.name=corrected",
    ]


def test_a_folder_belongs_to_its_labels(world: Path, copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out"
    assert exported(world, copy, out) == 0 and exported(world, copy, out, "--format=coco") == 0
    assert json.loads((out / "made_by.json").read_text())["whole"] is True
    (tmp_path / "other.txt").write_text("ball\nsky\n  meadow: meadow, lawn\n")
    more = [f"--config.ontology={tmp_path}/other.txt", "--config.labels.name=other"]
    assert run(world, copy, *more) == 0
    assert exported(world, copy, out, *more) == 2
    assert f"{out} was made with classes = " in capsys.readouterr().err
    assert run(world, copy, "--config.labels.name=back", f"--labels_from={out}/masks") == 0


@pytest.mark.parametrize(
    ("formats", "back"),
    [
        (("yolo", "cvat"), "OUT/cvat/annotations.xml"),
        (("labelme", "png"), "OUT/labelme"),
        (("coco",), "OUT/coco/semantic.json"),
        (("yolo",), "FOLDER"),
    ],
)
def test_what_comes_back(formats: tuple[str, ...], back: str) -> None:
    assert export.come_back("OUT", formats) == back
