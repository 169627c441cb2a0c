"""A checksum of arrays wherever their parts lie: computed on the devices, the same on one and on many hosts.

Every element's bits are mixed with its index into 32 bits, in two ways, and summed modulo 2 ** 32. Sums of integers do
not depend on their order, so neither does the checksum on the layout. The mixing is one to one in the bits: no change
of a single element passes, and several together pass with a chance of some 2 ** -64.
"""

import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def checksum(tree: Any) -> str:
    """Hex over the paths, types, shapes and bits of all leaves (of at most 32 bits an element).

    Arrays that are spread over processes are all on one mesh, and all of these processes must call it.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    shardings = [getattr(leaf, "sharding", None) for _, leaf in leaves]
    mesh = next((sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)), None)
    sums = np.asarray(_compiled(mesh)([leaf for _, leaf in leaves]))
    total = hashlib.sha256()
    for (path, leaf), pair in zip(leaves, sums, strict=True):
        total.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape} {pair.tolist()}\n".encode())
    return total.hexdigest()


@functools.cache
def _compiled(mesh: Mesh | None) -> Any:
    where = mesh and NamedSharding(mesh, PartitionSpec())  # type: ignore[no-untyped-call]
    return jax.jit(lambda leaves: jnp.stack([_sums(leaf) for leaf in leaves]), out_shardings=where)


def _sums(x: jax.Array) -> jax.Array:
    """uint32 [2] of one array."""
    unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    mixed = [_mixed(bits ^ _mixed(place ^ np.uint32(way))) for way in (0, 0x9E3779B9)]
    return jnp.stack([jnp.sum(x, dtype=jnp.uint32) for x in mixed])


def _mixed(x: jax.Array) -> jax.Array:
    """32 bits each of which depends on all of x: the finalizer of MurmurHash3."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
