"""The losses against float64 loops that are written as the formulas are."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmbseg_jax.runs.head import take_patches
from fmbseg_jax.training.drawing import draw_patches, lots, step_key
from fmbseg_jax.training.losses import (
    Contrast,
    Targets,
    class_scores,
    class_weights,
    dense_targets,
    hits,
    prototype_ce,
    t_supcon,
)
from tests.worlds import reference

WORD_CLASS = (0, 0, 1, 2, 2, 2, 3)  # grass, lawn | sand | sky, cloud, air | water
TEMPERATURE = 0.1


jitted_supcon = jax.jit(t_supcon, static_argnames="prototype_weight")


@pytest.fixture(autouse=True)
def strict_types() -> Iterator[None]:
    """No implicit conversion of types (flax and optax need some, this module does not)."""
    with jax.numpy_dtype_promotion("strict"):
        yield


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    rows = rng.normal(size=shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def targets(rng: np.random.Generator, batch: int, count: int, classes: int = 4) -> np.ndarray:
    """Class shares with mass between 0 and 1, a third of the patches unlabelled."""
    shares = rng.dirichlet(np.ones(classes) * 0.3, (batch, count)) * rng.uniform(0.2, 1, (batch, count, 1))
    return shares * (rng.random((batch, count, 1)) > 0.33)


def given(t: np.ndarray) -> Targets:
    """Dense shares as the losses get them."""
    return Targets(f32(t), jnp.asarray(t.argmax(-1), jnp.int32), f32(t.sum(-1)))


def f32(x: np.ndarray) -> jax.Array:
    return jnp.asarray(x, jnp.float32)


def supcon(
    z: jax.Array,
    scores: jax.Array,
    t: np.ndarray,
    weights: jax.Array,
    temperature: jax.Array,
    sample: np.ndarray,
    prototype_weight: float,
) -> tuple[jax.Array, jax.Array]:
    """Sums of t_supcon over a batch [B, n]: its patches in one list, contrasted with those at sample [B, s]."""
    ids = jnp.arange(z.shape[0] * z.shape[1])
    drawn = jnp.asarray((np.arange(len(sample))[:, None] * z.shape[1] + sample).ravel())
    flat_z, flat_t = z.reshape(-1, z.shape[-1]), t.reshape(-1, t.shape[-1])
    label = jnp.asarray(np.where(flat_t.sum(-1) > 0, flat_t.argmax(-1), -1), jnp.int32)
    contrast = Contrast(flat_z[drawn], label[drawn], ids[drawn])
    flat_scores = scores.reshape(flat_t.shape)
    terms = jitted_supcon(flat_z, flat_scores, given(flat_t), weights, temperature, ids, contrast, prototype_weight)
    return terms[0].sum(), terms[1].sum()


@pytest.mark.parametrize("word_class", [(0, 1, 2, 3), WORD_CLASS, (0, 1, 1, 1, 1), (0, 0, 1, 1)])
def test_a_class_scores_as_its_best_word_and_only_that_word_learns(word_class: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    z, prototypes = unit(rng, 3, 5, 8), unit(rng, len(word_class), 8)
    expected = reference.class_scores(z, prototypes, word_class)
    got = jax.jit(lambda x: class_scores(x, f32(prototypes), word_class))(f32(z))
    np.testing.assert_allclose(got, expected, atol=1e-6)

    weight = rng.normal(size=expected.shape)
    loss = jax.jit(jax.grad(lambda x: jnp.sum(f32(weight) * class_scores(x, f32(prototypes), word_class))))
    gradient = loss(f32(z))
    words = z @ prototypes.T
    best = np.zeros((*expected.shape, len(word_class)))
    for c in range(expected.shape[-1]):
        members = np.flatnonzero(np.array(word_class) == c)
        chosen = members[words[..., members].argmax(-1)]
        np.put_along_axis(best[..., c, :], chosen[..., None], 1, -1)
    np.testing.assert_allclose(gradient, np.einsum("bnc,bnck,ke->bne", weight, best, prototypes), atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_prototype_ce_equals_the_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, t, weights = rng.uniform(-1, 1, (3, 6, 4)), targets(rng, 3, 6), rng.uniform(0.5, 2, 4)
    terms = jax.jit(prototype_ce)(f32(scores), given(t), f32(weights), jnp.float32(TEMPERATURE))
    got = [term.sum() for term in terms]
    np.testing.assert_allclose(got, reference.cross_entropy(scores, t, weights, TEMPERATURE), rtol=1e-5)


@pytest.mark.parametrize("prototype_weight", [1.0, 7.5])
def test_t_supcon_equals_the_loop(prototype_weight: float) -> None:
    rng = np.random.default_rng(2)
    z, t, weights = unit(rng, 3, 6, 8), targets(rng, 3, 6), rng.uniform(0.5, 2, 4)
    scores = reference.class_scores(z, unit(rng, 7, 8), WORD_CLASS)
    sample = np.stack([rng.permutation(6)[:4] for _ in range(3)])
    got = supcon(f32(z), f32(scores), t, f32(weights), jnp.float32(TEMPERATURE), sample, prototype_weight)
    expected = reference.supcon(z, scores, t, weights, sample, prototype_weight, TEMPERATURE)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_t_supcon_of_one_labelled_patch_is_cross_entropy() -> None:
    rng = np.random.default_rng(3)
    z, scores = f32(unit(rng, 1, 2, 8)), f32(rng.uniform(-1, 1, (1, 2, 4)))
    t, weights, temperature = np.array([[[0.0, 1, 0, 0], [0] * 4]]), jnp.ones(4), jnp.float32(TEMPERATURE)
    got = supcon(z, scores, t, weights, temperature, np.array([[0, 1]]), 3.0)
    expected = [term.sum() for term in prototype_ce(scores, given(t), weights, temperature)]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_losses_of_nothing_labelled_are_zero_with_zero_gradients() -> None:
    rng = np.random.default_rng(4)
    z, nothing, weights = f32(unit(rng, 2, 3, 8)), np.zeros((2, 3, 4)), jnp.ones(4)
    prototypes, sample = f32(unit(rng, 4, 8)), np.array([[0, 1], [2, 0]])

    def ce(z: jax.Array) -> jax.Array:
        return prototype_ce(class_scores(z, prototypes, range(4)), given(nothing), weights, jnp.float32(0.1))[0].sum()

    def contrasted(z: jax.Array) -> jax.Array:
        scores = class_scores(z, prototypes, range(4))
        return supcon(z, scores, nothing, weights, jnp.float32(0.1), sample, 1.0)[0]

    for loss in (ce, contrasted):
        value, gradient = jax.jit(jax.value_and_grad(loss))(z)
        assert value == 0 and not np.asarray(gradient).any()


def test_dense_targets_by_hand() -> None:
    classes = jnp.array([[2, 0, 1], [3, 0, 0], [0, 0, 0]], jnp.uint16)
    shares = jnp.array([[102, 51, 51], [255, 0, 0], [0, 0, 0]], jnp.uint8)
    expected = {
        True: [[0.2, 0.2, 0.4, 0], [0, 0, 0, 1], [0, 0, 0, 0]],
        False: [[0, 0, 0.8, 0], [0, 0, 0, 1], [0, 0, 0, 0]],
    }
    for soft, dense in expected.items():
        got = dense_targets(classes, shares, 4, soft)
        np.testing.assert_allclose(got.shares, dense, atol=1e-6)
        np.testing.assert_allclose(got.mass, [0.8, 1, 0], atol=1e-6)
        assert got.label[:2].tolist() == [2, 3]


def test_hits_by_hand() -> None:
    shares = np.array([[0.2, 0.5, 0], [0.2, 0.5, 0], [0, 0, 1], [0, 0, 0]])
    scores = jnp.array([[0.1, 0.3, 0.2], [0.4, 0.3, 0.2], [-0.3, -0.2, -0.2], [0.1, 0.1, 0.1]])
    np.testing.assert_allclose(hits(scores, given(shares)), [0.7, 0, 1, 0], atol=1e-6)


def test_class_weights_by_hand() -> None:
    mass = np.array([64.0, 16, 0])
    np.testing.assert_allclose(class_weights(mass, 0.0), [1, 1, 1])
    # 64 ** -.5 = 1/8, 16 ** -.5 = 1/4, none counts as one; on average over 80 patches (8 + 4) / 80 = .15.
    np.testing.assert_allclose(class_weights(mass, 0.5), np.array([0.125, 0.25, 1]) / 0.15, rtol=1e-6)


def test_drawn_patches_are_labelled_ones_first_without_repetition_and_differ_by_key() -> None:
    mass = jnp.asarray(np.random.default_rng(5).random((4, 30)) > 0.5, jnp.float32)
    row = jnp.arange(4)
    drawn = [np.asarray(draw_patches(lots(jax.random.key(seed), row, 30), mass, 12)) for seed in (0, 0, 1)]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    for of_row, chosen in zip(np.asarray(mass), drawn[0], strict=True):
        assert len(set(chosen.tolist())) == 12
        assert (of_row[chosen] > 0).sum() == min(12, int(of_row.sum()))
    everything = np.asarray(draw_patches(lots(jax.random.key(0), row, 30), mass, 30))
    assert (np.sort(everything, 1) == np.arange(30)).all()
    np.testing.assert_array_equal(take_patches(mass, jnp.asarray(drawn[0]))[2], np.asarray(mass)[2, drawn[0][2]])


def test_lots_are_uniform_and_not_alike_for_other_rows_steps_and_seeds() -> None:
    keys = [step_key(seed, jnp.int32(step)) for seed, step in ((0, 0), (0, 1), (1, 0))]
    each = np.stack([np.asarray(lots(key, jnp.arange(50), 400)) for key in keys])
    # 60,000 of them: mean .5 +- .0012, a tenth in each tenth +- .0012
    assert each.mean() == pytest.approx(0.5, abs=0.006)
    np.testing.assert_allclose(np.histogram(each, 10, (0, 1))[0] / each.size, 0.1, atol=0.007)
    series = each.reshape(-1, 400)
    alike = np.corrcoef(series) - np.eye(len(series))
    assert np.abs(alike).max() < 0.3, "400 of two rows, steps or seeds: .05 in the mean, .25 at most of 11,175 pairs"
