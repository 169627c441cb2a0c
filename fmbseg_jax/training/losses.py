"""The two losses over labelled patches, the class scores that both and inference share, and sums over patches by chunk.

Each loss returns two terms a patch, (total, weight): it is the quotient of their sums, so that chunks, devices and
hosts add up. Targets are class shares t [P, C]: their sum over C, a patch's mass, is the part of it that is labelled
and the weight of the patch; 0 leaves it out.

What is as large as patches x classes exists for one chunk of the patches at a time. The gradient of a sum is known up
to a factor, the cotangent, before the backward pass begins. So the forward pass takes it along, chunk by chunk, and
keeps that alone: no chunk is computed twice, as it would be by rematerialisation.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, Float64, Int32, Shaped, UInt8, UInt16

from fmbseg_jax.runs.precision import FULL
from labelgen.core.arrays import Numpy

T = TypeVar("T")
Tree = Any
ChunkSums = tuple[Float32[Array, ""], Tree]
"""(total, other sums)"""
PatchSums = Callable[[Tree, Tree], ChunkSums]
Terms = tuple[Float32[Array, "*n"], Float32[Array, "*n"]]
"""(total, weight) of each patch"""


class Patches(NamedTuple):
    """Projected patches with the targets that are stored of them; *n is B n or P."""

    z: Float32[Array, "*n E"]
    """Unit rows."""
    classes: UInt16[Array, "*n 3"]
    """labelgen.data.records' target_classes."""
    shares: UInt8[Array, "*n 3"]
    """Their shares of the patch: 255 is all of it."""
    ids: Int32[Array, "*n"]
    """The patch's number in the global batch."""


class Targets(NamedTuple):
    """What patches are to be."""

    shares: Float32[Array, "*n C"]
    """Of each class."""
    label: Int32[Array, "*n"]
    """The class with the largest share; of no meaning where the mass is 0."""
    mass: Float32[Array, "*n"]
    """The sum of the shares."""


class Contrast(NamedTuple):
    """The sampled patches, the same on every device."""

    z: Float32[Array, "S E"]
    label: Int32[Array, "S"]
    """-1: none."""
    ids: Int32[Array, "S"]


def class_scores(
    z: Float32[Array, "*n E"], prototypes: Float32[Array, "K E"], word_class: Sequence[int]
) -> Float32[Array, "*n C"]:
    """Cosine of each patch with each class: the maximum over the class's words.

    z, prototypes: unit rows; word_class: K class indices, ascending from 0.
    """
    scores = jnp.matmul(z, prototypes.T, precision=FULL)
    words = tuple(int(c) for c in word_class)
    return scores if len(set(words)) == len(words) else best_word(words, scores)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def best_word(word_class: tuple[int, ...], scores: Float32[Array, "*n K"]) -> Float32[Array, "*n C"]:
    """Of each class the best of its words' scores; that word alone learns (words that tie all do).

    By doubling: after r rounds a word's score is the best of it and of the 2^r - 1 next ones of its class. Each round
    is elementwise, so that all are one kernel, and no gradient is scattered.
    """
    words = np.asarray(word_class)
    reach = 1
    while reach < np.bincount(words).max():
        same = np.append(words[reach:] == words[:-reach], np.zeros(reach, bool))
        later = jnp.pad(scores[..., reach:], [(0, 0)] * (scores.ndim - 1) + [(0, reach)])
        scores = jnp.where(same, jnp.maximum(scores, later), scores)
        reach *= 2
    return scores[..., np.searchsorted(words, np.arange(words[-1] + 1))]


def _best_word_forward(
    word_class: tuple[int, ...], scores: Float32[Array, "*n K"]
) -> tuple[Float32[Array, "*n C"], tuple[Float32[Array, "*n K"], Float32[Array, "*n C"]]]:
    best = best_word(word_class, scores)
    return best, (scores, best)


def _best_word_backward(
    word_class: tuple[int, ...],
    kept: tuple[Float32[Array, "*n K"], Float32[Array, "*n C"]],
    cotangent: Float32[Array, "*n C"],
) -> tuple[Float32[Array, "*n K"]]:
    scores, best = kept
    words = np.asarray(word_class)
    return (jnp.where(scores == best[..., words], cotangent[..., words], 0),)


best_word.defvjp(_best_word_forward, _best_word_backward)


