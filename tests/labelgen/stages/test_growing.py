"""A folder that gained photos: the new ones alone are encoded, what is written stays as it is to the byte."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labelgen import features
from labelgen.core.command import command
from labelgen.data import arrivals
from labelgen.data.dataset import Dataset
from labelgen.data.records import LabelRow, photo_id_of
from labelgen.data.staging import open_data
from tests.worlds import stub_run, tiny_models
from tests.worlds.labelgen_run import SCRIPT, files, process, run
from tests.worlds.paths import ROOT

FIRST = [f"{i:03}" for i in range(12) if i not in (4, 9)]
NEW = ["000a", "005a", "020", "021", "022", "023", "024", "025"]
"""Before, between and after those that were there; more than a shard of them; the last one is empty."""


@pytest.fixture
def grows(tmp_path: Path) -> Path:
    """A world of its own."""
    stub_run.write_world(tmp_path / "world")
    return tmp_path / "world"


def add(world: Path, names: list[str]) -> None:
    rng = np.random.default_rng(len(names))
    for name in names:
        Image.fromarray(rng.integers(0, 256, (20, 22, 3), np.uint8)).save(world / f"photos/train/{name}.png")
        Image.fromarray(rng.integers(0, 3, (20, 22), np.uint8)).save(world / f"masks/train/{name}.png")
        if name == NEW[-1]:
            (world / f"photos/train/{name}.png").write_bytes(b"")


def ids(data: Path, family: str = "features") -> list[str]:
    reader = Dataset.open(data).reader(family, "train")
    return [photo_id_of(reader[i]) for i in range(len(reader))]


def shards(content: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in content.items() if ".tfrecord" in name}


def test_new_photos_alone_are_encoded_and_labelled(grows: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    data = tmp_path / "data"
    assert run(grows, data) == 0
    before = files(data)
    add(grows, NEW)
    seen: list[str] = []
    encode = stub_run.StubEncoders.encode_photo
    monkeypatch.setattr(
        stub_run.StubEncoders, "encode_photo", lambda self, photo: (seen.append(photo.photo_id), encode(self, photo))[1]
    )
    capsys.readouterr()
    assert run(grows, data) == 0
    said = capsys.readouterr()
    assert sorted(seen) == NEW[:-1]
    assert "8 photos came to split train, the 12 before stay as they are" in said.err
    last = said.out.splitlines()[-1]
    assert "encoded photos 17 train, 3 wild, 3 skipped" in last and "8 photos came after the first" in last
    assert "the classes' scale is that of the first 10 of 17 photos" in last
    after = files(data)
    assert {name: after[name] for name in shards(before)} == shards(before)
    assert all(ids(data, family) == FIRST + NEW[:-1] for family in ("features", "evidence", "truth"))
    fields = json.loads((data / "dataset.json").read_text())["splits"]["train"]
    (later,) = fields["later"]
    assert fields["count"] == 12 and later["count"] == 8 and later["shards"] == 2 and len(later["came"]) == 10
    labels = Dataset.open(data).label_reader("default", "train")
    assert [LabelRow.decode(labels[i]).photo_id for i in range(len(labels))] == FIRST + NEW[:-1]
    assert sorted(json.loads(x)["photo"] for x in (data / "failures.jsonl").read_text().splitlines()) == [
        "004",
        "009",
        "025",
    ]
    assert run(grows, data) == 0 and "all was done before" in capsys.readouterr().out
    assert files(data) == after


def test_it_grows_again_and_without_the_lists_of_before(grows: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert run(grows, data) == 0
    shutil.rmtree(data / arrivals.FOLDER)  # as a DATA from before they were kept
    for name in NEW[:2]:
        add(grows, [name])
        assert run(grows, data) == 0
    assert ids(data) == FIRST + NEW[:2]
    assert list(arrivals.read_ids(arrivals.list_path(data, "train", 0))) == [f"{i:03}" for i in range(12)]


def test_a_trial_by_limit_grows_to_all(grows: Path, tmp_path: Path, capsys: Any) -> None:
    data = tmp_path / "data"
    assert run(grows, data, "--limit=2") == 0 and ids(data) == ["000", "001"]
    add(grows, NEW[:1])
    assert run(grows, data, "--limit=2") == 0 and ids(data) == ["000", "001"]  # though 000a is a first one now
    assert run(grows, data, "--limit=5") == 0 and ids(data) == ["000", "001", "000a", "002", "003"]
    assert run(grows, data, "--limit=3") == 2
    assert "photos.train.count = 2, but now it is 3" in capsys.readouterr().err
    assert run(grows, data) == 0 and sorted(ids(data)) == sorted(["000a", *FIRST])


def test_words_of_before_want_the_new_photos_labelled(grows: Path, tmp_path: Path, capsys: Any) -> None:
    data = tmp_path / "data"
    assert run(grows, data) == run(grows, data, "--config.labels.name=old") == 0
    add(grows, NEW)
    assert run(grows, data) == 0
    with pytest.raises(ValueError, match=r"labels/old: 8 photos came to split 'train' since; label them too: .*=old"):
        Dataset.open(data).label_reader("old", "train")
    assert run(grows, data, "--stage=label", "--config.labels.name=old") == 0
    assert len(Dataset.open(data).label_reader("old", "train")) == 17
    capsys.readouterr()
    assert run(grows, data, "--stage=label", "--config.labels.name=anew") == 0
    assert "scale" not in capsys.readouterr().out
    assert json.loads((data / "labels/anew/calibration.json").read_text())["photos"] == 17


def test_while_it_grows_it_is_what_it_was(grows: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert run(grows, data) == 0
    add(grows, NEW)
    assert run(grows, data, "--worker=0/40") == 0  # this one has no new shard
    assert ids(data) == FIRST and len(Dataset.open(data).label_reader("default", "train")) == 10
    assert run(grows, data) == 0
    assert ids(data) == FIRST + NEW[:-1]


def test_gone_photos_are_refused_and_what_was_not_begun_is_taken_back(grows: Path, tmp_path: Path, capsys: Any) -> None:
    data = tmp_path / "data"
    assert run(grows, data) == 0
    (grows / "photos/train/003.png").rename(tmp_path / "003.png")
    add(grows, NEW)
    before = files(data)
    assert run(grows, data) == 2
    assert (
        "1 photos of split 'train' are not there any more, '003' is the first; put them back" in capsys.readouterr().err
    )
    assert files(data) == before
    (tmp_path / "003.png").rename(grows / "photos/train/003.png")
    arrivals.add(data, "train", 1, [*NEW, "not-there"])
    assert run(grows, data) == 0
    assert ids(data) == FIRST + NEW[:-1]


def test_half_encoded_killed_shared_and_grown(grows: Path, tmp_path: Path) -> None:
    """Killed at random moments before and after photos came, by several workers: as if nobody had disturbed it."""
    calm, data = tmp_path / "calm", tmp_path / "data"
    shutil.copytree(grows, tmp_path / "first")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STUB_SECONDS": "0.01"}
    assert run(grows, calm) == 0
    half = process(grows, data, "--worker=0/2")  # one of two
    _out, error = half.communicate()
    assert half.returncode == 0, error
    add(grows, NEW)
    assert run(grows, calm) == 0
    shutil.copytree(data, tmp_path / "killed-0")
    shutil.copytree(data, tmp_path / "killed-1")
    command = [*SCRIPT, "--kill", "12", "1", str(tmp_path / "killed"), f"--config={grows}/config.py"]
    killed = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == 0, killed.stderr
    workers = [process(grows, data, f"--worker={i}/3", seconds=0.01) for i in range(3)]
    for worker in workers:
        _out, error = worker.communicate()
        assert worker.returncode == 0, error
    assert run(grows, data) == 0
    for other in (data, tmp_path / "killed-0"):
        one, two = files(calm), files(other)
        # The scale was measured when all photos were there; so labels differ, and nothing else does.
        differ = {name for name in one.keys() | two.keys() if one.get(name) != two.get(name)}
        assert {name for name in differ if not name.startswith("labels/")} == set(), differ


def test_two_that_see_new_photos_agree_on_one_list(tmp_path: Path) -> None:
    assert arrivals.add(tmp_path, "train", 1, ["a", "b\n\udcff"])
    assert not arrivals.add(tmp_path, "train", 1, ["a", "c"])
    path = arrivals.list_path(tmp_path, "train", 1)
    assert list(arrivals.read_ids(path)) == ["a", "b\n\udcff"] and list(path.parent.iterdir()) == [path]


def test_tensorflow_datasets_reads_what_came(grows: Path, tmp_path: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets", reason="an optional extra; installed, it reads the folders")
    data = tmp_path / "data"
    assert run(grows, data) == 0
    add(grows, NEW)
    assert run(grows, data) == 0
    for folder in ("features", "evidence", "truth", "labels/default"):
        info = tfds.builder_from_directory(str(data / folder)).info
        assert info.splits["train"].num_examples == 10 and info.splits["train-1"].num_examples == 7
        assert info.splits["train+train-1"].num_examples == 17
        names = info.splits["train"].filenames + info.splits["train-1"].filenames
        assert all((data / folder / Path(name).name).exists() for name in names)


def test_a_copy_over_a_url_and_another_encoder_have_what_came(grows: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert run(grows, data) == 0
    add(grows, NEW)
    assert run(grows, data) == 0
    far = open_data(f"file://{data}", str(tmp_path / "cache")).reader("features", "train")
    assert [photo_id_of(far[i]) for i in range(len(far))] == ids(data)
    weights = tiny_models.write(tmp_path / "weights")
    encoder = {"name": "dinov2.json", "weights": "dinov2.safetensors", "size_px": 48}
    flags = [f"--config.encoder.{key}={value}" for key, value in encoder.items()]
    flags += [f"--config={grows}/config.py", f"--data={data}", f"--out={tmp_path}/2", f"--config.weights_dir={weights}"]
    assert command(features.main, features.arguments(), flags) == 0
    assert ids(tmp_path / "2") == ids(tmp_path / "2", "truth") == ids(data)
    assert len(Dataset.open(tmp_path / "2").label_reader("default", "train")) == 17
