"""Attention written for the CPU is the library's: values, gradients, patches that nobody attends to."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from fmbseg_jax.runs.attention import (
    BLOCKS,
    CUDNN,
    FLASH,
    WRITTEN_OUT,
    attend,
    by_blocks,
    cudnn,
    flash,
    kernel_of,
    written_out,
)

B, N, HEADS, WIDTH = 2, 7, 3, 4


def inputs(dtype: Any) -> tuple[tuple[jax.Array, ...], jax.Array]:
    rng = np.random.default_rng(0)
    qkv = tuple(jnp.asarray(3 * rng.normal(size=(B, N, HEADS, WIDTH)), dtype) for _ in range(3))
    return qkv, jnp.arange(N)[None] < jnp.array([[N], [4]])


def test_it_is_the_softmax_of_the_scores_in_float64() -> None:
    qkv, valid = inputs(jnp.float32)
    q, k, v = (np.asarray(x, np.float64) for x in qkv)
    for b in range(B):
        seen = np.asarray(valid)[b]
        for head in range(HEADS):
            scores = np.exp(q[b, :, head] @ k[b, seen, head].T / np.sqrt(WIDTH))
            expected = scores / scores.sum(1, keepdims=True) @ v[b, seen, head]
            np.testing.assert_allclose(attend(WRITTEN_OUT, *qkv, valid)[b, :, head], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "near"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.1)])
def test_values_and_gradients_are_the_librarys(dtype: Any, near: float) -> None:
    qkv, valid = inputs(dtype)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(B, N, HEADS, WIDTH)), jnp.float32)

    def both(attention: Any) -> Any:
        return jax.value_and_grad(lambda qkv: jnp.sum(weights * attention(*qkv).astype(jnp.float32)))(qkv)

    ours = both(lambda *qkv: written_out(*qkv, valid))
    theirs = both(lambda *qkv: jax.nn.dot_product_attention(*qkv, mask=valid[:, None, None, :]))
    assert written_out(*qkv, valid).dtype == dtype
    for got, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(np.asarray(got, np.float32), np.asarray(expected, np.float32), rtol=near, atol=near)


def test_a_view_without_valid_patches_has_finite_values_and_gradients() -> None:
    qkv, _ = inputs(jnp.float32)
    nobody = jnp.zeros((B, N), bool)
    gradient = jax.grad(lambda qkv: written_out(*qkv, nobody).sum())(qkv)
    assert all(np.isfinite(x).all() for x in gradient)
    np.testing.assert_allclose(written_out(*qkv, nobody)[:, 0], qkv[2].mean(1), rtol=1e-5, atol=1e-6)


def by_cudnns_rules(*args: Any) -> jax.Array:
    """What cuDNN is given, computed by the library's own formula."""
    return cudnn(*args, implementation="xla")


@pytest.mark.parametrize("attention", [by_blocks, by_cudnns_rules, flash])
@pytest.mark.parametrize("asking", [N, 3])
def test_every_kernel_gives_values_and_gradients_of_the_one_written_out(attention: Any, asking: int) -> None:
    (q, k, v), _ = inputs(jnp.float32)
    q, valid = q[:, :asking], jnp.asarray(np.random.default_rng(2).random((B, N)) < 0.6).at[:, 1].set(True)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=q.shape), jnp.float32)

    def both(attention: Any) -> Any:
        return jax.value_and_grad(lambda qkv: jnp.sum(weights * attention(*qkv, valid)))((q, k, v))

    with pltpu.force_tpu_interpret_mode():
        got = both(attention)
    expected = both(written_out)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=5e-5)


def test_many_blocks_are_one() -> None:
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(1, 300, 2, 4)), jnp.float32) for _ in range(3))
    valid = jnp.arange(300)[None] < 290
    np.testing.assert_allclose(by_blocks(q, k, v, valid), written_out(q, k, v, valid), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("platform", "dtype", "width", "kernel"),
    [
        ("cpu", "bfloat16", 64, WRITTEN_OUT),
        ("gpu", "bfloat16", 128, CUDNN),
        ("gpu", "float32", 128, BLOCKS),
        ("gpu", "bfloat16", 192, BLOCKS),
        ("tpu", "float32", 24, FLASH),
    ],
)
def test_the_kernel_is_the_platforms(platform: str, dtype: str, width: int, kernel: str) -> None:
    assert kernel_of(platform, dtype, width) == kernel
