"""Checkpoints: what comes back, on which devices, what is kept, and what happens when one is broken or another's."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmbseg_jax.runs import checkpoint
from fmbseg_jax.runs.checkpoint import Checkpoints, refuse_other, restore_run
from fmbseg_jax.runs.head import State
from labelgen.core.errors import UserError
from tests.worlds.checkpoints import IDENTITY, PROTOTYPES, facts, kept, same, train
from tests.worlds.stepping import CE, LINEAR, SUPCON, TEXT_WIDTH, WIDTH, Bench, mesh_of
from tests.worlds.synthetic import ONTOLOGY


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(mesh_of(1, 1), LINEAR, CE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Losses 3, 1, 2, 4: the best is 2, the latest two 3 and 4."""
    workdir = tmp_path_factory.mktemp("run")
    train(Bench(mesh_of(1, 1), LINEAR, CE), workdir, [3.0, 1.0, 2.0, 4.0])
    return workdir


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_the_latest_two_and_the_best_are_kept(trained: Path) -> None:
    assert kept(trained) == [2, 3, 4]
    assert restore_run(trained, "best").step == 2
    assert restore_run(trained, "latest").step == 4


def test_a_step_without_a_measured_loss_is_never_best(bench: Bench, tmp_path: Path) -> None:
    train(Bench(mesh_of(1, 1)), tmp_path, [0.5, 0.9, None])
    assert kept(tmp_path) == [1, 2, 3] and restore_run(tmp_path).step == 1
    shutil.rmtree(tmp_path / "checkpoints")
    train(Bench(mesh_of(1, 1)), tmp_path, [None, None])
    assert restore_run(tmp_path).step == 2, "none measured: the latest"


def test_that_a_step_has_no_loss_is_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    monkeypatch.setattr(handler, "emit", lambda record: said.append(record.getMessage()))
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.WARNING)
    log.addHandler(handler)
    try:
        train(Bench(mesh_of(1, 1)), tmp_path, [None])
        log.warning("a disk is full")
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
    assert said == ["a disk is full"]


def test_a_loss_that_is_no_number_is_never_best(tmp_path: Path) -> None:
    train(Bench(mesh_of(1, 1)), tmp_path, [3.0, 1.0, float("nan"), float("nan")])
    assert kept(tmp_path) == [2, 3, 4] and restore_run(tmp_path).step == 2
    checkpoints = Checkpoints(tmp_path, PROTOTYPES, facts(True))
    assert checkpoints.best() == {"best_step": 2, "best_held_out_loss": 1.0}
    checkpoints.close()


def test_restored_at_every_step_the_rest_is_bit_equal(tmp_path: Path) -> None:
    bench = Bench(mesh_of(4, 1), LINEAR, SUPCON)
    fresh = jax.device_get(bench.state)
    where = jax.tree.map(lambda x: x.sharding, bench.state)
    states = train(bench, tmp_path / "whole", [1.0] * 4, SUPCON)
    for at in range(1, 4):
        workdir = tmp_path / str(at)
        train_again = Checkpoints(workdir, PROTOTYPES, facts(True))
        train_again.save(at, jax.device_put(states[at - 1], where), {"next_index": at}, 1.0)
        train_again.close()
        checkpoints = Checkpoints(workdir, PROTOTYPES, facts(True))
        step, state, feed = checkpoints.restore(jax.device_put(fresh, where), IDENTITY)
        checkpoints.close()
        assert (step, feed) == (at, {"next_index": at}) and same(state, states[at - 1])
        for i in range(at, 4):
            state, _ = bench.step(state, bench.batch(i), bench.teacher)
        assert same(state, states[-1])
    assert bench.step._cache_size() == 1


@pytest.mark.parametrize(("data", "model"), [(4, 1), (2, 2)])
def test_a_run_of_one_device_goes_on_on_many(run: Path, data: int, model: int) -> None:
    bench = Bench(mesh_of(data, model), LINEAR, CE)
    checkpoints = Checkpoints(run, PROTOTYPES, facts())
    step, state, _ = checkpoints.restore(bench.state, IDENTITY)
    checkpoints.close()
    assert step == 4
    assert all(
        x.sharding == y.sharding for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(bench.state), strict=True)
    )
    latest = restore_run(run, "latest")
    assert same(state.params["head"], latest.params)


def test_run_alone_restores_the_head_and_all_it_takes(trained: Path) -> None:
    got = restore_run(trained)
    assert got.ontology == ONTOLOGY and got.grid_hw == (3, 3) and got.feature_width == WIDTH
    assert got.encoders["encoder"]["sha256"] == "ab" * 32 and got.temperature == pytest.approx(0.04)
    np.testing.assert_array_equal(got.prototypes, PROTOTYPES)
    assert got.config.to_dict() == facts()["config"], "tuples stay tuples"
    z = got.head_module("cpu").apply({"params": got.params}, jnp.ones((1, 3, 3, WIDTH)), jnp.ones((1, 3, 3), bool))
    assert z.shape == (1, 3, 3, TEXT_WIDTH)


