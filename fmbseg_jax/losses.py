"""The two losses over labelled patches, and the class scores that both and inference share.

Each loss returns two sums, (total, weight); the loss is their quotient, so that batches, devices and hosts add up.
Targets are class shares t [B, n, C] float32: their sum over C, a patch's mass, is the part of it that is labelled and
the weight of the patch; 0 leaves it out.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Sums = tuple[jax.Array, jax.Array]


def class_scores(z: jax.Array, prototypes: jax.Array, word_class: Sequence[int]) -> jax.Array:
    """Cosine of each patch with each class, float32 [..., C]: the maximum over the class's words.

    z: float32 [..., E] unit; prototypes: float32 [K, E] unit; word_class: K class indices, ascending from 0.
    """
    order, sizes, back = _word_rounds(word_class)
    scores = z @ prototypes[order].T
    best, start = scores[..., : sizes[0]], sizes[0]
    for size in sizes[1:]:
        second = scores[..., start : start + size]
        best = jnp.concatenate([jnp.maximum(best[..., :size], second), best[..., size:]], -1)
        start += size
    return best if (back == np.arange(len(back))).all() else best[..., back]


def _word_rounds(word_class: Sequence[int]) -> tuple[NDArray[np.int64], list[int], NDArray[np.int64]]:
    """Words by rounds: round r holds the r-th word of every class that has one, classes with most words first.

    So each round is a prefix of the one before and the maximum needs neither a scatter nor [.., C, words] memory.
    Returns the order of the words [K], the size of each round, and each class's place in a round [C].
    """
    words = np.asarray(word_class)
    counts = np.bincount(words)
    first = np.cumsum(counts) - counts
    classes = np.argsort(-counts, kind="stable")
    rounds = [first[classes[counts[classes] > r]] + r for r in range(counts.max())]
    return np.concatenate(rounds), [len(r) for r in rounds], np.argsort(classes)


def target_shares(classes: jax.Array, shares: jax.Array, count: int, soft: bool) -> jax.Array:
    """Dense targets float32 [..., C] of the stored ones.

    classes: uint16 [..., 3]; shares: uint8 [..., 3], 255 is the whole patch; count: C. Hard targets (soft False) give
    a patch's whole mass to its largest class.
    """
    share = shares.astype(jnp.float32) / 255
    if not soft:
        largest = jax.nn.one_hot(share.argmax(-1), share.shape[-1], dtype=share.dtype)
        share = largest * share.sum(-1, keepdims=True)
    index = jnp.expand_dims(jnp.arange(count, dtype=classes.dtype), range(classes.ndim - 1))
    slots = [jnp.where(classes[..., i, None] == index, share[..., i, None], 0) for i in range(share.shape[-1])]
    return sum(slots[1:], slots[0])


def class_weights(mass: NDArray[np.float64], balance: float) -> NDArray[np.float32]:
    """Weights [C] = frequency ** -balance, scaled so that a labelled patch weighs 1 on average.

    mass: [C], labelled patches of each class over the whole split, not all 0; a class with none is taken
    to have one.
    """
    weights = np.power(np.maximum(mass, 1), -balance)
    return np.asarray(weights * mass.sum() / (weights * mass).sum(), np.float32)


def prototype_ce(scores: jax.Array, targets: jax.Array, weights: jax.Array, temperature: jax.Array) -> Sums:
    """Cross-entropy to the classes: total = -sum_i sum_c t_ic w_c log softmax_c(scores_i / temperature).

    scores: float32 [B, n, C] cosines; targets: [B, n, C]; weights: [C]. weight = sum_i sum_c t_ic w_c.
    """
    weighted = targets * jnp.expand_dims(weights, range(targets.ndim - 1))
    return -jnp.sum(weighted * jax.nn.log_softmax(scores / temperature)), jnp.sum(weighted)


def t_supcon(
    z: jax.Array,
    scores: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    temperature: jax.Array,
    sample: jax.Array,
    prototype_weight: float,
    replicate: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Sums:
    """Text-supervised contrastive loss: patches and class prototypes are one set of samples.

    For patch i of class y: total = -sum_i m_i w_y / (v + |S(i)|) * (v log p(y) + sum_{q in S(i)} log p(q)), where p is
    the softmax over all classes' scores and all sampled patches but i, S(i) the sampled patches of class y but i, m_i
    the mass of i, v `prototype_weight`. weight = sum_i m_i w_y. A patch's class is its largest.

    z: float32 [B, n, E] unit; scores, targets: [B, n, C]; weights: [C]; sample: int32 [B, s], the patches of each photo
    that all others are contrasted with. `replicate` makes an array whole on every device: it is given the sampled
    vectors and labels only, B*s of them, so that sharded over B the result is the one-device one.
    """
    batch, count, _ = z.shape
    label, mass = targets.argmax(-1), targets.sum(-1)
    ids = jnp.arange(batch * count).reshape(batch, count)

    def drawn(x: jax.Array) -> jax.Array:
        flat = replicate(take_patches(x, sample)).reshape(-1, *x.shape[2:])
        return flat if x.ndim > 2 else flat[None, None]

    others = jnp.einsum("bne,se->bns", z, drawn(z)) / temperature
    contrasted = (drawn(mass) > 0) & (drawn(ids) != ids[..., None])
    positive = contrasted & (drawn(label) == label[..., None])
    logits = jnp.concatenate([scores / temperature, jnp.where(contrasted, others, -jnp.inf)], -1)
    normaliser = jax.nn.logsumexp(logits, -1)

    own = jnp.take_along_axis(scores, label[..., None], -1)[..., 0] / temperature
    positives = positive.sum(-1, dtype=jnp.float32) + prototype_weight
    mean_log = (prototype_weight * own + jnp.where(positive, others, 0).sum(-1)) / positives - normaliser
    weight = mass * weights[label]
    return -jnp.sum(weight * mean_log), jnp.sum(weight)


def draw_patches(key: jax.Array, mass: jax.Array, count: int) -> jax.Array:
    """int32 [B, count] patch numbers, without repetition, in random order: labelled ones (mass [B, N] > 0) first."""
    order = jax.random.uniform(key, mass.shape) + (mass > 0).astype(jnp.float32)
    return jax.lax.top_k(order, count)[1]


def take_patches(x: jax.Array, index: jax.Array) -> jax.Array:
    """x [B, N, ...] at index [B, n] -> [B, n, ...]."""
    taken: jax.Array = jax.vmap(lambda rows, i: rows[i])(x, index)
    return taken
