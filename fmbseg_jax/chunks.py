"""Sums over patches, chunk by chunk: what is as large as patches x classes exists for one chunk at a time.

The gradient of a sum is known up to a factor, the cotangent, before the backward pass begins. So the forward pass takes
it along, chunk by chunk, and keeps that alone: no chunk is computed twice, as it would be by rematerialisation.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any
Outcome = tuple[jax.Array, Tree]
"""(total float32 [], other sums)"""
PatchSums = Callable[[Tree, Tree], Outcome]


def chunk_bytes() -> int:
    """Of the widest array of a chunk, on a device; a few of its kind exist at once."""
    # A CPU is fastest when its cache holds a chunk; a GPU or TPU wants enough work in each (64 MiB is not measured).
    return (8 if jax.default_backend() == "cpu" else 64) << 20


def in_chunks(sums: PatchSums, patches: Tree, given: Tree, columns: int) -> Outcome:
    """sums(patches, given), added up over chunks of the patches; one chunk is a plain call.

    patches: arrays [P, ...]; given: arrays that all patches meet; columns: of the widest float32 array [P, columns] in
    `sums`, at most chunk_bytes() in a chunk. Float arrays have the gradient of the total; the other sums have none.
    Patches of zeros must add nothing: they fill the last chunk up.
    """
    count = len(jax.tree.leaves(patches)[0])
    needed = -(-4 * columns * count // chunk_bytes())
    chunks = 1 << (needed - 1).bit_length()  # a power of two mostly divides the photos: then nothing is copied
    if chunks == 1:
        total, others = sums(patches, given)
        return total, jax.lax.stop_gradient(others)
    return _scan(sums, *_split((jax.tree.map(functools.partial(_cut, chunks), patches), given)))


def _cut(chunks: int, x: jax.Array) -> jax.Array:
    """[P, ...] -> [chunks, P / chunks rounded up, ...]."""
    size = -(-len(x) // chunks)
    return jnp.pad(x, [(0, chunks * size - len(x))] + [(0, 0)] * (x.ndim - 1)).reshape(chunks, size, *x.shape[1:])


def _split(tree: Tree) -> tuple[Tree, Tree]:
    """(its float arrays, the others): None where an array is in the other one."""
    floats = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.floating) else None, tree)
    return floats, jax.tree.map(lambda x: None if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def _join(floats: Tree, others: Tree) -> Tree:
    return jax.tree.map(lambda x, y: y if x is None else x, floats, others, is_leaf=lambda x: x is None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _scan(sums: PatchSums, floats: Tree, others: Tree) -> Outcome:
    """The sums of (patches cut into chunks, given), split."""
    chunks, given = _join(floats, others)
    return _added(jax.lax.map(lambda chunk: sums(chunk, given), chunks))


def _scan_forward(sums: PatchSums, floats: Tree, others: Tree) -> tuple[Outcome, Tree]:
    """The sums, and the gradient of their total by `floats`."""

    (patches, given), (other_patches, other_given) = floats, others

    def step(by_given: Tree, chunk: tuple[Tree, Tree]) -> tuple[Tree, tuple[Outcome, Tree]]:
        def of_floats(patches: Tree, given: Tree) -> Outcome:
            return sums(*_join((patches, given), (chunk[1], other_given)))

        outcome, (by_patches, more) = jax.value_and_grad(of_floats, (0, 1), has_aux=True)(chunk[0], given)
        return jax.tree.map(jnp.add, by_given, more), (outcome, by_patches)

    by_given, (each, by_patches) = jax.lax.scan(step, jax.tree.map(jnp.zeros_like, given), (patches, other_patches))
    return _added(each), (by_patches, by_given)


def _scan_backward(sums: PatchSums, gradient: Tree, cotangent: Outcome) -> tuple[Tree, None]:
    return jax.tree.map(lambda x: cotangent[0] * x, gradient), None


_scan.defvjp(_scan_forward, _scan_backward)


def _added(each: Outcome) -> Outcome:
    total: Outcome = jax.tree.map(lambda x: x.sum(0), each)
    return total