def dense_targets(classes: UInt16[Array, "*n 3"], shares: UInt8[Array, "*n 3"], count: int, soft: bool) -> Targets:
    """Targets over `count` classes of the stored ones, largest share first, of which 255 is the whole patch.

    Hard targets (soft False) give a patch's whole mass to its largest class.
    """
    share = shares.astype(jnp.float32) / 255
    mass = share.sum(-1)
    index = jnp.expand_dims(jnp.arange(count, dtype=classes.dtype), range(classes.ndim - 1))
    slots = [(classes[..., i, None] == index, share[..., i, None]) for i in range(share.shape[-1])]
    if not soft:
        slots = [(slots[0][0], mass[..., None])]
    dense = [jnp.where(here, value, 0) for here, value in slots]
    return Targets(sum(dense[1:], dense[0]), classes[..., 0].astype(jnp.int32), mass)


def of_label(values: Float32[Array, "*n C"], label: Int32[Array, "*n"]) -> Float32[Array, "*n"]:
    """values[..., label]: as a sum, for a gather's gradient is a scatter."""
    index = jnp.expand_dims(jnp.arange(values.shape[-1]), range(label.ndim))
    return jnp.where(index == label[..., None], values, 0).sum(-1)


def hits(scores: Float32[Array, "*n C"], targets: Targets) -> Float32[Array, "*n"]:
    """The mass of the patches of which no class scores above their largest."""
    return jnp.where(of_label(scores, targets.label) >= scores.max(-1), targets.mass, 0)


def class_weights(mass: Float64[Numpy, "C"], balance: float) -> Float32[Numpy, "C"]:
    """Weights = frequency ** -balance, scaled so that a labelled patch weighs 1 on average.

    mass: labelled patches of each class over the whole split, not all 0; a class with none is taken
    to have one.
    """
    weights = np.power(np.maximum(mass, 1), -balance)
    return np.asarray(weights * mass.sum() / (weights * mass).sum(), np.float32)


def prototype_ce(
    scores: Float32[Array, "*n C"],
    targets: Targets,
    weights: Float32[Array, "C"],
    temperature: Float32[Array, ""],
) -> Terms:
    """Cross-entropy to the classes: total_i = -sum_c t_ic w_c log softmax_c(scores_i / temperature).

    scores: cosines. weight_i = sum_c t_ic w_c.
    """
    weighted = targets.shares * jnp.expand_dims(weights, range(scores.ndim - 1))
    logits = (scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True))) / temperature
    weight = weighted.sum(-1)
    return weight * jnp.log(jnp.exp(logits).sum(-1)) - (weighted * logits).sum(-1), weight


def t_supcon(
    z: Float32[Array, "P E"],
    scores: Float32[Array, "P C"],
    targets: Targets,
    weights: Float32[Array, "C"],
    temperature: Float32[Array, ""],
    ids: Int32[Array, "P"],
    contrast: Contrast,
    prototype_weight: float,
) -> Terms:
    """Text-supervised contrastive loss: patches and class prototypes are one set of samples.

    For patch i of class y: total_i = -m_i w_y / (v + |S(i)|) * (v log p(y) + sum_{q in S(i)} log p(q)), where p is the
    softmax over all classes' scores and all sampled patches but i, S(i) the sampled patches of class y but i, m_i the
    mass of i, v `prototype_weight`. weight_i = m_i w_y. A patch's class is its largest.

    z: unit rows; contrast: what all patches are contrasted with, itself of the whole batch, so that any part of the
    patches may be summed alone.
    """
    label = targets.label
    contrasted = (contrast.label >= 0)[None] & (contrast.ids[None] != ids[:, None])
    positive = contrasted & (contrast.label[None] == label[:, None])
    prototypes = scores / temperature
    others = jnp.matmul(z, contrast.z.T, precision=FULL) / temperature
    normaliser = _log_sum_exp(prototypes, jnp.where(contrasted, others, -jnp.inf))

    own = of_label(prototypes, label)
    positives = positive.sum(-1, dtype=jnp.float32) + prototype_weight
    mean_log = (prototype_weight * own + jnp.where(positive, others, 0).sum(-1)) / positives - normaliser
    weight = targets.mass * weights[label]
    return -weight * mean_log, weight


def _log_sum_exp(finite: Float32[Array, "P C"], maybe: Float32[Array, "P S"]) -> Float32[Array, "P"]:
    """log of the sum of exp over the rows of both, without joining them; `maybe` may be -inf altogether."""
    peak = jax.lax.stop_gradient(jnp.maximum(finite.max(-1), maybe.max(-1)))[:, None]
    return jnp.log(jnp.exp(finite - peak).sum(-1) + jnp.exp(maybe - peak).sum(-1)) + peak[:, 0]


