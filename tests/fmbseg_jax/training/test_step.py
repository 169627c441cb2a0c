"""The step: sharded like unsharded, placed by the table, a pure function of its arguments."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from fmbseg_jax.runs.head import State
from fmbseg_jax.runs.settings import HeadConfig, LossConfig
from fmbseg_jax.training.batch import FedBatch
from fmbseg_jax.training.mesh import batch_sharding, make_mesh, state_shardings
from fmbseg_jax.training.step import named, valid_patches
from labelgen.core.errors import UserError
from tests.worlds.stepping import BLOCK, CE, LINEAR, SUPCON, TEXT_WIDTH, WIDTH, Bench, arrays, mesh_of
from tests.worlds.synthetic import CLASSES

ALL_GATHER = re.compile(r"= \w+\[([\d,]+)\]\S* all-gather\(")


@pytest.mark.parametrize(
    ("head", "loss", "meshes"),
    [(LINEAR, CE, [(4, 1)]), (LINEAR, SUPCON, [(4, 1)]), (BLOCK, SUPCON, [(4, 1), (2, 2)])],
)
def test_loss_and_gradients_are_the_same_on_one_device_and_on_many(
    head: HeadConfig, loss: LossConfig, meshes: list[tuple[int, int]]
) -> None:
    value, gradients = Bench(mesh_of(1, 1), head, loss).gradients()
    for data, model in meshes:
        check_same(value, gradients, *Bench(mesh_of(data, model), head, loss).gradients())


def check_same(value: float, gradients: list[np.ndarray], sharded_value: float, sharded: list[np.ndarray]) -> None:
    assert value == pytest.approx(sharded_value, rel=1e-5)
    assert max(np.abs(leaf).max() for leaf in gradients) > 1e-3
    for leaf, other in zip(gradients, sharded, strict=True):
        np.testing.assert_allclose(leaf, other, atol=1e-5)


def test_what_is_gathered_for_t_supcon_is_the_sample_alone() -> None:
    bench = Bench(mesh_of(4, 1), LINEAR, SUPCON)
    text = bench.step.lower(bench.state, bench.batch(), bench.teacher).compile().as_text()
    gathered = [int(np.prod([int(n) for n in shape.split(",")])) for shape in ALL_GATHER.findall(text)]
    assert gathered, "nothing is gathered: the contrast set is not global"
    assert max(gathered) == SUPCON.supcon_samples * TEXT_WIDTH


def test_state_is_born_where_the_table_says_and_stays_there() -> None:
    bench = Bench(mesh_of(2, 2), BLOCK, SUPCON)
    state, _ = bench.step(bench.state, bench.batch(), bench.teacher)
    for part in (state.params["head"], state.moments[1][0].mu["head"]):
        block = part["block_0"]
        assert block["qkv"]["kernel"].sharding.spec == PartitionSpec(None, None, "model", None)
        assert block["out"]["kernel"].sharding.spec == PartitionSpec("model", None, None)
        assert block["down"]["kernel"].sharding.spec == PartitionSpec("model", None)
        assert part["hidden"]["kernel"].sharding.spec == PartitionSpec(None, "model")
        assert part["project"]["kernel"].sharding.is_fully_replicated
    assert part["hidden"]["kernel"].addressable_shards[0].data.shape == (WIDTH, 8)


def test_steps_compile_once_donate_and_repeat_bit_for_bit() -> None:
    runs = []
    for _ in range(2):
        bench = Bench(mesh_of(4, 1), BLOCK, SUPCON)
        state = bench.state
        for i in range(4):
            before = state
            state, metrics = bench.step(state, bench.batch(i), bench.teacher)
            assert jax.tree.leaves(before)[1].is_deleted()
        assert bench.step._cache_size() == 1
        assert int(state.step) == 4 and np.isfinite(named(metrics)["loss"])
        runs.append([np.asarray(leaf) for leaf in jax.tree.leaves(state)])
    assert all((a == b).all() for a, b in zip(*runs, strict=True))


def test_what_is_drawn_changes_with_the_step_and_the_seed() -> None:
    losses = []
    for seed, first in ((0, 0), (0, 1), (7, 0)):
        bench = Bench(mesh_of(1, 1), seed=seed)
        state = bench.state.replace(step=jnp.int32(first))
        losses.append(named(bench.step(state, bench.batch(), bench.teacher)[1])["loss"])
    assert len(set(losses)) == 3


def test_what_is_drawn_of_a_photo_does_not_depend_on_its_place_in_the_batch() -> None:
    batch, order = arrays(), np.random.default_rng(5).permutation(8)
    other = {name: value[order] for name, value in batch.items()}
    renamed = {**other, "row": batch["row"]}
    losses = []
    for mesh in (mesh_of(1, 1), mesh_of(4, 1)):
        bench = Bench(mesh)
        for given in (batch, other, renamed):
            state = jax.tree.map(jnp.copy, bench.state)
            placed = jax.device_put(FedBatch(**given), batch_sharding(mesh, 8))
            losses.append(named(bench.step(state, placed, bench.teacher)[1])["loss"])
    assert losses == pytest.approx([losses[0], losses[0], losses[2]] * 2, rel=1e-5)
    assert losses[2] != pytest.approx(losses[0], rel=1e-3), "another row draws other patches"


def test_one_host_that_is_to_stop_is_seen_by_all() -> None:
    bench = Bench(mesh_of(4, 1))
    state, metrics = bench.step(bench.state, bench.batch(), bench.teacher)
    assert not named(metrics)["stop"]
    stop = jax.device_put(np.float32([0, 0, 0, 0, 0, 0, 1, 1]), batch_sharding(bench.mesh, 8))
    _, metrics = bench.step(state, bench.batch(1).replace(stop=stop), bench.teacher)
    assert [named(shard.data)["stop"] for shard in metrics.addressable_shards] == [2] * 4


def test_padding_rows_count_for_nothing_in_the_held_out_sums() -> None:
    bench = Bench(mesh_of(1, 1), LINEAR, SUPCON)
    batch = arrays()
    batch["shares"][5:] = 0
    other = {name: value.copy() for name, value in batch.items()}
    other["features"][5:] = 9.0
    sums = [bench.held_out(bench.state.params, FedBatch(**jax.device_put(b)), bench.teacher) for b in (batch, other)]
    np.testing.assert_allclose(*sums, rtol=1e-6)
    assert float(sums[0].mass) == pytest.approx(batch["shares"].sum() / 255, rel=1e-5)


def test_training_moves_agreement_to_one_on_what_can_be_learnt() -> None:
    bench = Bench(mesh_of(4, 1), steps=60)
    batch = arrays()
    batch["classes"][..., 1:] = batch["classes"][..., :1]
    centres = np.random.default_rng(2).normal(size=(CLASSES, WIDTH))
    batch["features"] = centres[batch["classes"][..., 0]].astype(np.float32)
    placed = jax.device_put(FedBatch(**batch), batch_sharding(bench.mesh, 8))
    state, agreements = bench.state, []
    for _ in range(60):
        state, metrics = bench.step(state, placed, bench.teacher)
        agreements.append(named(metrics)["agreement"])
    assert agreements[0] < 0.7 and agreements[-1] > 0.95, agreements


def test_the_temperature_is_learnt_when_asked_and_bounded() -> None:
    bench = Bench(mesh_of(1, 1), LINEAR, SUPCON)
    state = bench.state
    for i in range(3):
        state, metrics = bench.step(state, bench.batch(i), bench.teacher)
    assert named(metrics)["temperature"] != pytest.approx(0.1, abs=1e-5)
    assert float(bench.objective.temperature({"log_temperature": jnp.float32(-50)})) == pytest.approx(0.01)
    assert "log_temperature" not in Bench(mesh_of(1, 1)).state.params


def test_valid_patches_by_hand() -> None:
    got = valid_patches(jnp.array([[1, 2], [2, 3]], jnp.int32), 2, 3)
    assert np.asarray(got).tolist() == [[[True, True, False], [False] * 3], [[True] * 3] * 2]


def test_meshes_that_do_not_fit_are_refused() -> None:
    assert dict(make_mesh(-1, 2).shape) == {"data": 2, "model": 2}
    with pytest.raises(UserError, match=r"mesh\.data=3 times mesh\.model=2 is not the 4 devices there are"):
        make_mesh(3, 2)
    with pytest.raises(UserError, match=r"train\.batch_size=6 cannot be divided over 4 devices"):
        batch_sharding(make_mesh(-1, 1), 6)
    kernel = {"hidden": {"kernel": jnp.zeros((4, 7))}}
    with pytest.raises(UserError, match=r"mesh\.model=2 does not divide the 7 of params/hidden/kernel \(4, 7\)"):
        state_shardings(State(jnp.int32(0), kernel, ()), make_mesh(2, 2))
