"""The head: its shapes, its unit length, what masked patches may change, and a block against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmbseg_jax.runs.head import Block, Head, take_patches

KEY = jax.random.key(0)


def grid(seed: int = 0, batch: int = 2) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(seed)
    features = jnp.asarray(rng.normal(size=(batch, 3, 4, 16)), jnp.bfloat16)
    valid = np.ones((batch, 3, 4), bool)
    valid[0, 2:] = False
    return features, jnp.asarray(valid)


@pytest.mark.parametrize(
    ("blocks", "hidden", "dtype"),
    [(0, 0, jnp.bfloat16), (0, 24, jnp.float32), (2, 0, jnp.float32), (1, 24, jnp.bfloat16)],
)
def test_rows_are_unit_float32_and_parameters_float32(blocks: int, hidden: int, dtype: jnp.dtype) -> None:
    features, valid = grid()
    head = Head(8, blocks, 4, hidden, dtype)
    params = jax.jit(head.init)(KEY, features, valid)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    z = jax.jit(head.apply)(params, features, valid)
    assert z.shape == (2, 3, 4, 8) and z.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(np.asarray(z), axis=-1), 1, atol=1e-5)


def test_a_linear_head_is_a_matrix_and_a_length() -> None:
    features, valid = grid()
    head = Head(8)
    params = jax.jit(head.init)(KEY, features, valid)["params"]
    assert list(params) == ["project"]
    expected = np.asarray(features, np.float64) @ np.asarray(params["project"]["kernel"], np.float64)
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(head.apply({"params": params}, features, valid), expected, atol=1e-5)


def test_invalid_patches_change_no_valid_one_and_valid_ones_do() -> None:
    features, valid = grid()
    head = Head(8, blocks=2, heads=4)
    params = jax.jit(head.init)(KEY, features, valid)
    apply = jax.jit(head.apply)
    z, other = np.asarray(apply(params, features, valid)), 3 * features[1, 0, 0]
    padding_changed = np.asarray(apply(params, features.at[0, 2].set(other), valid))
    np.testing.assert_array_equal(padding_changed[0, :2], z[0, :2])
    patch_changed = np.asarray(apply(params, features.at[0, 0, 0].set(other), valid))
    assert np.abs(patch_changed[0, 1, 3] - z[0, 1, 3]).max() > 1e-3
    np.testing.assert_array_equal(patch_changed[1], z[1])


def test_a_block_equals_its_formula() -> None:
    rng = np.random.default_rng(1)
    x, valid = rng.normal(size=(1, 5, 8)), np.array([[True, True, True, True, False]])
    block = Block(2, jnp.float32)
    params = jax.jit(block.init)(KEY, jnp.asarray(x, jnp.float32), jnp.asarray(valid))["params"]
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def norm(y: np.ndarray, name: str) -> np.ndarray:
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
        return y * p[name]["scale"] + p[name]["bias"]

    q, k, v = np.moveaxis(np.einsum("nd,dshe->nshe", norm(x[0], "LayerNorm_0"), p["qkv"]["kernel"]), 1, 0)
    logits = np.einsum("nhe,mhe->hnm", q, k) / 2.0 + np.where(valid[0], 0, -np.inf)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    y = x[0] + np.einsum("hnm,mhe,hed->nd", weights, v, p["out"]["kernel"]) + p["out"]["bias"]
    up = norm(y, "LayerNorm_1") @ p["up"]["kernel"]
    gelu = 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
    y = y + gelu @ p["down"]["kernel"]
    got = jax.jit(block.apply)({"params": params}, jnp.asarray(x, jnp.float32), jnp.asarray(valid))[0]
    np.testing.assert_allclose(got[:4], y[:4], atol=1e-4)


def test_a_zero_feature_gives_finite_gradients() -> None:
    head = Head(8)
    features, valid = jnp.zeros((1, 2, 2, 16)), jnp.ones((1, 2, 2), bool)
    params = jax.jit(head.init)(KEY, features, valid)
    gradient = jax.jit(jax.grad(lambda p: head.apply(p, features, valid).sum()))(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(("blocks", "hidden"), [(0, 0), (1, 0), (2, 8)])
def test_patches_that_are_drawn_are_those_of_all(blocks: int, hidden: int) -> None:
    rng = np.random.default_rng(0)
    head = Head(text_width=6, blocks=blocks, heads=2, hidden=hidden)
    features, valid = jnp.asarray(rng.normal(size=(2, 9, 8)), jnp.float32), jnp.arange(9)[None] < jnp.array([[9], [5]])
    drawn = jnp.asarray([[3, 0, 8], [4, 2, 1]], jnp.int32)
    params = head.init(jax.random.key(0), features, valid)
    expected = take_patches(head.apply(params, features, valid), drawn)
    np.testing.assert_allclose(head.apply(params, features, valid, drawn), expected, rtol=1e-5, atol=1e-6)
