"""The labelling command by its files: whole, killed, shared by workers, refused; always the same bytes."""

import json
import os
import re
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labelgen.core.files import digest
from labelgen.data.dataset import Dataset
from labelgen.data.records import EvidenceRow, LabelRow, TruthRow, photo_id_of
from tests.worlds import stub_run
from tests.worlds.labelgen_run import SCRIPT, files, process, run, same
from tests.worlds.paths import ROOT


def test_what_a_run_writes(world: Path, whole: Path) -> None:
    data = Dataset.open(whole)
    names = [f"{i:03}" for i in range(12) if i not in (4, 9)]
    for family in ("features", "evidence", "truth"):
        reader = data.reader(family, "train")
        assert [photo_id_of(reader[i]) for i in range(len(reader))] == names
    assert data.count("wild") == 3 and not data.has_truth("wild")
    labels = data.label_reader("default", "train")
    for i, name in enumerate(names):
        row, truth = LabelRow.decode(labels[i]), TruthRow.decode(data.reader("truth", "train")[i])
        mask = np.asarray(Image.open(world / f"masks/train/{name}.png"))
        assert np.array_equal(truth.label_map, mask) and row.label_map.shape == mask.shape and row.photo_id == name
    ontology, prototypes = data.labels("default")
    assert ontology.words == ("sky", "grass", "lawn", "ball")
    given = np.load(world / "words.npy")
    assert np.allclose(prototypes, given / np.linalg.norm(given, axis=1, keepdims=True), atol=1e-6)
    assert (data.grid_hw, data.feature_width, data.text_width) == ((6, 6), 8, 5)
    failure = {"split": "train", "reason": "the file is empty", "mend": "copy it again"}
    expected = [{**failure, "photo": name, "file": f"photos/train/{name}.png"} for name in ("004", "009")]
    assert [json.loads(line) for line in (whole / "failures.jsonl").read_text().splitlines()] == expected


def test_data_says_which_photos_it_is_of(world: Path, whole: Path, tmp_path: Path) -> None:
    assert run(world, tmp_path / "five", "--limit=5", "--stage=encode") == 0
    for data, count in ((whole, 12), (tmp_path / "five", 5)):
        photos = json.loads((data / "config.json").read_text())["photos"]["train"]
        assert photos["count"] == count and photos["digest"] == digest([f"{i:03}" for i in range(count)])


