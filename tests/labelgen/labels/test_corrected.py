"""Labels go out, are corrected and come back: rows differ where a person changed them and nowhere else."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labelgen import quality
from labelgen.core.command import command
from labelgen.core.geometry import WORKING_PX
from labelgen.data.records import EvidenceRow
from labelgen.labels.corrected import corrected_row, unlabelled_row
from tests.worlds.labelgen_run import edit_mask as edit
from tests.worlds.labelgen_run import files, run, same
from tests.worlds.labelgen_run import label_rows as rows
from tests.worlds.rows import evidence_row

LABEL = ("--stage=label", "--config.labels.name=new")


def shards(data: Path, name: str) -> dict[str, bytes]:
    kept = files(data / "labels" / name).items()
    return {file: content for file, content in kept if not file.endswith("config.json") and file != "labels.json"}


@pytest.mark.parametrize(
    "kind", ["masks", "coco", "coco/semantic.json", "coco/panoptic.json", "labelme", "cvat", "cvat/annotations.xml"]
)
def test_labels_that_nobody_touched_come_back_as_they_were(world: Path, copy: Path, out: Path, kind: str) -> None:
    assert run(world, copy, *LABEL, f"--labels_from={out / kind}") == 0
    assert shards(copy, "new") == shards(copy, "default")
    labels = json.loads((copy / "labels/new/labels.json").read_text())
    drawn = sum((row.label_map != 255).any() for row in rows(copy, "default").values())
    assert drawn == 5 and labels["corrected"]["other_photos"] == "free labels"
    assert labels["corrected"]["photos"] == (10 if kind == "masks" else drawn)
    assert labels.get("remarks") == (None if kind == "masks" else {"listed without an annotation": 10 - drawn})
    assert labels["digest"] != json.loads((copy / "labels/default/labels.json").read_text())["digest"]


def test_rows_differ_where_a_person_changed_them(world: Path, copy: Path, out: Path, capsys: Any) -> None:
    free = rows(copy, "default")
    y, x = np.argwhere(free["005"].label_map != 255)[-1]

    def change(values: np.ndarray) -> None:
        values[:6, :10] = 2
        values[y, x] = 255

    edit(out / "masks/train/005.png", change)
    for path in sorted((out / "masks/train").glob("*.png"))[5:]:
        path.unlink()  # photos without a file keep the free labels
    assert run(world, copy, *LABEL, f"--labels_from={out / 'masks'}") == 0
    assert "3 classes, 5 photos as corrected. " in capsys.readouterr().out
    new = rows(copy, "new")
    assert [photo for photo in free if free[photo].encode() != new[photo].encode()] == ["005"]
    before, after = free["005"], new["005"]
    wanted = before.label_map.copy()
    change(wanted)
    changed = wanted != before.label_map
    assert changed[:6].any() and changed[y, x] and y > 11 and np.array_equal(after.label_map, wanted)
    assert (after.confidence[changed & (wanted == 2)] == 255).all() and after.confidence[y, x] == 0
    assert np.array_equal(after.confidence[~changed], before.confidence[~changed])
    assert after.classes.tolist() == sorted(set(wanted[wanted != 255].tolist())) and (after.scores == 1).all()
    # 17 x 20 px on 6 x 6 patches: the first two rows and three columns of patches lie in the corrected rectangle
    assert (after.target_classes[:2, :3, 0] == 2).all() and (after.target_shares[:2, :3, 0] == 255).all()
    untouched = [row for row in range(3, 6) if row not in (6 * y // 17, (6 * y + 5) // 17)]
    assert untouched and np.array_equal(after.target_classes[untouched], before.target_classes[untouched])
    assert np.array_equal(after.target_shares[untouched], before.target_shares[untouched])


def test_photos_without_a_file_may_be_left_unlabelled(world: Path, copy: Path, out: Path) -> None:
    for path in (out / "masks/train").glob("*.png"):
        if path.stem != "005":
            path.unlink()
    assert run(world, copy, *LABEL, f"--labels_from={out / 'masks'}", "--only_corrected") == 0
    free, new = rows(copy, "default"), rows(copy, "new")
    assert (free["005"].label_map != 255).any()
    assert np.array_equal(new["005"].label_map, free["005"].label_map)
    assert np.array_equal(new["005"].target_shares, free["005"].target_shares)
    assert np.array_equal(new["005"].confidence == 255, free["005"].label_map != 255)
    others = [row for photo, row in new.items() if photo != "005"]
    assert all((row.label_map == 255).all() and not row.target_shares.any() and not len(row.classes) for row in others)
    assert [row.label_map.shape for row in new.values()] == [row.label_map.shape for row in free.values()]


def test_photos_of_a_json_without_an_annotation_keep_their_free_labels(
    world: Path, copy: Path, out: Path, capsys: Any
) -> None:
    """As of a job that is half done. --only_corrected leaves them unlabelled, as all that nobody has corrected."""
    path = out / "coco/semantic.json"
    read = json.loads(path.read_text())
    number = next(each["id"] for each in read["images"] if each["file_name"].endswith("005.png"))
    read["annotations"] = [each for each in read["annotations"] if each["image_id"] == number]
    read["annotations"][0]["segmentation"] = [[0, 0, 20, 0, 20, 9, 0, 9]]
    path.write_text(json.dumps(read))
    assert run(world, copy, *LABEL, f"--labels_from={path}") == 0
    line = "1 photos as corrected; 9 listed without an annotation, which keep their free labels. "
    assert line in capsys.readouterr().out
    free, new = rows(copy, "default"), rows(copy, "new")
    assert [photo for photo in free if free[photo].encode() != new[photo].encode()] == ["005"]
    labels = json.loads((copy / "labels/new/labels.json").read_text())
    assert labels["corrected"]["photos"] == 1 and labels["remarks"] == {"listed without an annotation": 9}
    only = ("--stage=label", "--config.labels.name=only", "--only_corrected", f"--labels_from={path}")
    assert run(world, copy, *only) == 0
    said = capsys.readouterr().out
    assert "the others unlabelled; 9 listed without an annotation, which stay unlabelled. " in said
    assert [photo for photo, row in rows(copy, "only").items() if (row.label_map != 255).any()] == ["005"]


def test_all_of_a_photo_is_unlabelled_where_somebody_says_so(world: Path, copy: Path, out: Path) -> None:
    path = out / "coco/semantic.json"
    read = json.loads(path.read_text())
    image = next(each for each in read["images"] if each["file_name"].endswith("005.png"))
    read["categories"].append({"id": 99, "name": "__ignore__"})
    run_lengths = {"size": [image["height"], image["width"]], "counts": [0, image["height"] * image["width"]]}
    read["annotations"] = [{"id": 1, "image_id": image["id"], "category_id": 99, "segmentation": run_lengths}]
    path.write_text(json.dumps(read))
    assert run(world, copy, *LABEL, f"--labels_from={path}") == 0
    assert (rows(copy, "default")["005"].label_map != 255).any()
    assert (rows(copy, "new")["005"].label_map == 255).all()


@pytest.mark.parametrize("kind", ["coco/semantic.json", "labelme", "cvat/annotations.xml"])
def test_a_list_of_photos_with_nothing_drawn_changes_nothing(
    world: Path, copy: Path, out: Path, kind: str, capsys: Any
) -> None:
    """An image_info_*.json, a task that nobody has begun."""
    for path in [out / kind] if kind != "labelme" else (out / kind).rglob("*.json"):
        text = path.read_text()
        if path.suffix == ".xml":
            text = re.sub("    <polygon .*\n", "", text)
        else:
            fields = json.loads(text)
            text = json.dumps(fields | {key: [] for key in ("annotations", "shapes") if key in fields})
        path.write_text(text)
    assert run(world, copy, *LABEL, f"--labels_from={out / kind}") == 0
    line = "0 photos as corrected; 10 listed without an annotation, which keep their free labels. "
    assert line in capsys.readouterr().out and shards(copy, "new") == shards(copy, "default")
    only = ("--stage=label", "--config.labels.name=only", "--only_corrected", f"--labels_from={out / kind}")
    assert run(world, copy, *only) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "nothing is drawn there, so --only_corrected would leave all unlabelled" in error
    assert not (copy / "labels/only").exists()


def test_quality_has_a_line_for_the_labels_as_they_are(world: Path, copy: Path, out: Path) -> None:
    for path in (out / "masks/train").glob("*.png"):
        edit(
            path,
            lambda values, path=path: np.copyto(values, np.asarray(Image.open(world / f"masks/train/{path.name}"))),
        )
    assert run(world, copy, *LABEL, f"--labels_from={out / 'masks'}") == 0
    for name, wanted in (("new", 1.0), ("default", None)):
        arguments = [f"--config={world}/config.py", f"--data={copy}", f"--config.labels.name={name}"]
        assert command(quality.main, quality.arguments(), arguments) == 0
        read = json.loads((copy / f"labels/{name}/quality.json").read_text())["train"]["readings"]
        assert read.get("with corrections", {}).get("miou") == wanted and read["merged"]["miou"] < 0.9


def test_workers_and_a_second_start_write_the_same(world: Path, copy: Path, out: Path, tmp_path: Path) -> None:
    edit(out / "masks/train/007.png", lambda values: values.fill(1))
    corrected = (*LABEL, f"--labels_from={out / 'masks'}")
    assert run(world, copy, *corrected) == 0
    once = files(copy)
    for file in (copy / "labels/new").glob("*train-*"):
        file.unlink()
    (copy / "labels/new/labels.json").unlink()
    for worker in (1, 0):
        assert run(world, copy, *corrected, f"--worker={worker}/2") == 0
    assert files(copy) == once


def test_the_whole_run_takes_them_too(world: Path, copy: Path, out: Path, tmp_path: Path) -> None:
    edit(out / "masks/train/007.png", lambda values: values.fill(1))
    corrected = ("--config.labels.name=new", f"--labels_from={out / 'masks'}")
    assert run(world, tmp_path / "fresh", *corrected) == 0
    assert run(world, copy, *corrected) == 0
    assert same(tmp_path / "fresh/labels/new", copy / "labels/new")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--labels_from=gone",), "--labels_from=gone: no such folder of corrected labels"),
        (("--labels_from=tests", "--stage=encode"), "--labels_from=tests: belongs to labelling; fix"),
        (("--only_corrected",), "--only_corrected: of which? Name the folder"),
    ],
)
def test_flags_that_do_not_fit(
    flags: tuple[str, ...], message: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(world, tmp_path / "data", *flags) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "data").exists()


def test_labels_belong_to_their_corrections(world: Path, copy: Path, out: Path, capsys: Any) -> None:
    assert run(world, copy, "--stage=label", f"--labels_from={out / 'masks'}") == 2
    assert "labels/default was made with corrected." in (error := capsys.readouterr().err)
    assert "choose another name: --config.labels.name=NAME" in error


def test_targets_of_a_large_photo_are_made_at_the_size_of_free_ones() -> None:
    seen = evidence_row()
    side = 2 * WORKING_PX
    large = EvidenceRow(seen.photo_id, (side, side), (4, 4), seen.crops, seen.crop_boxes, seen.dense, seen.masks)
    label_map = np.full((side, side), -1, np.int32)
    label_map[: side // 2, ::2], label_map[: side // 2, 1::2] = 0, 1  # every other column is seen at half the size
    row = corrected_row(unlabelled_row(large, 3, (4, 4)), label_map, (4, 4))
    assert (row.target_shares[:2, :, 0] == 255).all() and not row.target_shares[2:].any()
    assert (row.target_classes[:2, :, 0] == 1).all() and row.label_map.shape == (side, side)
