"""What is a photo among all that lies in a folder, and what is said of the rest."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.default import get_config
from labelgen.core.errors import UserError
from labelgen.core.walking import AGAIN, walk
from labelgen.sources.finding import LeftOut, check_apart, is_ours, pictures
from labelgen.sources.photos import Source
from labelgen.sources.registry import mask_folders, open_source, photo_folders


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(folder: Path) -> tuple[list[str], dict[str, str]]:
    left = LeftOut()
    return sorted(pictures(folder, left)), left.folders


def splits(root: Path, source: str = "folder", **photos_masks: tuple[str, str]) -> dict[str, Source]:
    config = get_config().photos
    config.update(root=str(root), source=source)
    config.splits = {name: {"photos": pair[0], "masks": pair[1]} for name, pair in photos_masks.items()}
    return {name: open_source(config, name, 9, truth=False) for name in photos_masks}


def test_every_folder_is_looked_into_but_hidden_ones(tmp_path: Path) -> None:
    touch(tmp_path, "a/b/x.jpg", "a/folder.jpg/y.png", ".hidden/z.jpg", "a/.z.jpg", "other/w.webp")
    (tmp_path / "itself.jpg").symlink_to(tmp_path / "itself.jpg")
    assert found(tmp_path) == (["a/b/x.jpg", "a/folder.jpg/y.png", "itself.jpg", "other/w.webp"], {})


def test_links_are_followed_into_each_folder_once(tmp_path: Path) -> None:
    photos = touch(tmp_path / "photos", "x.jpg", "sub/y.jpg")
    touch(tmp_path / "disk", "z.jpg", "deep/w.jpg")
    for name, target in {"here": ".", "sub/up": "..", "b": "../disk", "a": "../disk", "again": "sub"}.items():
        (photos / name).symlink_to(target)
    (tmp_path / "disk/back").symlink_to(photos)
    names, left = found(photos)
    assert names == ["a/deep/w.jpg", "a/z.jpg", "sub/y.jpg", "x.jpg"]  # of a and b the first by name
    assert left == dict.fromkeys(["a/back", "again", "b", "here", "sub/up"], AGAIN)
    (tmp_path / "linked").symlink_to(photos)
    assert found(tmp_path / "linked") == (names, left)


def test_a_folder_has_its_own_name_wherever_links_lead(tmp_path: Path) -> None:
    touch(tmp_path, "z/x.jpg")
    (tmp_path / "a").symlink_to("z")
    assert found(tmp_path) == (["z/x.jpg"], {"a": AGAIN})


def test_folders_without_numbers_are_told_apart_by_their_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/x.jpg", "b/y.jpg")
    (tmp_path / "here").symlink_to(".")
    real = os.stat

    def stat(path: Path) -> os.stat_result:
        return os.stat_result((*real(path)[:1], 0, *real(path)[2:]))

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", stat)
        names, left = found(tmp_path)
    assert (names, left) == (["a/x.jpg", "b/y.jpg"], {"here": AGAIN})


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_folder_that_cannot_be_read_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    touch(tmp_path, "x.jpg", "sub/locked/y.jpg")
    real = os.scandir

    def scandir(folder: Path) -> "os._ScandirIterator[str]":
        if Path(folder).name == "locked":
            raise error
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=rf"sub/locked: the folder cannot be read \({error.strerror}\); let this user"):
        splits(tmp_path, train=("", ""))


def test_what_the_system_keeps_is_no_photo_and_is_not_opened(tmp_path: Path) -> None:
    touch(tmp_path, "x.jpg", "lost+found/y.jpg", "a/@eaDir/x.jpg/SYNOPHOTO_THUMB_M.jpg")
    assert found(tmp_path) == (["x.jpg"], dict.fromkeys(["a/@eaDir", "lost+found"], "what the system keeps"))


def test_pictures_that_are_not_read_are_counted_by_ending(tmp_path: Path) -> None:
    raw = ("b/1.CR2", "b/0.cr2", "p.jxl", "p.mpo", "q.ppm", "r.jpg?w=800", "s.JPG~", "t.png.part")
    touch(tmp_path, "a.jpg", "notes.txt", "labels.json", *raw)
    left = LeftOut()
    assert list(pictures(tmp_path, left)) == ["a.jpg"]
    assert left.said() == "left out: 2 .cr2, 1 .jxl, 1 .mpo, 1 .ppm, 3 renamed"
    lines = list(left.lines())
    assert lines[0] == {
        "file": "b/0.cr2",
        "reason": "2 .cr2 not read, this is the first",
        "mend": "convert them to JPEG or PNG",
    }
    assert lines[-1]["file"] == "r.jpg?w=800" and lines[-1]["mend"] == "rename them, or fetch them again"
    assert LeftOut.of([left, left]).said() == "left out: 4 .cr2, 2 .jxl, 2 .mpo, 2 .ppm, 6 renamed"
    assert LeftOut().said() == "" and not list(LeftOut().lines())


def test_a_folder_of_nothing_that_is_read_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no pictures in it \(avif, .*; left out: 1 \.jxl\); fix photos.root"):
        splits(touch(tmp_path, "a.jxl"), train=("", ""))


def test_other_splits_and_masks_are_no_photos_of_a_split_around_them(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "holiday/b.jpg", "val/c.jpg", "val_masks/c.png", "masks/a.png", "masks/holiday/b.png")
    (tmp_path / "linked").symlink_to("val")
    sources = splits(tmp_path, train=("", "masks"), val=("val", "val_masks"))
    assert list(sources["train"].list()) == ["a", "holiday/b"] and list(sources["val"].list()) == ["c"]
    assert sorted(sources["train"].left_out.folders) == ["linked", "masks", "val", "val_masks"]
    assert sources["train"].left_out.said() == "left out: 4 folders" and sources["val"].left_out.said() == ""


def test_cocos_other_splits_and_panoptic_masks_are_no_photos_of_its_root(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "images/val2017/b.jpg", "annotations/panoptic_val2017/b.png")
    sources = splits(tmp_path, "coco", train=("", ""), val=("val2017", ""))
    assert list(sources["train"].list()) == ["a"] and list(sources["val"].list()) == ["b"]


def test_two_splits_may_have_the_same_folder(tmp_path: Path) -> None:
    sources = splits(touch(tmp_path, "p/a.jpg", "m/a.png"), train=("p", ""), val=("p", "m"))
    assert [list(source.list()) for source in sources.values()] == [["a"], ["a"]]


LEGEND = {"cat": {"index": 0, "colour": "#ff0000", "words": ["cat"]}}


def test_what_predict_export_and_report_write_is_no_photo(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "out/masks/a.png", "out/confidence/a.png", "out/overlays/a.jpg")
    (tmp_path / "out/classes.json").write_text(json.dumps(LEGEND))
    touch(tmp_path, "more/coco/semantic.json", "more/coco/panoptic/a.png", "more/failures.jsonl", "more/overlays/a.jpg")
    touch(tmp_path, "report/index.html", "report/files/val-0.jpg", "report/files/val-0.js")
    names, left = found(tmp_path)
    assert names == ["a.jpg"]
    ours = ["out/masks", "out/confidence", "out/overlays", "more/coco/panoptic", "more/overlays", "report/files"]
    assert left == dict.fromkeys(ours, "pictures that this program wrote")
    assert found(tmp_path / "out/overlays")[0] == ["a.jpg"]  # who names it means it


@pytest.mark.parametrize(
    ("masks", "photos"),
    [
        ("masks", "annotated"),
        ("val_labels", "val"),
        ("SegmentationClass", "JPEGImages"),
        ("SegmentationClassPNG", "JPEGImages"),
        ("testannot", "test"),
        ("gt", ""),
    ],
)
def test_masks_beside_photos_of_their_names_are_none(tmp_path: Path, masks: str, photos: str) -> None:
    touch(tmp_path, f"{masks}/deep/a.png", f"{masks}/b.PNG")
    taken = [f"{masks}/b.PNG", f"{masks}/deep/a.png"]
    assert found(tmp_path) == (taken, {}), "nothing beside them: maybe photos of masks"
    names = [f"{photos}/b.JPG".lstrip("/"), f"{photos}/deep/a.jpeg".lstrip("/")]
    touch(tmp_path, *names)
    left = {masks: "masks, as it seems: PNGs that are called as the photos beside them"}
    assert found(tmp_path) == (sorted(names), left)
    assert found(tmp_path / masks)[0] == ["b.PNG", "deep/a.png"]  # who names them means them


def test_masks_among_their_photos_are_counted(tmp_path: Path) -> None:
    photos = ["a.jpg", "b_mask.png", "c_mask.jpg", "d/mask.png"]
    touch(tmp_path, *photos, "c.png", "a_mask.png", "d/a.JPG", "d/a-label.PNG", "d/a.gt.tif")
    left = LeftOut()
    assert sorted(pictures(tmp_path, left)) == sorted([*photos, "c.png", "d/a.JPG"])
    assert left.said() == "left out: 3 masks, as it seems, by the name of the picture beside each"
    assert [(line["file"], line["mend"]) for line in left.lines()] == [
        ("a_mask.png", "nothing; or, if they are photos, rename them")
    ]


def test_folders_of_the_same_names_are_photos_where_others_made_them(tmp_path: Path) -> None:
    names = ["coco/panoptic/a.png", "files/b.jpg", "masks/c.png", "overlays/d.png"]
    touch(tmp_path, *names, "index.html", "failures.jsonl")
    for text in ("[]", "{}", '{"cat": 1}', "no json"):
        (tmp_path / "classes.json").write_text(text)
        assert found(tmp_path) == (names, {})
    assert not is_ours(tmp_path)


def test_nothing_is_written_among_the_photos(tmp_path: Path) -> None:
    config = get_config().photos
    touch(tmp_path, "all/val/a.jpg", "all/images/train/b.jpg")
    config.update(root=str(tmp_path / "all"), splits={"val": {"photos": "val", "masks": "m"}})
    check_apart(tmp_path / "all/masks", photo_folders(config))
    (tmp_path / "link").symlink_to(tmp_path / "all/val")
    for out in ("all/val", "all/val/masks/deep", "link/masks"):
        with pytest.raises(UserError, match=r"--out=.* lies within the photos, .*all/val: masks would become photos"):
            check_apart(tmp_path / out, photo_folders(config))
    assert mask_folders(config) == [tmp_path / "all/m"]
    config.source, config.splits = "coco", {"train": {"photos": "train", "masks": ""}}
    assert photo_folders(config) == [tmp_path / "all/images/train"] and not mask_folders(config)
    config.splits = {"train": {"photos": "", "masks": ""}}
    assert photo_folders(config) == [tmp_path / "all"]
    assert photo_folders(get_config().photos) == []


@pytest.mark.parametrize("ending", ["PNG", "Png"])
def test_masks_may_end_in_upper_case(tmp_path: Path, ending: str) -> None:
    for name, value in (("p/a.JPG", 0), (f"m/a.{ending}", 2)):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(np.full((2, 3), value, np.uint8)).save(
            tmp_path / name, name[-3:].upper().replace("JPG", "JPEG")
        )
    config = get_config().photos
    config.update(root=str(tmp_path), splits={"train": {"photos": "p", "masks": "m"}})
    source = open_source(config, "train", 3)
    label_map = source.load("a").label_map
    assert label_map is not None and (label_map == 2).all() and source.file("a") == "p/a.JPG"
    Image.fromarray(np.zeros((2, 3), np.uint8)).save(tmp_path / "m/a.png")
    if ending == "PNG":
        with pytest.raises(UserError, match=r"m/a.png: a.png and a.PNG would both be its mask; take one of them away"):
            source.load("a")


def test_walk_of_files_of_any_kind(tmp_path: Path) -> None:
    touch(tmp_path, "a.json", "b/c", "b/.d")
    assert sorted(walk(tmp_path)) == ["a.json", "b/c"]