def test_a_learnt_temperature_comes_back(tmp_path: Path) -> None:
    bench = Bench(mesh_of(1, 1), LINEAR, SUPCON)
    states = train(bench, tmp_path, [1.0, 1.0], SUPCON)
    assert restore_run(tmp_path).temperature == pytest.approx(float(np.exp(states[-1].params["log_temperature"])))


def other_digest(step: Path) -> None:
    """As if the arrays had been altered in a way that Orbax restores without a word."""
    path = step / "meta/metadata"
    meta = json.loads(path.read_text())
    meta["digests"]["params"] = "0" * 64
    path.write_text(json.dumps(meta))


def flip_a_byte(step: Path) -> None:
    file = max((step / "params").rglob("d/*"), key=lambda p: p.stat().st_size)
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 3] ^= 1
    file.write_bytes(raw)


def cut_off(step: Path) -> None:
    for file in (step / "params").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(step: Path) -> None:
    shutil.rmtree(step)
    step.mkdir()


def without_moments(step: Path) -> None:
    shutil.rmtree(step / "moments")


@pytest.mark.parametrize("damage", [other_digest, flip_a_byte, cut_off, empty, without_moments])
def test_a_broken_checkpoint_is_set_aside_and_the_one_before_taken(run: Path, damage: Any) -> None:
    bench = Bench(mesh_of(1, 1), LINEAR, CE)
    damage(run / "checkpoints/4")
    notes: list[str] = []
    checkpoints = Checkpoints(run, PROTOTYPES, facts())
    step, state, feed = checkpoints.restore(bench.state, IDENTITY, notes.append)
    assert (step, feed) == (3, {"next_index": 3})
    assert len(notes) == 1 and "checkpoints/4 is broken" in notes[0] and "it is now broken-4" in notes[0]
    state, _ = bench.step(state, bench.batch(3), bench.teacher)
    checkpoints.save(4, state, {"next_index": 4}, 0.5)
    checkpoints.close()
    assert restore_run(run, "latest").step == restore_run(run, "best").step == 4


@pytest.mark.parametrize("damage", [other_digest, flip_a_byte, cut_off])
def test_evaluation_passes_over_a_broken_best(run: Path, damage: Any) -> None:
    damage(run / "checkpoints/2")
    notes: list[str] = []
    assert restore_run(run, "best", notes.append).step == 3
    assert len(notes) == 1 and "checkpoints/2 is broken" in notes[0]


@pytest.mark.parametrize("url", [False, True])
def test_a_checkpoint_dropped_by_the_training_that_goes_on_is_passed_over(
    run: Path, url: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    real = checkpoint._restore

    def dropped(manager: Any, step: int) -> Any:
        """Between the listing and the reading of 2, the best, it goes, and so does 3; 5 is there."""
        if step == 2:
            (run / "checkpoints/4").rename(run / "checkpoints/5")
            for gone in (2, 3):
                shutil.rmtree(run / f"checkpoints/{gone}")
            raise FileNotFoundError("checkpoints/2")
        return real(manager, step)

    monkeypatch.setattr(checkpoint, "_restore", dropped)
    assert restore_run(f"file://{run}" if url else run, "best", notes.append).step == 5
    assert not notes


def test_when_all_are_broken_the_error_says_so(run: Path, bench: Bench) -> None:
    for step in (2, 3, 4):
        cut_off(run / f"checkpoints/{step}")
    with pytest.raises(UserError, match="checkpoints: no checkpoint can be read; train again"):
        restore_run(run, note=lambda text: None)
    checkpoints = Checkpoints(run, PROTOTYPES, facts())
    with pytest.raises(UserError, match="checkpoints: no checkpoint can be read; delete RUN"):
        checkpoints.restore(Bench(mesh_of(1, 1)).state, IDENTITY, lambda text: None)
    checkpoints.close()


def test_no_checkpoint_means_from_the_start(tmp_path: Path) -> None:
    bench = Bench(mesh_of(1, 1))
    checkpoints = Checkpoints(tmp_path, PROTOTYPES, facts())
    step, state, feed = checkpoints.restore(bench.state, IDENTITY)
    checkpoints.close()
    assert step == 0 and state is bench.state and feed == {"next_index": 0}
    with pytest.raises(UserError, match="no checkpoint can be read"):
        restore_run(tmp_path)
    with pytest.raises(UserError, match=r"nowhere: no checkpoints in it; train first"):
        restore_run(tmp_path / "nowhere")


def test_a_checkpoint_of_another_training_is_refused_and_left_alone(run: Path) -> None:
    checkpoints = Checkpoints(run, PROTOTYPES, facts())
    state: State = Bench(mesh_of(1, 1)).state
    with pytest.raises(
        UserError, match=r'was made with words = "grass, sand", but now it is "grass, snow"; set it back'
    ):
        checkpoints.restore(state, {**IDENTITY, "words": "grass, snow"})
    checkpoints.close()
    assert kept(run) == [2, 3, 4]


def test_the_first_field_that_differs_is_named() -> None:
    refuse_other({"a": [1, 2], "b": 2}, json.loads(json.dumps({"a": (1, 2), "b": 2})), Path("RUN"))
    with pytest.raises(UserError, match="RUN was made with b = 2, but now it is nothing; set it back"):
        refuse_other({"a": 1, "b": 2}, {"a": 1}, Path("RUN"))
