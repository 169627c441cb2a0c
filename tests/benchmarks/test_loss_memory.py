"""The benchmark of the losses' memory: its peer is the same loss, its count of operations is right."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.loss_memory import AtOnce, hlo_flops, line
from fmbseg_jax.runs.head import make_head
from fmbseg_jax.runs.settings import LossConfig
from tests.worlds.stepping import CE, LINEAR, SUPCON, Bench, mesh_of


@pytest.mark.parametrize("loss", [CE, SUPCON], ids=["ce", "supcon"])
def test_the_peer_is_the_same_loss(loss: LossConfig) -> None:
    bench = Bench(mesh_of(1, 1), LINEAR, loss)
    peer = AtOnce(make_head(LINEAR, 8, "cpu"), loss, bench.objective._word_class, bench.mesh)
    found = [
        jax.jit(objective)(bench.state.params, bench.batch(), bench.teacher, jax.random.key(3))
        for objective in (peer, bench.objective)
    ]
    assert [float(x) for x in found[0]] == pytest.approx([float(x) for x in found[1]], rel=1e-5)


def test_products_in_a_loop_are_counted_each_time() -> None:
    def program(x: jax.Array, several: jax.Array) -> jax.Array:
        return jax.lax.map(lambda y: jnp.sum((x @ y) ** 2), several).sum() + jnp.sum((x @ x.T) ** 2)

    shapes = jax.ShapeDtypeStruct((30, 40), jnp.float32), jax.ShapeDtypeStruct((5, 40, 20), jnp.float32)
    text = jax.jit(program).lower(*shapes).compile().as_text()
    assert hlo_flops(text) == 5 * 2 * 30 * 40 * 20 + 2 * 30 * 40 * 30


def test_a_row_of_the_table() -> None:
    before = {"temp_bytes": 4 << 20, "argument_bytes": 1 << 20, "output_bytes": 0, "matmul_flops": 2 * 10**9}
    after = {**before, "temp_bytes": 1 << 20}
    row = {"loss": "t_supcon", "patches_per_photo": 0, "classes": 21, "batch": 8, "before": before, "after": after}
    assert line(row) == "| t_supcon | all | 21 | 8 | 4 MiB | 1 MiB | 0.25 | 1 MiB | 2.0 |"
