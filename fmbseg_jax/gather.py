"""Rows of a batch out of arrays that live on the devices: each device takes its own from its own.

Such a batch has arrays [V, R, ...], V virtual shards over 'data', and `indices` int32 [V, S, B / V]: the rows of each
shard that stand in the batches of S steps (fmbseg_jax.resident), of which `at_step` leaves one, `index` [V, B / V].
Without them the arrays are the batch [B, ...] itself.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fmbseg_jax.losses import take_patches
from fmbseg_jax.mesh import over_data

Batch = Mapping[str, jax.Array]
_AS_THEY_ARE = ("index", "stop", "features")


def at_step(batch: Batch, step: jax.Array) -> Batch:
    """The batch of a step, int32 [], out of those of S steps, which begin at a multiple of S."""
    if "indices" not in batch:
        return batch
    index = jnp.take(batch["indices"], step % batch["indices"].shape[1], axis=1)
    return {**{name: value for name, value in batch.items() if name != "indices"}, "index": index}


def with_rows(batch: Batch, mesh: Mesh) -> Batch:
    """The batch, its arrays [B, ...] but for the features: of these `features_of` takes no more than is used."""
    if "index" not in batch:
        return batch
    stored = {name: value for name, value in batch.items() if name not in _AS_THEY_ARE}
    taken = jax.tree.map(lambda x: _by_shard(mesh, _rows)(x, batch["index"]), stored)
    return {**batch, **taken}


def features_of(batch: Batch, mesh: Mesh, drawn: jax.Array | None = None) -> jax.Array:
    """[B, N, D] of a batch with rows, or [B, n, D] of the patches drawn int32 [B, n] of each."""
    features = batch["features"]
    if "index" not in batch:
        flat = features.reshape(features.shape[0], -1, features.shape[-1])
        return flat if drawn is None else take_patches(flat, drawn)
    if drawn is None:
        rows = _by_shard(mesh, _rows)(features, batch["index"])
        return rows.reshape(rows.shape[0], -1, rows.shape[-1])
    return _by_shard(mesh, _stored_patches)(features, batch["index"], drawn)


def _by_shard(mesh: Mesh, take: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`take` of every device's own part, first axis over 'data'."""
    spec = over_data(mesh).spec
    taken: Callable[..., jax.Array] = jax.shard_map(take, mesh=mesh, in_specs=spec, out_specs=spec)
    return taken


def _rows(x: jax.Array, index: jax.Array) -> jax.Array:
    """x [v, R, ...] at index [v, k] -> [v k, ...]."""
    return take_patches(x, index).reshape(-1, *x.shape[2:])


def _stored_patches(x: jax.Array, index: jax.Array, drawn: jax.Array) -> jax.Array:
    """x [v, R, h, w, D] at rows [v, k] and patches drawn [v k, n] of each -> [v k, n, D], in one gather."""
    shards, rows, h, w, width = x.shape
    patches = index[..., None] * (h * w) + drawn.reshape(*index.shape, -1)
    taken = take_patches(x.reshape(shards, rows * h * w, width), patches.reshape(shards, -1))
    return taken.reshape(-1, drawn.shape[-1], width)
