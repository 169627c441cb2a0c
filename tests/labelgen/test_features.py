"""Another encoder over an encoded DATA: its features, everything else linked; killed, shared, refused."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch
from PIL import Image

from labelgen import features
from labelgen.core.command import command
from labelgen.core.geometry import bilinear_matrix
from labelgen.data.dataset import Dataset
from labelgen.data.records import FeatureRow
from labelgen.data.tfrecord import ShardWriter
from labelgen.models.patch_encoder import PatchEncoder
from labelgen.models.trunks import load_timm
from tests.worlds import labelgen_run, stub_run, tiny_models
from tests.worlds.labelgen_run import files
from tests.worlds.paths import ROOT


@pytest.fixture(scope="module", name="weights")
def weights_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write(tmp_path_factory.mktemp("weights"))


def fields(weights: Path) -> list[str]:
    """What the command line sets: a tiny DINOv2."""
    encoder = {"name": "dinov2.json", "weights": "dinov2.safetensors", "size_px": 48}
    return [*(f"--config.encoder.{key}={value}" for key, value in encoder.items()), f"--config.weights_dir={weights}"]


def arguments(world: Path, weights: Path, data: Path, out: Path) -> list[str]:
    return [f"--config={world}/config.py", f"--data={data}", f"--out={out}", *fields(weights)]


def lay(world: Path, weights: Path, data: Path, out: Path, *more: str) -> int:
    return command(features.main, features.arguments(), [*arguments(world, weights, data, out), *more])


@pytest.fixture(scope="module", name="second")
def second_fixture(world: Path, whole: Path, weights: Path) -> Path:
    """DATA2 of one uninterrupted run."""
    assert lay(world, weights, whole, world / "second") == 0
    return world / "second"


def test_rows_are_the_encoders_features_on_datas_own_grid(
    world: Path, whole: Path, weights: Path, second: Path
) -> None:
    encoder = load_timm(tiny_models.config(weights).encoder, weights, "cpu", "float32")
    first, data = Dataset.open(whole), Dataset.open(second)
    assert (data.grid_hw, data.feature_width, data.text_width) == (first.grid_hw, 32, first.text_width)
    for split in ("train", "wild"):
        old, new = first.reader("features", split), data.reader("features", split)
        assert len(old) == len(new) == data.count(split)
        for i in range(len(old)):
            before, after = FeatureRow.decode(old[i]), FeatureRow.decode(new[i])
            assert (after.photo_id, after.size_hw, after.grid_hw) == (before.photo_id, before.size_hw, before.grid_hw)
            found = encoder.features(np.asarray(Image.open(world / f"photos/{split}/{after.photo_id}.png")))
            expected = features.on_grid(found, (6, 6)).astype(before.features.dtype)
            assert after.features.dtype == before.features.dtype and np.array_equal(after.features, expected)


def test_a_photo_replaced_under_its_name_is_refused(
    world: Path, whole: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = Path(shutil.copytree(world / "photos", tmp_path / "w/photos"))
    path = mine / "train/006.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    assert lay(world, weights, whole, tmp_path / "data2", f"--config.photos.root={tmp_path}/w") == 2
    assert "006.png: is another photo than the one of that name that DATA was encoded with" in capsys.readouterr().err


def test_evidence_truth_and_labels_are_the_same_files(whole: Path, second: Path) -> None:
    theirs, ours = files(whole), files(second)
    assert theirs.keys() - {"features"} <= ours.keys()
    linked = [name for name in theirs if name.split("/")[0] in ("evidence", "truth", "labels", "failures.jsonl")]
    assert len(linked) > 20 and all(os.path.samefile(whole / name, second / name) for name in linked)
    assert Dataset.open(second).labels("default").ontology == Dataset.open(whole).labels("default").ontology


def test_dataset_json_names_the_encoder_and_the_one_whose_grid_it_is(whole: Path, second: Path) -> None:
    info, before = (json.loads((data / "dataset.json").read_text()) for data in (second, whole))
    assert info["config"]["encoder"]["name"] == "dinov2.json" != before["config"]["encoder"]["name"]
    encoder = info["encoders"]["encoder"]
    assert (encoder["weights"], encoder["patch_px"], len(encoder["sha256"])) == ("dinov2.safetensors", 8, 64)
    assert encoder["dtype"] == "float32" and info["encoders"]["grid_of"] == before["encoders"]["encoder"]
    assert {**info, "config": 0, "encoders": 0, "feature_width": 0} == {
        **before, "config": 0, "encoders": 0, "feature_width": 0,
    }  # fmt: skip


@pytest.fixture(name="lanes")
def lanes_fixture() -> Iterator[None]:
    """Two photos in work at a time."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_photos_that_overlap_give_the_same_bytes(
    world: Path,
    whole: Path,
    weights: Path,
    second: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lanes: None,
) -> None:
    real, meeting = PatchEncoder.features, Barrier(2)

    def met(self: PatchEncoder, image: np.ndarray) -> np.ndarray:
        if image.shape[0] < 16:  # of the first shard's five photos 0 waits for 1 and 2 for 3
            meeting.wait(30)
        return real(self, image)

    monkeypatch.setattr(PatchEncoder, "features", met)
    assert lay(world, weights, whole, tmp_path / "d", "--worker=0/3") == 0
    monkeypatch.undo()
    assert lay(world, weights, whole, tmp_path / "d") == 0
    assert labelgen_run.same(tmp_path / "d", second)


