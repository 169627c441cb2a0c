"""Wrong input of the labelling command: refused in one line that names the file and the fix, and nothing is lost."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labelgen.core.errors import UserError
from labelgen.data.dataset import Dataset
from labelgen.data.records import photo_id_of
from tests.worlds import stub_run
from tests.worlds.labelgen_run import files, run, same


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            ["--config.clip.stride_px=56"],
            "data was made with config.clip.stride_px = 112, but now it is 56; take another",
        ),
        (["--limit=5"], "data was made with photos.train.count = 12, but now it is 5; take another --out"),
        (
            ["--config.points.per_class=3"],
            "labels/default was made with points.per_class = 8.*--config.labels.name=NAME",
        ),
        (["--stage=label", "--config.dtype=float16"], "data was made with dtype = .float32."),
        (["--stage=label", "--limit=3"], "--limit belongs to encoding"),
        (["--config.photos.root=gone"], "gone: no such folder of photos"),
        (["--config.photos.root="], "photos.root is not set"),
        (["--config.ontology="], "ontology is not set"),
        (["--config.ontology=gone.txt"], "gone.txt: no such file of words"),
        (["--config.labels.splits=val"], "labels.splits names 'val', but photos.splits has train, wild"),
        (["--config.labels.name=x", "--config.labels.text_embeddings=gone.npy"], "gone.npy: no such file of text emb"),
    ],
)
def test_refused_with_one_line(
    world: Path, copy: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(copy)
    assert run(world, copy, *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and re.search(message, error)
    assert {name: data for name, data in files(copy).items() if name in before} == before


def test_nothing_encoded_to_label(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(world, tmp_path / "data", "--stage=label") == 2
    assert "config.json: missing; nothing is encoded there: run the encode stage first" in capsys.readouterr().err


def test_embeddings_of_another_width(world: Path, copy: Path, tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "wide.npy", np.ones((4, 6)))
    name = "--config.labels.name=wide"
    assert run(world, copy, name, f"--config.labels.text_embeddings={tmp_path}/wide.npy") == 2
    assert "wide.npy: float64 [4, 6], but floats [4, 5] are wanted" in capsys.readouterr().err
    np.save(tmp_path / "wide.npy", np.ones((4, 5)))
    assert run(world, copy, name, f"--config.labels.text_embeddings={tmp_path}/wide.npy") == 0


def test_other_weights_are_refused(world: Path, copy: Path, monkeypatch: Any, capsys: Any) -> None:
    (copy / "features/wild-00000-of-00001.tfrecord.index").unlink()
    monkeypatch.setenv("STUB_WEIGHTS", "b")
    assert run(world, copy) == 2
    error = capsys.readouterr().err
    assert 'data was made with encoders.clip.sha256 = "a", but now it is "b"; put the weights' in error


def test_data_goes_on_in_its_dtype_and_another_one_is_refused(
    world: Path, copy: Path, monkeypatch: Any, capsys: Any
) -> None:
    """As with dtype=auto on a machine without the GPU that the others have."""
    before = (copy / "encoders.json").read_bytes()
    (copy / "features/wild-00000-of-00001.tfrecord.index").unlink()
    monkeypatch.setenv("STUB_DTYPE", "bfloat16")
    assert run(world, copy) == 0 and (copy / "encoders.json").read_bytes() == before
    assert f"{copy} was begun in float32 and goes on in it\n" in capsys.readouterr().err
    assert run(world, copy, "--config.dtype=float32") == 0
    assert "was begun in" not in capsys.readouterr().err
    assert run(world, copy, "--config.dtype=float16") == 2
    assert "set --config.dtype=float32 or auto, or take another --out" in capsys.readouterr().err


def test_wrong_mask_stops_and_nothing_is_lost(world: Path, whole: Path, tmp_path: Path, capsys: Any) -> None:
    mine = Path(shutil.copytree(world, tmp_path / "w", ignore=shutil.ignore_patterns("whole")))
    Image.new("L", (20, 14)).save(mine / "masks/train/006.png")
    assert run(world, tmp_path / "data", f"--config.photos.root={mine}") == 2
    assert "masks/train/006.png: 20 x 14 px, but its photo" in capsys.readouterr().err
    shutil.copy(world / "masks/train/006.png", mine / "masks/train/006.png")
    assert run(world, tmp_path / "data", f"--config.photos.root={mine}") == 0
    assert same(tmp_path / "data", whole)


def test_config_is_free_until_the_first_photo(world: Path, whole: Path, tmp_path: Path, monkeypatch: Any) -> None:
    def no_weights(config: Any) -> None:
        raise UserError("weights missing")

    with monkeypatch.context() as patch:
        patch.setattr(stub_run, "StubEncoders", no_weights)
        assert run(world, tmp_path / "data", "--config.sam.name=vit_l") == 2
    assert run(world, tmp_path / "data") == 0
    assert same(tmp_path / "data", whole)


def test_photo_fixed_later(world: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(world, tmp_path / "w", ignore=shutil.ignore_patterns("whole")))
    root = f"--config.photos.root={mine}"
    assert run(world, tmp_path / "old", root) == 0
    Image.new("RGB", Image.open(mine / "masks/train/004.png").size).save(mine / "photos/train/004.png")
    (tmp_path / "old/evidence/train-00000-of-00002.tfrecord.failures.jsonl").unlink()
    assert run(world, tmp_path / "old", root) == 0 and run(world, tmp_path / "new", root) == 0
    old, new = Dataset.open(tmp_path / "old"), Dataset.open(tmp_path / "new")
    for family in ("features", "evidence", "truth"):
        rows = [old.reader(family, "train"), new.reader(family, "train")]
        assert len(rows[0]) == 11 and [*rows[0]] == [*rows[1]]
    labels = old.label_reader("default", "train")
    assert [photo_id_of(row) for row in labels] == [photo_id_of(row) for row in old.reader("evidence", "train")]


def test_no_usable_photo_at_all(tmp_path: Path, capsys: Any) -> None:
    stub_run.write_world(tmp_path, photos=10, held=1)
    for path in (tmp_path / "photos").rglob("*.png"):
        path.write_bytes(b"")
    assert run(tmp_path, tmp_path / "data") == 2
    assert "failures.jsonl: not one photo could be used" in capsys.readouterr().err


SHARD = "train-00001-of-00002.tfrecord"


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0xFF
    path.write_bytes(raw)


@pytest.mark.parametrize("family", ["features", "evidence", "truth", "labels/default"])
@pytest.mark.parametrize("damage", ["altered", "cut", "gone"])
def test_damage_is_named_and_its_fix_fixes(
    world: Path, whole: Path, copy: Path, family: str, damage: str, capsys: Any
) -> None:
    path = copy / family / SHARD
    size = path.stat().st_size
    if damage == "altered":
        flip(path, size // 2)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[: size // 2])
    else:
        path.unlink()
    data = Dataset.open(copy)
    with pytest.raises(ValueError, match=SHARD) as error:
        reader = data.label_reader("default", "train") if "labels" in family else data.reader(family, "train")
        for row in range(len(reader)):
            reader[row]
    index = path.with_name(SHARD + ".index")
    if damage != "gone":
        assert f"delete {index}" in str(error.value)
        index.unlink()
    assert run(world, copy) == 0
    assert same(copy, whole)


def test_index_of_another_shard(world: Path, copy: Path, capsys: Any) -> None:
    index = copy / "evidence" / (SHARD + ".index")
    shutil.copy(copy / "evidence/train-00000-of-00002.tfrecord.index", index)
    assert run(world, copy) == 2
    assert f"{index}: is for a shard of" in capsys.readouterr().err


def test_arguments(capsys: Any) -> None:
    for argument, message in (("--worker=2/2", "workers of n are 0 to n - 1"), ("--limit=0", "1 or more")):
        with pytest.raises(SystemExit) as stop:
            stub_run.main(["--config=c", "--out=o", argument])
        assert stop.value.code == 2 and message in capsys.readouterr().err
