"""DATA opens when complete, its rows are found over shards, and misfits are named."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelgen.core.errors import UserError
from labelgen.core.files import write_json
from labelgen.core.ontology import parse_words
from labelgen.data.dataset import Dataset, read_prototypes
from labelgen.data.records import FeatureRow, LabelRow
from labelgen.data.tfrecord import ShardWriter, shard_name
from tests.worlds.rows import feature_row, label_row, truth_row


def write_rows(folder: Path, split: str, shards: list[list[Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, rows in enumerate(shards):
        with ShardWriter(folder / shard_name(split, i, len(shards))) as writer:
            for row in rows:
                writer.append(row.encode())
            writer.finish()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    names = [["a", "b"], [], ["c"]]
    write_rows(tmp_path / "features", "train", [[feature_row(n) for n in shard] for shard in names])
    write_rows(tmp_path / "truth", "train", [[truth_row(n) for n in shard] for shard in names])
    write_rows(tmp_path / "labels/w", "train", [[label_row(n) for n in shard] for shard in names])
    ontology = parse_words(["x: y, z", "u"], "words")
    write_json(tmp_path / "labels/w/ontology.json", ontology.to_json())
    np.save(tmp_path / "labels/w/prototypes.npy", np.eye(3, 5, dtype=np.float32))
    write_json(tmp_path / "labels/w/labels.json", {"splits": ["train"]})
    splits = {"train": {"rows": [2, 0, 1], "truth": True}, "eval": {"rows": [0], "truth": False}}
    write_json(
        tmp_path / "dataset.json",
        {"format": 1, "splits": splits, "grid_hw": [4, 4], "feature_width": 6, "text_width": 5},
    )
    return tmp_path


def test_rows_over_shards(data: Path) -> None:
    dataset = Dataset.open(data)
    assert dataset.splits == ("eval", "train") and dataset.count("train") == 3 and dataset.count("eval") == 0
    assert (dataset.grid_hw, dataset.feature_width, dataset.text_width) == ((4, 4), 6, 5)
    reader = pickle.loads(pickle.dumps(dataset.reader("features", "train")))
    assert [FeatureRow.decode(reader[i]).photo_id for i in range(len(reader))] == ["a", "b", "c"]
    with pytest.raises(IndexError):
        reader[3]


def test_labels(data: Path) -> None:
    dataset = Dataset.open(data)
    ontology, prototypes = dataset.labels("w")
    assert ontology.words == ("y", "z", "u") and prototypes.tolist() == np.eye(3, 5).tolist()
    assert LabelRow.decode(dataset.label_reader("w", "train")[2]).photo_id == "c"


def test_what_is_not_there_is_said(data: Path) -> None:
    dataset = Dataset.open(data)
    for call, message in (
        (lambda: dataset.reader("features", "val"), "no split 'val'; it has eval, train"),
        (lambda: dataset.reader("truth", "eval"), "split 'eval' has no truth; set photos.splits.eval.masks"),
        (lambda: dataset.labels("other"), r"label first: .*--config.labels.name=other \(there are: w\)"),
        (lambda: dataset.label_reader("w", "eval"), "split 'eval' is not labelled, only train"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_incomplete_and_foreign_data(data: Path) -> None:
    write_json(data / "dataset.json", {"format": 99})
    with pytest.raises(UserError, match="format 99, this version reads 1"):
        Dataset.open(data)
    (data / "dataset.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        Dataset.open(data)
    (data / "dataset.json").unlink()
    with pytest.raises(UserError, match="DATA is not complete: run labelgen.run"):
        Dataset.open(data)


def test_shard_of_another_run(data: Path) -> None:
    for path in (data / "features").iterdir():
        path.unlink()
    write_rows(data / "features", "train", [[feature_row("a")], [], [feature_row("c")]])
    with pytest.raises(UserError, match=r"00000-of-00003.tfrecord: has 1 rows, 2 are expected"):
        Dataset.open(data).reader("features", "train")[0]


def test_missing_shard_is_told_at_the_start(data: Path) -> None:
    (data / "features" / shard_name("train", 2, 3)).unlink()
    with pytest.raises(UserError, match="train-00002-of-00003.tfrecord: missing; run labelgen.run again"):
        Dataset.open(data).reader("features", "train")


def test_opening_touches_no_truth(data: Path) -> None:
    for path in (data / "truth").iterdir():
        path.unlink()
    (data / "truth").rmdir()
    assert Dataset.open(data).has_truth("train")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((3, 4)), r"float64 \[3, 4\], but floats \[3, 5\] are wanted"),
        (np.ones((2, 5)), r"\[2, 5\]"),
        (np.ones((3, 5), int), "int64"),
        (np.array([[1.0] * 5, [0.0] * 5, [1.0] * 5]), "row 1 is zero"),
        (np.array([[1.0] * 5, [1.0] * 5, [np.nan] * 5]), "row 2 is zero or not finite"),
    ],
)
def test_embeddings_that_do_not_fit(tmp_path: Path, array: Any, message: str) -> None:
    np.save(tmp_path / "p.npy", array)
    with pytest.raises(UserError, match=message):
        read_prototypes(tmp_path / "p.npy", 3, 5)


def test_embeddings_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "p.npy").write_bytes(b"hello")
    with pytest.raises(UserError, match="not a .npy file"):
        read_prototypes(tmp_path / "p.npy", 3, 5)
    with pytest.raises(UserError, match="no such file"):
        read_prototypes(tmp_path / "q.npy", 3, 5)


@pytest.mark.parametrize("split", ["../train", "a/b", "..", "a\\b", ""])
def test_a_split_is_a_name_and_no_path(data: Path, split: str) -> None:
    info = json.loads((data / "dataset.json").read_text())
    write_json(data / "dataset.json", info | {"splits": {split: info["splits"]["train"]}})
    with pytest.raises(UserError, match="is no name of a file"):
        Dataset.open(data)
