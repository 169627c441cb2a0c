"""A split that lives on the devices gives the batches of the feed, to the bit, wherever it is resumed."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmbseg_jax.runs.settings import FeedConfig
from fmbseg_jax.training import device_batches
from fmbseg_jax.training.batch import StoredBatch
from fmbseg_jax.training.device_batches import Placed, Resident, open_batches
from fmbseg_jax.training.feed import Examples, Feed, Order, free_labels, split_rows
from fmbseg_jax.training.mesh import Layout, over_data, replicated
from labelgen.data.dataset import Dataset
from tests.worlds import training
from tests.worlds.stepping import mesh_of
from tests.worlds.synthetic import write_data

CONFIG = FeedConfig("train", "labels", 8, 4, 0.1, 0, 0.5)
STEPS = 30


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "data")


@pytest.fixture
def examples(path: Path) -> Examples:
    data = Dataset.open(path)
    return Examples(data, "train", free_labels(data, "default", "train"))


def open_it(examples: Examples, mesh: Any, step: int = 0, **fields: Any) -> Any:
    rows, _ = split_rows(len(examples), 0.1)
    config = dataclasses.replace(CONFIG, **fields)
    layout = Layout(mesh, over_data(mesh), np.arange(8))
    return open_batches(examples, rows, config, STEPS, layout, {"next_index": step})


def unpacked(batch: Any, mesh: Any, step: int, drawn: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """What a step reads of a stored batch, compiled as it is there."""
    placed = None if drawn is None else jax.device_put(drawn, over_data(mesh))

    def read(batch: StoredBatch, step: jax.Array, drawn: jax.Array | None) -> dict[str, jax.Array]:
        photos = batch.photos(step)
        return {**photos._asdict(), "features": photos.features(drawn)}

    over, whole = over_data(mesh).spec, replicated(mesh).spec
    local = jax.shard_map(read, mesh=mesh, in_specs=(over, whole, over), out_specs=over)
    return {name: np.asarray(x) for name, x in jax.jit(local)(batch, jnp.int32(step), placed).items()}


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (2, 2)])
def test_batches_are_the_feeds(examples: Examples, shape: tuple[int, int]) -> None:
    mesh = mesh_of(*shape)
    rows, _ = split_rows(len(examples), 0.1)
    fed, stored = Feed(examples, rows, CONFIG, STEPS, np.arange(8)), open_it(examples, mesh)
    assert isinstance(stored, Resident)
    for step in range(STEPS):  # several passes
        expected, got = next(fed), unpacked(next(stored), mesh, step)
        for name in ("grid_hw", "classes", "shares", "row"):
            np.testing.assert_array_equal(got[name], expected[name])
        flat = expected["features"].reshape(8, -1, expected["features"].shape[-1])
        np.testing.assert_array_equal(np.asarray(got["features"]), flat)
    assert stored.position == {"next_index": STEPS}


def test_patches_are_taken_in_one_gather(examples: Examples) -> None:
    mesh = mesh_of(4, 1)
    batch = next(open_it(examples, mesh))
    whole = np.asarray(unpacked(batch, mesh, 0)["features"])
    drawn = np.random.default_rng(0).integers(0, whole.shape[1], (8, 5)).astype(np.int32)
    got = unpacked(batch, mesh, 0, drawn)["features"]
    np.testing.assert_array_equal(np.asarray(got), np.stack([row[i] for row, i in zip(whole, drawn, strict=True)]))


def test_resumed_at_any_step_the_rest_is_the_same(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = mesh_of(2, 1)
    monkeypatch.setattr(device_batches, "STEPS_AHEAD", 4)

    def rows(batches: Any, step: int) -> list[int]:
        return unpacked(next(batches), mesh, step)["row"].tolist()

    whole = open_it(examples, mesh)
    expected = [rows(whole, step) for step in range(STEPS)]
    assert expected[:4] != expected[4:8]
    for start in (1, 7, 8, 29):
        rest = open_it(examples, mesh, start)
        assert [rows(rest, step) for step in range(start, STEPS)] == expected[start:]


def test_each_device_holds_its_own_virtual_shards_alone(examples: Examples) -> None:
    batch = next(open_it(examples, mesh_of(4, 1)))
    assert {shard.data.shape[0] for shard in batch.features.addressable_shards} == {1}
    rows = {int(row) for shard in batch.row.addressable_shards[:1] for row in np.asarray(shard.data).ravel()}
    assert {row % 4 for row in rows - {0}} == {0}


def test_what_does_not_fit_is_read_as_the_steps_go(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = split_rows(len(examples), 0.1)
    order = Order(rows, CONFIG, STEPS)
    size = 4 * order.longest * sum(value.nbytes for value in examples[int(rows[0])].values())
    monkeypatch.setattr(device_batches, "memory_bytes", lambda: 2 * size)
    assert isinstance(open_it(examples, mesh_of(1, 1)), Resident)
    monkeypatch.setattr(device_batches, "memory_bytes", lambda: 2 * size - 2)
    assert isinstance(open_it(examples, mesh_of(1, 1)), Placed)
    assert isinstance(open_it(examples, mesh_of(2, 1)), Resident), "two devices hold half each"
    assert isinstance(open_it(examples, mesh_of(1, 1), resident_share=0.0), Placed)


def test_devices_without_whole_virtual_shards_are_fed(examples: Examples) -> None:
    assert isinstance(open_it(examples, mesh_of(4, 1), virtual_shards=2), Placed)


def test_training_from_a_url_is_the_same(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert training.train(path, tmp_path / "plain") == 0
    assert training.train(f"file://{path}", tmp_path / "url") == 0  # type: ignore[arg-type]
    assert training.digests(tmp_path / "plain") == training.digests(tmp_path / "url")
    assert list((tmp_path / "cache").rglob("*.tfrecord")), "read through a copy"


def test_training_is_the_same_either_way(path: Path, tmp_path: Path) -> None:
    assert training.train(path, tmp_path / "fed", train_resident_share=0) == 0
    assert training.train(path, tmp_path / "stored", train_resident_share=0.5) == 0
    fed, stored = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("fed", "stored"))
    assert fed == pytest.approx(stored, rel=1e-6)