def contrast_set(sample: Patches) -> Contrast:
    """The patches [B, s] of all devices of 'data', for all to be contrasted with: S is all their B * s.

    Devices exchange the sampled vectors, labels and numbers only.
    """
    label = jnp.where(sample.shares[..., 0] > 0, sample.classes[..., 0].astype(jnp.int32), -1)
    own = Contrast(*(x.reshape(-1, *x.shape[2:]) for x in (sample.z, label, sample.ids)))
    return gathered(own)


def gathered(own: T) -> T:
    """The rows of all devices of 'data', in their order; a gradient is added where the row came from."""
    if jax.lax.axis_size("data") == 1:  # as of sums, see step.added_over_data
        return own
    whole: T = jax.lax.all_gather(own, "data", tiled=True)
    return whole


def chunk_bytes(platform: str) -> int:
    """Of the widest array of a chunk, on a device of that platform; a few of its kind exist at once."""
    # A CPU is fastest when its cache holds a chunk; a GPU or TPU wants enough work in each (64 MiB is not measured).
    return (8 if platform == "cpu" else 64) << 20


def in_chunks(sums: PatchSums, patches: Tree, common: Tree, columns: int, most_bytes: int) -> ChunkSums:
    """sums(patches, common), added up over chunks of the patches; one chunk is a plain call.

    patches: arrays [P, ...]; common: arrays that all patches meet; columns: of the widest float32 array [P, columns] in
    `sums`, at most most_bytes in a chunk. Float arrays have the gradient of the total; the other sums have none.
    Patches of zeros must add nothing: they fill the last chunk up.
    """
    count = len(jax.tree.leaves(patches)[0])
    needed = -(-4 * columns * count // most_bytes)
    chunks = 1 << (needed - 1).bit_length()  # a power of two mostly divides the photos: then nothing is copied
    if chunks == 1:
        total, others = sums(patches, common)
        return total, jax.lax.stop_gradient(others)
    return _scan(sums, *_split((jax.tree.map(functools.partial(_cut, chunks), patches), common)))


def _cut(chunks: int, x: Shaped[Array, "P *rest"]) -> Shaped[Array, "{chunks} size *rest"]:
    """In chunks of one size, P / chunks rounded up."""
    size = -(-len(x) // chunks)
    return jnp.pad(x, [(0, chunks * size - len(x))] + [(0, 0)] * (x.ndim - 1)).reshape(chunks, size, *x.shape[1:])


def _split(tree: Tree) -> tuple[Tree, Tree]:
    """(its float arrays, the others): None where an array is in the other one."""
    floats = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.floating) else None, tree)
    return floats, jax.tree.map(lambda x: None if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def _join(floats: Tree, others: Tree) -> Tree:
    return jax.tree.map(lambda x, y: y if x is None else x, floats, others, is_leaf=lambda x: x is None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(sums: PatchSums, floats: Tree, others: Tree) -> ChunkSums:
    """The sums of (patches cut into chunks, common), split."""
    chunks, common = _join(floats, others)
    return _added(jax.lax.map(lambda chunk: sums(chunk, common), chunks))


def _scan_forward(sums: PatchSums, floats: Tree, others: Tree) -> tuple[ChunkSums, Tree]:
    """The sums, and the gradient of their total by `floats`."""

    (patches, common), (other_patches, other_common) = floats, others

    def step(by_common: Tree, chunk: tuple[Tree, Tree]) -> tuple[Tree, tuple[ChunkSums, Tree]]:
        def of_floats(patches: Tree, common: Tree) -> ChunkSums:
            return sums(*_join((patches, common), (chunk[1], other_common)))

        outcome, (by_patches, more) = jax.value_and_grad(of_floats, (0, 1), has_aux=True)(chunk[0], common)
        return jax.tree.map(jnp.add, by_common, more), (outcome, by_patches)

    by_common, (each, by_patches) = jax.lax.scan(step, jax.tree.map(jnp.zeros_like, common), (patches, other_patches))
    return _added(each), (by_patches, by_common)


def _scan_backward(sums: PatchSums, gradient: Tree, cotangent: ChunkSums) -> tuple[Tree, None]:
    return jax.tree.map(lambda x: cotangent[0] * x, gradient), None


_scan.defvjp(_scan_forward, _scan_backward)


def _added(each: tuple[Float32[Array, "chunks"], Tree]) -> ChunkSums:
    total: ChunkSums = jax.tree.map(lambda x: x.sum(0), each)
    return total
