"""What a step costs: matrix products counted by hand, loops in full, devices together; what bounds it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmbseg_jax.training import costs
from fmbseg_jax.training.batch import FedBatch, StoredBatch
from fmbseg_jax.training.chips import CHIPS
from fmbseg_jax.training.costs import Cost, cost, matmul_flops
from fmbseg_jax.training.mesh import over_data
from tests.worlds.stepping import BATCH, CE, LINEAR, TEXT_WIDTH, WIDTH, Bench, arrays, mesh_of
from tests.worlds.synthetic import ONTOLOGY


def test_products_are_counted_with_their_loops() -> None:
    def program(x: jax.Array, w: jax.Array) -> jax.Array:
        def body(carry: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.tanh(carry @ w), None

        return jax.jit(lambda x: jax.lax.scan(body, x, None, length=5)[0])(x) + x

    program_jaxpr = jax.make_jaxpr(program)(jnp.ones((3, 4)), jnp.ones((4, 4)))
    assert matmul_flops(program_jaxpr) == 5 * 2 * 3 * 4 * 4


def test_batched_products_and_sums_over_two_axes() -> None:
    def program(x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.einsum("bnd,bdkn->bk", x, y)

    assert matmul_flops(jax.make_jaxpr(program)(jnp.ones((2, 3, 4)), jnp.ones((2, 4, 5, 3)))) == 2 * 2 * 3 * 4 * 5


@pytest.mark.parametrize("devices", [1, 4])
def test_a_linear_head_step_by_hand(devices: int) -> None:
    """Projection forth and its kernel's gradient; scores forth and back to z: whatever the number of devices."""
    bench = Bench(mesh_of(devices, 1))
    batch = jax.device_put(FedBatch(**arrays()), over_data(bench.mesh))
    arguments = bench.state, batch, bench.teacher
    patches = BATCH * CE.patches_per_photo
    project, scores = 2 * patches * WIDTH * TEXT_WIDTH, 2 * patches * TEXT_WIDTH * len(ONTOLOGY.words)
    assert matmul_flops(jax.make_jaxpr(bench.step)(*arguments)) == 2 * project + 2 * scores
    compiled = bench.step.lower(*arguments).compile()
    found = cost(bench.step, compiled, arguments, devices)
    assert found.flops == (2 * project + 2 * scores) // devices
    assert found.parameters == WIDTH * TEXT_WIDTH + TEXT_WIDTH and LINEAR.blocks == 0
    features = batch.features.nbytes // devices
    assert features < found.argument_bytes < features + 100_000 and found.temp_bytes > 0


def test_the_bound_is_what_takes_longer() -> None:
    one = Cost(1, 10_600, 10_000, 300, 100, 5000, 1000.0, 500.0)
    assert one.moved_bytes == 1000 and one.bound == "compute" and one.least_seconds == 5
    two = Cost(1, 6000, 0, 3000, 1000, 5000, 1000.0, 500.0)
    assert two.bound == "memory" and two.least_seconds == 20 and "bound by memory: 20000.00 ms at best" in str(two)


def test_a_split_on_the_devices_is_not_moved() -> None:
    rows = {
        "features": jnp.ones((4, 5, 6), jnp.bfloat16),
        "row": jnp.ones((4, 5), jnp.int32),
        "grid_hw": jnp.ones((4, 5, 2), jnp.int32),
        "classes": jnp.ones((4, 5, 3), jnp.uint16),
        "shares": jnp.ones((4, 5, 3), jnp.uint8),
    }
    assert FedBatch(**rows, stop=jnp.ones(4)).stored_bytes == 0
    indices = jnp.ones((4, 2, 1), jnp.int32)
    assert StoredBatch(**rows, indices=indices, stop=jnp.ones(4)).stored_bytes == 240 + 80 + 160 + 120 + 60


def test_peaks_are_published_or_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    operations, moved = costs.peaks(jax.devices()[0])
    assert 1e8 < operations < 1e14 and 1e8 < moved < 1e13
    device = type("Device", (), {"device_kind": "NVIDIA H200"})()
    assert costs.peaks(device) == (989e12, 4800e9)
    np.testing.assert_array_less(
        0, [peak for chip in CHIPS.values() for peak in (chip.flops, chip.memory, chip.usable)]
    )
