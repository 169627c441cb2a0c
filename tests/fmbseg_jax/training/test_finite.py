"""What is no longer finite ends a training, named; nothing good is overwritten, and no figure is NaN."""

import json
from pathlib import Path

import numpy as np
import pytest

from fmbseg_jax.inference.embedder import Embedder
from fmbseg_jax.runs.checkpoint import restore_run
from labelgen.core.errors import UserError
from labelgen.data.dataset import Dataset
from labelgen.data.records import FeatureRow, feature_row
from tests.worlds.synthetic import break_features, write_data
from tests.worlds.training import metrics, train


def strict(path: Path) -> None:
    """ValueError where a line is no JSON: NaN and Infinity are none."""

    def refuse(constant: str) -> float:
        raise ValueError(constant)

    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize("resident", [0.5, 0.0], ids=["resident", "fed"])
def test_a_photo_with_infinite_features_ends_the_training_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], resident: float
) -> None:
    data = write_data(tmp_path / "data")
    assert train(data, tmp_path / "run", train_steps=20, train_resident_share=resident) == 0
    photo = break_features(data, 3)
    capsys.readouterr()
    broken = tmp_path / "broken"
    assert train(data, broken, train_steps=20, train_save_every=1, train_resident_share=resident) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"features in DATA of {photo} are not finite" in error and "--config.dtype=float32" in error
    step = int(error.split("step ")[1].split(":")[0])
    kept = "no checkpoint was written" if step == 1 else f"the checkpoint of step {step - 1} is kept"
    assert 1 <= step <= 3 and error.endswith(kept), "24 photos, 8 a step: by the third all were seen"
    strict(broken / "metrics.jsonl")
    assert not (broken / "summary.json").exists()


def test_a_training_that_runs_away_ends_with_the_cause_and_keeps_what_was_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = write_data(tmp_path / "data"), tmp_path / "run"
    fields = {"train_steps": 40, "train_save_every": 1, "train_warmup_steps": 2}
    assert train(data, run, train_learning_rate=1e38, **fields) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: step ") and "nan" in error
    assert "a lower --config.train.learning_rate" in error
    strict(run / "metrics.jsonl")
    assert all(np.isfinite(line["loss"]) for line in metrics(run) if "loss" in line)
    restored = restore_run(run, "latest")
    assert error.endswith(f"the checkpoint of step {restored.step} is kept")
    assert all(np.isfinite(leaf).all() for leaf in restored.params["project"].values())


def test_a_photo_whose_features_are_not_finite_is_neither_written_nor_predicted(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    assert train(data, tmp_path / "run", train_steps=6) == 0
    restored, reader = restore_run(tmp_path / "run"), Dataset.open(data).reader("features", "train")
    good = FeatureRow.decode(reader[3])
    assert len(Embedder(restored, 2)([good])) == 1
    photo = break_features(data, 3)
    row = FeatureRow.decode(Dataset.open(data).reader("features", "train")[3])
    with pytest.raises(UserError, match=f"{photo}: its patch features are not finite; encode again"):
        Embedder(restored, 2)([row])
    features = np.zeros((2, 3, 4), np.float32)
    assert feature_row("p", (20, 30), features, (4, 4), np.dtype("float16")).finite
    features[1, 2, 3] = 1e6
    with pytest.raises(UserError, match="p: its patch features are not finite as float16; set --config.dtype=float32"):
        feature_row("p", (20, 30), features, (4, 4), np.dtype("float16"))
