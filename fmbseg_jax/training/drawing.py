"""Patches drawn at random: of a photo the same ones wherever it stands in a batch, on any number of devices."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.random import threefry_2x32
from jaxtyping import Float32, Int32, Key, Real


def step_key(seed: int, step: Int32[Array, ""]) -> Key[Array, ""]:
    """The key of a step of a training: its two numbers themselves, which `lots` hashes."""
    words = jnp.stack([jnp.uint32(seed % 2**32), step.astype(jnp.uint32)])
    key: Array = jax.random.wrap_key_data(words, impl="threefry2x32")
    return key


def lots(key: Key[Array, ""], row: Int32[Array, "B"], count: int) -> Float32[Array, "B {count}"]:
    """A number for each of a row's patches, uniform in [0, 1): of (key, row, patch) alone, by one Threefry hash."""
    words = jax.random.key_data(key)
    shape = (len(row), count)
    rows = jnp.broadcast_to(row.astype(jnp.uint32)[:, None], shape)
    patches = jnp.broadcast_to(jnp.arange(count, dtype=jnp.uint32)[None], shape)
    hashed: Array = threefry_2x32((words[0], words[1]), jnp.stack([rows, patches]))[0]
    lot: Array = (hashed >> 8).astype(jnp.float32) * jnp.float32(2**-24)
    return lot


def draw_patches(lot: Float32[Array, "B N"], mass: Real[Array, "B N"], count: int) -> Int32[Array, "B {count}"]:
    """Patch numbers without repetition in the order of their lots, labelled ones (mass > 0) first."""
    return jax.lax.top_k(lot + (mass > 0).astype(jnp.float32), count)[1]