def test_last_line(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(world, tmp_path / "d", "--limit=5", "--config.labels.name=w") == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert "encoded photos 4 train, 3 wild, 1 skipped (see" in line and "labelled train with 4 words" in line
    assert " encode 0." in line and "next: python -m fmbseg_jax.train --config=" in line
    assert "--config.labels.name=w --data=" in line
    assert Dataset.open(tmp_path / "d").count("train") == 4
    assert run(world, tmp_path / "d", "--limit=5", "--config.labels.name=w") == 0
    assert "all was done before" in capsys.readouterr().out


def test_killed_at_twenty_random_moments(world: Path, whole: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "STUB_SECONDS": "0.01"}
    command = [*SCRIPT, "--kill", "20", "0", str(tmp_path / "data"), f"--config={world}/config.py"]
    killed = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == 0, killed.stderr
    ended = [tmp_path / f"data-{i}" for i in range(int(killed.stdout))]
    assert ended and all(same(data, whole) for data in ended)


def test_two_workers_at_once(world: Path, whole: Path, tmp_path: Path) -> None:
    workers = [process(world, tmp_path / "data", f"--worker={i}/2", seconds=0.01) for i in range(2)]
    for worker in workers:
        _out, error = worker.communicate()
        assert worker.returncode == 0, error
    assert same(tmp_path / "data", whole)


def test_workers_one_after_the_other(world: Path, whole: Path, tmp_path: Path, capsys: Any) -> None:
    for worker in (2, 0, 1):
        with pytest.raises(ValueError, match="dataset.json: missing; DATA is not complete"):
            Dataset.open(tmp_path / "data")
        assert run(world, tmp_path / "data", f"--worker={worker}/3") == 0
        assert ("next: the other workers" in capsys.readouterr().out) == (worker != 1)
    assert same(tmp_path / "data", whole)


@pytest.mark.parametrize(
    ("how", "code", "said"), [(signal.SIGTERM, 75, "stopped"), (signal.SIGINT, 130, "interrupted")]
)
def test_stopped_and_resumed(world: Path, whole: Path, tmp_path: Path, how: int, code: int, said: str) -> None:
    data = tmp_path / "data"
    stopped = process(world, data, seconds=0.05)
    while not (data / "features/train-00000-of-00002.tfrecord.partial").exists():
        assert stopped.poll() is None
        time.sleep(0.01)
    stopped.send_signal(how)
    _, error = stopped.communicate()
    assert stopped.returncode == code and error.endswith(f"{said}; the same command goes on from here\n")
    assert "Traceback" not in error
    assert run(world, data) == 0
    assert same(data, whole)


def test_full_disk_loses_nothing(world: Path, whole: Path, tmp_path: Path) -> None:
    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, 15_000))

    full = process(world, tmp_path / "data", preexec_fn=small_disk)
    _, error = full.communicate()
    assert full.returncode == 2 and error.count("error:") == 1 and "Traceback" not in error
    named = r"evidence/train-00000-of-00002.tfrecord.partial/\S+: File too large; make room"
    assert re.search(named, error.splitlines()[-1])
    assert run(world, tmp_path / "data") == 0
    assert same(tmp_path / "data", whole)


def no_encoders(config: Any) -> None:
    raise AssertionError("an encoder was loaded")


def test_other_words_need_no_encoder_and_no_photos(
    world: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words.txt").write_text("sea\nsand\n")
    np.save(tmp_path / "words.npy", np.eye(2, 5, dtype=np.float32))
    before = files(copy)
    monkeypatch.setattr(stub_run, "StubEncoders", no_encoders)
    other = ("--config.labels.name=other", f"--config.ontology={tmp_path}/words.txt", "--config.photos.root=gone")
    assert run(world, copy, "--stage=label", f"--config.labels.text_embeddings={tmp_path}/words.npy", *other) == 0
    assert Dataset.open(copy).labels("other").ontology.words == ("sea", "sand")
    assert {name: data for name, data in files(copy).items() if "labels/other" not in name} == before


def test_another_split_is_labelled_later(world: Path, copy: Path) -> None:
    assert run(world, copy, "--config.labels.splits=train,wild") == 0
    assert len(Dataset.open(copy).label_reader("default", "wild")) == 3
    assert run(world, copy) == 0
    assert len(Dataset.open(copy).label_reader("default", "wild")) == 3


def test_words_are_not_needed_to_encode(world: Path, whole: Path, tmp_path: Path) -> None:
    assert run(world, tmp_path / "data", "--stage=encode", "--config.ontology=") == 0
    assert not (tmp_path / "data/labels").exists()
    assert run(world, tmp_path / "data", "--stage=label") == 0
    assert same(tmp_path / "data", whole)


def test_folders_are_tensorflow_datasets(whole: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    data = Dataset.open(whole)
    for family, counts in {"features": {"train": 10, "wild": 3}, "truth": {"train": 10}}.items():
        builder = tfds.builder_from_directory(str(whole / family))
        assert {name: split.num_examples for name, split in builder.info.splits.items()} == counts
    evidence = tfds.builder_from_directory(str(whole / "evidence"))
    record = data.reader("evidence", "train")[3]
    read = evidence.info.features.deserialize_example_np(record)
    assert np.array_equal(read["dense"]["naclip"], EvidenceRow.decode(record).dense["naclip"])
    labels = tfds.builder_from_directory(str(whole / "labels/default"))
    assert labels.info.splits["train"].num_examples == 10
