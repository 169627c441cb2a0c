"""Attention written for the CPU is the library's: values, gradients, patches that nobody attends to."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmbseg_jax.runs.head import attend, on_cpu

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
            np.testing.assert_allclose(attend(*qkv, valid)[b, :, head], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "near"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.1)])
def test_values_and_gradients_are_the_librarys(dtype: Any, near: float) -> None:
    qkv, valid = inputs(dtype)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(B, N, HEADS, WIDTH)), jnp.float32)

    def both(attention: Any) -> Any:
        return jax.value_and_grad(lambda qkv: jnp.sum(weights * attention(*qkv).astype(jnp.float32)))(qkv)

    ours = both(lambda *qkv: on_cpu(*qkv, valid))
    theirs = both(lambda *qkv: jax.nn.dot_product_attention(*qkv, mask=valid[:, None, None, :]))
    assert on_cpu(*qkv, valid).dtype == dtype
    for got, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(np.asarray(got, np.float32), np.asarray(expected, np.float32), rtol=near, atol=near)


def test_a_view_without_valid_patches_has_finite_values_and_gradients() -> None:
    qkv, _ = inputs(jnp.float32)
    nobody = jnp.zeros((B, N), bool)
    gradient = jax.grad(lambda qkv: on_cpu(*qkv, nobody).sum())(qkv)
    assert all(np.isfinite(x).all() for x in gradient)
    np.testing.assert_allclose(on_cpu(*qkv, nobody)[:, 0], qkv[2].mean(1), rtol=1e-5, atol=1e-6)
