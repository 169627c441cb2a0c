"""The map that knows no words: against least squares, where there is no evidence, and through a checkpoint."""

from pathlib import Path

import numpy as np
import pytest

from configs.default import get_config
from fmbseg_jax.runs.checkpoint import restore_run
from fmbseg_jax.runs.dense_map import RIDGE, densely_embedded, fit_dense_map
from labelgen.data.dataset import Dataset
from labelgen.labels.presence import dense_map
from tests.worlds import tiny
from tests.worlds.run import write_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(tiny.write_data(tmp_path_factory.mktemp("data")))


def patches(photo: int, variant: str) -> tuple[np.ndarray, np.ndarray]:
    """float64 features with a one [n, 6] and unit dense embeddings [n, 5] of the valid patches."""
    h, w = tiny.grid_of(photo)
    x = tiny.features(photo).features[:h, :w].reshape(-1, 5).astype(np.float64)
    y = dense_map(tiny.evidence(photo), variant).reshape(-1, 5).astype(np.float64)
    return np.concatenate([x, np.ones((len(x), 1))], 1), y / np.linalg.norm(y, axis=1, keepdims=True)


@pytest.mark.parametrize("variant", ["naclip", "naclip+maskclip"])
def test_the_map_is_the_ridge_regression_of_all_patches(data: Dataset, variant: str) -> None:
    pairs = [patches(photo, variant) for photo in range(5)]
    x, y = (np.concatenate(its) for its in zip(*pairs, strict=True))
    ridge = np.sqrt(RIDGE * (x**2).sum() / 6)  # as rows of their own
    wanted = np.linalg.lstsq(np.concatenate([x, ridge * np.eye(6)]), np.concatenate([y, np.zeros((6, 5))]))[0]
    got = fit_dense_map(data, "eval", variant)
    assert got is not None and got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    row = tiny.features(2)
    z = patches(2, variant)[0] @ wanted
    z = (z / np.linalg.norm(z, axis=1, keepdims=True)).reshape(4, 3, 5)
    np.testing.assert_allclose(densely_embedded(row, got), z, atol=1e-4)


def test_a_data_without_evidence_has_no_map(tmp_path: Path, data: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit_dense_map(data, "eval", "proxyclip") is None
    assert "no dense map" in capsys.readouterr().err
    alone = tiny.write_data(tmp_path / "data")
    for file in (alone / "evidence").iterdir():
        file.unlink()
    assert fit_dense_map(Dataset.open(alone), "eval", "naclip") is None
    assert "evidence" in capsys.readouterr().err


def test_a_run_keeps_its_map(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    kept = restore_run(write_run(tmp_path / "with", get_config(), dense_map=weights)).dense_map
    assert kept is not None and np.array_equal(kept, weights)
    assert restore_run(write_run(tmp_path / "without", get_config())).dense_map is None