KILLED = """
import os, signal, sys
from labelgen import features
from labelgen.core.command import command
from labelgen.models.patch_encoder import PatchEncoder
real, photos = PatchEncoder.features, []
def deadly(self, image):
    photos.append(image)
    if len(photos) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, image)
PatchEncoder.features = deadly
sys.exit(command(features.main, features.arguments(), sys.argv[1:]))
"""


def test_workers_share_the_photos_and_one_that_was_killed_goes_on(
    world: Path, whole: Path, weights: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [sys.executable, "-c", KILLED, *arguments(world, weights, whole, tmp_path / "d"), "--worker=0/2"]
    killed = subprocess.run(said, cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    there = [path.name for path in sorted((tmp_path / "d/features").glob("*.tfrecord*"))]
    assert there == ["train-00000-of-00002.tfrecord.partial"]
    assert lay(world, weights, whole, tmp_path / "d", "--worker=1/2") == 0
    assert "2 of 3 shards are left. next: the other workers, then" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "d/features").glob("*d")] == ["train-00001-of-00002.tfrecord"]
    assert lay(world, weights, whole, tmp_path / "d", "--worker=0/2") == 0
    assert "nothing skipped. next: python -m fmbseg_jax.train" in capsys.readouterr().out
    assert labelgen_run.same(tmp_path / "d", second)


