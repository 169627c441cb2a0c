"""What lies among the photos of a run: counted in its last line and its list, or a reason to stop."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labelgen import budget, export
from labelgen.core.command import command
from labelgen.core.config import load_config
from labelgen.data.dataset import Dataset
from labelgen.stages.encoding import list_photos
from tests.worlds.deep_pictures import png
from tests.worlds.labelgen_run import files, run


@pytest.fixture(name="photos")
def photos_fixture(world: Path, tmp_path: Path) -> Path:
    """The root of photos of `world`, to be changed."""
    for kind in ("photos", "masks"):
        shutil.copytree(world / kind, tmp_path / "root" / kind)
    return tmp_path / "root"


def encoded(world: Path, photos: Path, data: Path, *more: str) -> int:
    return run(world, data, "--stage=encode", f"--config.photos.root={photos}", *more)


def lines(data: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (data / "failures.jsonl").read_text().splitlines()]


def test_what_is_left_out_is_said_and_listed(
    world: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "photos/wild/here").symlink_to(".")
    (photos / "photos/train/raw").mkdir()
    for name in ("train/raw/b.CR2", "train/raw/a.cr2", "wild/x.jxl"):
        (photos / "photos" / name).touch()
    assert encoded(world, photos, tmp_path / "data") == 0
    said = capsys.readouterr().out
    listed = f"(see {tmp_path / 'data/failures.jsonl'})"
    assert f"10 train, 3 wild, 2 skipped {listed}, left out: 2 .cr2, 1 .jxl, 1 folder {listed}. " in said
    assert [(line["split"], line["file"]) for line in lines(tmp_path / "data")] == [
        ("train", "photos/train/004.png"), ("train", "photos/train/009.png"),
        ("train", "photos/train/raw/a.cr2"), ("wild", "photos/wild/x.jxl"), ("wild", "photos/wild/here"),
    ]  # fmt: skip
    assert lines(tmp_path / "data")[-1]["reason"] == "a link to a folder that is read by another name"
    assert Dataset.open(tmp_path / "data").count("wild") == 3
    before = files(tmp_path / "data")
    assert encoded(world, photos, tmp_path / "data") == 0
    said = capsys.readouterr().out
    assert files(tmp_path / "data") == before and f"skipped {listed}, left out: 2 .cr2, 1 .jxl, 1 folder. " in said


def test_nothing_more_is_said_where_there_are_photos_alone(
    world: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encoded(world, photos, tmp_path / "data") == 0
    assert f"10 train, 3 wild, 2 skipped (see {tmp_path / 'data/failures.jsonl'})" in capsys.readouterr().out


def test_a_split_around_others_has_none_of_their_photos_and_masks(world: Path, photos: Path) -> None:
    lists = list_photos(load_config(f"{world}/config.py", [f"photos.root={photos}"]), None, None).photo_ids
    config = load_config(f"{world}/config.py", [f"photos.root={photos}", "photos.splits.wild.photos="])
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(photos / "mine.png")
    found = list_photos(config, None, None)
    assert list(found.photo_ids["train"]) == list(lists["train"])
    assert list(found.photo_ids["wild"]) == ["mine", "photos/wild/000", "photos/wild/001", "photos/wild/002"]
    assert sorted(found.sources["wild"].left_out.folders) == ["masks", "photos/train"]


def test_an_unreadable_folder_stops_every_command(
    world: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "photos/train/sub").mkdir()
    real = os.scandir

    def scandir(folder: Path) -> object:
        if Path(folder).name == "sub":
            raise OSError(5, "Input/output error")
        return real(folder)

    monkeypatch.setattr("os.scandir", scandir)
    assert encoded(world, photos, tmp_path / "data") == 2
    counted = [f"--config={world}/config.py", f"--config.photos.root={photos}", f"--out={tmp_path / 'data'}"]
    assert command(budget.main, budget.arguments(), counted) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert all("photos/train/sub: the folder cannot be read (Input/output error); let this" in line for line in said)
    assert not (tmp_path / "data").exists()


def test_labels_are_not_exported_into_the_photos(
    world: Path, whole: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(photos)
    arguments = [f"--config={world}/config.py", f"--config.photos.root={photos}", f"--data={whole}"]
    assert command(export.main, export.arguments(), [*arguments, f"--out={photos}/photos/wild/labels"]) == 2
    assert "photos/wild/labels lies within the photos, " in capsys.readouterr().err and files(photos) == before
    assert command(export.main, export.arguments(), [*arguments, f"--out={photos}/labels"]) == 0


def test_labels_that_were_exported_into_the_photos_are_none(
    world: Path, photos: Path, tmp_path: Path, exported: Path
) -> None:
    shutil.copytree(exported, photos / "photos/wild/labels")
    assert encoded(world, photos, tmp_path / "data") == 0
    assert Dataset.open(tmp_path / "data").count("wild") == 3
    ours = [line["file"] for line in lines(tmp_path / "data") if line["reason"] == "pictures that this program wrote"]
    assert ours == [f"photos/wild/labels/{name}" for name in ("coco/panoptic", "confidence", "masks")]


def test_a_photo_of_12_bits_is_encoded_and_said_once(
    world: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("labelgen.sources.decoding._said", set())
    for name in "ab":
        values = np.random.default_rng(0).integers(0, 4096, (20, 20, 3)).astype(np.uint16)
        (photos / f"photos/wild/{name}.png").write_bytes(png(values))
    assert encoded(world, photos, tmp_path / "data") == 0
    printed = capsys.readouterr()
    assert printed.err.count("such photos are scaled by their own percentiles") == 1
    said = ", 2 scaled by percentiles of its own, for want of a range (see "
    assert said in printed.out
    used = [(line["file"], line["photo"]) for line in lines(tmp_path / "data") if line.get("used")]
    assert used == [("photos/wild/a.png", "a"), ("photos/wild/b.png", "b")]
    assert encoded(world, photos, tmp_path / "data") == 0 and said in capsys.readouterr().out, "nor later"


def test_a_long_name_is_exported(world: Path, photos: Path, tmp_path: Path) -> None:
    name = "n" * 240
    (photos / "photos/train/000.png").rename(photos / f"photos/train/{name}.png")
    (photos / "masks/train/000.png").rename(photos / f"masks/train/{name}.png")
    data, out = tmp_path / "data", tmp_path / "out"
    assert run(world, data, f"--config.photos.root={photos}") == 0
    arguments = [f"--config={world}/config.py", f"--config.photos.root={photos}", f"--data={data}", f"--out={out}"]
    assert command(export.main, export.arguments(), [*arguments, "--format=png,coco,labelme,cvat,yolo"]) == 0
    assert (out / f"masks/train/{name}.png").is_file() and (out / f"labelme/train/{name}.json").is_file()
