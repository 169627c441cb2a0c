"""A batch's memory is taken again when nobody has the batch any more, and never before."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmbseg_jax.training.feed import BatchMemory

EXAMPLE = {"x": np.zeros((3, 5), np.float32), "row": np.array(0, np.int32), "y": np.zeros(7, np.uint8)}


def address(batch: dict[str, np.ndarray]) -> int:
    return int(batch["x"].ctypes.data)


def test_arrays_have_the_shapes_begin_at_64_bytes_and_do_not_overlap() -> None:
    batch = BatchMemory(EXAMPLE, 4).take()
    assert {name: (x.shape, x.dtype) for name, x in batch.items()} == {
        "x": ((4, 3, 5), np.float32), "row": ((4,), np.int32), "y": ((4, 7), np.uint8),
    }  # fmt: skip
    assert all(x.ctypes.data % 64 == 0 for x in batch.values())
    for value, x in enumerate(batch.values()):
        x[...] = value
    assert [np.unique(x).tolist() for x in batch.values()] == [[0], [1], [2]]


def test_memory_that_nobody_holds_is_taken_again() -> None:
    memory = BatchMemory(EXAMPLE, 4)
    batch = memory.take()
    first = address(batch)
    assert address(memory.take()) != first
    del batch
    assert address(memory.take()) == first


@pytest.mark.parametrize("view", [lambda b: b["y"], lambda b: b["x"][1:, ::2], lambda b: b["x"].reshape(-1).view("u1")])
def test_a_view_of_any_of_its_arrays_holds_it(view) -> None:  # type: ignore[no-untyped-def]
    memory = BatchMemory(EXAMPLE, 4)
    batch = memory.take()
    first, held = address(batch), view(batch)
    del batch
    assert address(memory.take()) != first
    del held
    assert address(memory.take()) == first


def test_what_jax_made_of_it_holds_it_until_its_last_use_is_over() -> None:
    memory = BatchMemory({"x": np.zeros((256, 256), np.float32)}, 2)
    batch = memory.take()
    batch["x"][...] = 1
    on_device = jax.device_put(batch)
    aliased = on_device["x"].unsafe_buffer_pointer() == address(batch)
    assert aliased, "on a CPU: else this shows nothing"

    @jax.jit
    def slowly(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 50, lambda _, y: y @ x[1] / 256, x[0]) + x[0]

    slowly.lower(on_device["x"]).compile()
    result = slowly(on_device["x"])
    del batch, on_device
    for _ in range(3):  # whatever is free by now is written over
        taken = memory.take()
        taken["x"][...] = jnp.nan
    np.testing.assert_allclose(result, 2)
    gc.collect()