def test_a_share_that_there_is_not_is_refused(
    world: Path, whole: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        lay(world, weights, whole, tmp_path / "d", "--worker=2/2")
    assert "'2/2': workers of n are 0 to n - 1" in capsys.readouterr().err


def test_stopped_at_any_photo_it_goes_on_there_and_ends_the_same(
    world: Path, whole: Path, weights: Path, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = PatchEncoder.features, []

    def stopped(self: PatchEncoder, image: np.ndarray) -> np.ndarray:
        seen.append(image.shape)
        if len(seen) in (3, 9):
            raise KeyboardInterrupt
        return real(self, image)

    monkeypatch.setattr(PatchEncoder, "features", stopped)
    for _ in range(2):
        assert lay(world, weights, whole, tmp_path / "d") == 130
        assert not (tmp_path / "d/dataset.json").exists()
    assert lay(world, weights, whole, tmp_path / "d") == 0
    assert len(seen) == 13 + 2  # two were begun twice
    assert lay(world, weights, whole, tmp_path / "d") == 0 and len(seen) == 15
    assert labelgen_run.same(tmp_path / "d", second)


def test_a_shard_of_another_process_is_left_to_it(
    world: Path, whole: Path, weights: Path, second: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "d/features").mkdir(parents=True)
    with ShardWriter(tmp_path / "d/features/train-00001-of-00002.tfrecord"):
        assert lay(world, weights, whole, tmp_path / "d") == 0
        said = capsys.readouterr()
        assert "1 of 3 shards are left. next: the other workers, then python -m labelgen.features " in said.out
        assert "left to its owner" in said.err and not (tmp_path / "d/dataset.json").exists()
    assert lay(world, weights, whole, tmp_path / "d") == 0
    assert labelgen_run.same(tmp_path / "d", second)


def test_labels_made_later_are_linked_by_the_same_command_and_those_in_work_are_not(
    world: Path, whole: Path, weights: Path, second: Path, tmp_path: Path
) -> None:
    data, out = Path(shutil.copytree(whole, tmp_path / "data")), tmp_path / "d"
    (data / "labels/default/labels.json").rename(data / "labels/default/labels.away")
    assert lay(world, weights, data, out) == 0 and not (out / "labels").exists()
    (data / "labels/default/labels.away").rename(data / "labels/default/labels.json")
    assert lay(world, weights, data, out) == 0
    assert len(Dataset.open(out).label_reader("default", "train")) == 10


def test_the_labelling_command_takes_it_as_it_takes_any_data(world: Path, weights: Path, second: Path) -> None:
    more = ["--stage=label", "--config.labels.name=other", *fields(weights)]
    assert stub_run.main([f"--config={world}/config.py", f"--out={second}", *more]) == 0
    assert len(Dataset.open(second).label_reader("other", "train")) == 10
    shutil.rmtree(second / "labels/other")


def test_on_a_disk_without_hard_links_they_are_symbolic(
    world: Path, whole: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> None:
        raise OSError(errno.EXDEV, "another disk")

    monkeypatch.setattr(os, "link", refused)
    assert lay(world, weights, whole, tmp_path / "d") == 0
    assert (tmp_path / "d/failures.jsonl").is_symlink()
    assert len(Dataset.open(tmp_path / "d").reader("evidence", "train")) == 10


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--config.clip.window_px=112"],
            "was made with clip.window_px = 224, but now it is 112; take the config that",
        ),
        (
            ["--config.encoder.size_px=64"],
            "made with config.encoder.size_px = 48, but now it is 64; take another --out",
        ),
        (["--out=WHOLE"], "is --data itself; name another folder"),
        (["--out=s3://bucket/data"], "are folders: links need one; copy DATA to a disk"),
        (["--data=nowhere"], "nowhere/dataset.json: missing; DATA is not complete"),
    ],
)
def test_what_does_not_fit_is_one_line(
    world: Path,
    whole: Path,
    weights: Path,
    second: Path,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    message: str,
) -> None:
    assert lay(world, weights, whole, second, *(text.replace("WHOLE", str(whole)) for text in more)) == 2
    assert message in capsys.readouterr().err


def test_photos_that_are_not_those_of_data_any_more_stop_it(
    world: Path, whole: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(world / "photos", tmp_path / "root/photos")).parent
    shutil.copytree(world / "masks", root / "masks")
    moved = f"--config.photos.root={root}"
    Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(root / "photos/wild/001.png")
    assert lay(world, weights, whole, tmp_path / "d", moved) == 2
    assert "photos/wild/001.png: 7 x 5 px, but it had 20 x 13 when DATA was encoded; put" in capsys.readouterr().err
    (root / "photos/wild/001.png").write_bytes(b"")
    assert lay(world, weights, whole, tmp_path / "d", moved) == 2
    assert "photos/wild/001.png: the file is empty, but DATA has it; copy it again" in capsys.readouterr().err


def test_a_grid_is_read_bilinearly_and_a_finer_one_averaged() -> None:
    rng = np.random.default_rng(0)
    found = rng.normal(size=(4, 6, 3)).astype(np.float32)
    np.testing.assert_array_equal(features.on_grid(found, (4, 6)), found)
    up = np.einsum("ia,abd,jb->ijd", bilinear_matrix(10, 4), found, bilinear_matrix(9, 6))
    np.testing.assert_allclose(features.on_grid(found, (10, 9)), up, atol=1e-6)
    mean = found.reshape(2, 2, 3, 2, 3).mean((1, 3))
    np.testing.assert_allclose(features.on_grid(found, (2, 3)), mean, atol=1e-6)
