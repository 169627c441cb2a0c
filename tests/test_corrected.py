"""Labels go out, are corrected and come back: rows differ where a person changed them and nowhere else."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rows import evidence_row
from run_world import copy_fixture as copy_fixture  # noqa: F401
from run_world import files, run, same
from run_world import own_signals_fixture as own_signals_fixture
from run_world import whole_fixture as whole_fixture
from run_world import world_fixture as world_fixture

from labelgen import export
from labelgen.config import command
from labelgen.corrected import corrected_row, unlabelled_row
from labelgen.corrections import match
from labelgen.dataset import Dataset
from labelgen.errors import UserError
from labelgen.label import WORKING_PX
from labelgen.records import EvidenceRow, LabelRow

LABEL = ("--stage=label", "--config.labels.name=new")


@pytest.fixture(name="out")
def out_fixture(world: Path, whole: Path, tmp_path: Path) -> Path:
    """The free labels as labelgen.export writes them."""
    arguments = [f"--config={world}/config.py", f"--data={whole}", f"--out={tmp_path / 'out'}", "--format=png,coco"]
    assert command(export.main, export.arguments(), arguments) == 0
    return tmp_path / "out"


def rows(data: Path, name: str) -> dict[str, LabelRow]:
    reader = Dataset.open(data).label_reader(name, "train")
    found = [LabelRow.decode(reader[i]) for i in range(len(reader))]
    return {row.photo_id: row for row in found}


def shards(data: Path, name: str) -> dict[str, bytes]:
    kept = files(data / "labels" / name).items()
    return {file: content for file, content in kept if not file.endswith("config.json") and file != "labels.json"}


def edit(path: Path, change: Callable[[np.ndarray], None]) -> None:
    image = Image.open(path)
    values = np.array(image)
    change(values)
    edited = Image.fromarray(values, image.mode)
    if image.mode == "P":
        edited.putpalette(image.getpalette() or [])
    edited.save(path)


@pytest.mark.parametrize("kind", ["masks", "coco/semantic.json"])
def test_labels_that_nobody_touched_come_back_as_they_were(world: Path, copy: Path, out: Path, kind: str) -> None:
    assert run(world, copy, *LABEL, f"--labels_from={out / kind}") == 0
    assert shards(copy, "new") == shards(copy, "default")
    labels = json.loads((copy / "labels/new/labels.json").read_text())
    assert labels["corrected"]["photos"] == 10 and labels["corrected"]["other_photos"] == "free labels"
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
    legend = json.loads((out / "classes.json").read_text())
    legend["sky"]["index"], legend["ball"]["index"] = 2, 0
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
    return r"masks/train/\d+.png: class 'balloon', which the words do not have \(sky, grass, ball\); mend it, or take"


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
    return r"masks: has PNGs in .* and .*coco/semantic.json; name the one that was corrected: --labels_from="


def nothing(out: Path) -> str:
    for path in (out / "masks/train").glob("*"):
        path.unlink()
    return "masks: no PNG and no COCO json in it; write some with labelgen.export"


@pytest.mark.parametrize("spoil", [unknown_index, unknown_class, other_size, no_photo, twice, coloured, both, nothing])
def test_what_the_user_must_mend(
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
    ("flags", "message"),
    [
        (("--labels_from=gone",), "--labels_from=gone: no such folder of corrected labels"),
        (("--labels_from=tests", "--stage=encode"), "--labels_from=tests: belongs to labelling; mend"),
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


def test_targets_of_a_large_photo_are_made_at_the_size_of_free_ones() -> None:
    seen = evidence_row()
    side = 2 * WORKING_PX
    large = EvidenceRow(seen.photo_id, (side, side), (4, 4), seen.crops, seen.crop_boxes, seen.dense, seen.masks)
    label_map = np.full((side, side), -1, np.int32)
    label_map[: side // 2, ::2], label_map[: side // 2, 1::2] = 0, 1  # every other column is seen at half the size
    row = corrected_row(unlabelled_row(large, 3, (4, 4)), label_map, (4, 4))
    assert (row.target_shares[:2, :, 0] == 255).all() and not row.target_shares[2:].any()
    assert (row.target_classes[:2, :, 0] == 1).all() and row.label_map.shape == (side, side)
