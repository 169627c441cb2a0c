"""A batch as the compiled step gets it: rows that were fed, or a split on the devices and which of its rows to take.

Either gives its `Photos`. Of a stored split each device takes its own rows from its own, and of their features no more
than a step uses.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from fmbseg_jax.training.losses import take_patches
from fmbseg_jax.training.mesh import over_data


class Photos(NamedTuple):
    """The photos of a step, B of them. One whose shares are all 0 counts for nothing: it pads a batch."""

    classes: jax.Array
    """uint16 [B, h, w, 3] (labelgen.data.records)."""
    grid_hw: jax.Array
    """int32 [B, 2], the valid patches, top-left."""
    row: jax.Array
    """int32 [B], the photo's number in the split."""
    shares: jax.Array
    """uint8 [B, h, w, 3]."""
    features: Callable[[jax.Array | None], jax.Array]
    """Patches drawn int32 [B, n] of each (None: all N) -> their features [B, n, D]."""


@flax.struct.dataclass
class FedBatch:
    """Rows [B, ...] over 'data', as in `Photos`; features [B, h, w, D]."""

    classes: jax.Array
    features: jax.Array
    grid_hw: jax.Array
    row: jax.Array
    shares: jax.Array
    stop: jax.Array | None = None
    """float32 [B], 1 where the row's host is to stop; of a batch to train on."""

    def photos(self, mesh: Mesh, step: jax.Array | int) -> Photos:
        """All of them, whichever step it is."""
        flat = self.features.reshape(self.features.shape[0], -1, self.features.shape[-1])

        def features(drawn: jax.Array | None) -> jax.Array:
            return flat if drawn is None else take_patches(flat, drawn)

        return Photos(self.classes, self.grid_hw, self.row, self.shares, features)

    @property
    def stored_bytes(self) -> int:
        """Of the arrays of a split that lives on the devices."""
        return 0


@flax.struct.dataclass
class StoredBatch:
    """A split [V, R, ...], V virtual shards over 'data', and the rows of the batches of S steps among them."""

    classes: jax.Array
    features: jax.Array
    grid_hw: jax.Array
    indices: jax.Array
    """int32 [V, S, B / V], rows of each virtual shard; the first of the S steps is a multiple of S."""
    row: jax.Array
    shares: jax.Array
    stop: jax.Array | None = None
    """float32 [B], as of a FedBatch."""

    def photos(self, mesh: Mesh, step: jax.Array | int) -> Photos:
        """Those of a step, int32 []."""
        index = jnp.take(self.indices, step % self.indices.shape[1], axis=1)

        def rows(x: jax.Array) -> jax.Array:
            return _by_shard(mesh, _rows)(x, index)

        def features(drawn: jax.Array | None) -> jax.Array:
            if drawn is None:
                whole = rows(self.features)
                return whole.reshape(whole.shape[0], -1, whole.shape[-1])
            return _by_shard(mesh, _patches)(self.features, index, drawn)

        return Photos(rows(self.classes), rows(self.grid_hw), rows(self.row), rows(self.shares), features)

    @property
    def stored_bytes(self) -> int:
        """Of the arrays of the split, all devices together."""
        return sum(x.nbytes for x in (self.classes, self.features, self.grid_hw, self.row, self.shares))


Batch = FedBatch | StoredBatch


def _by_shard(mesh: Mesh, take: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`take` of every device's own part, first axis over 'data'."""
    spec = over_data(mesh).spec
    taken: Callable[..., jax.Array] = jax.shard_map(take, mesh=mesh, in_specs=spec, out_specs=spec)
    return taken


def _rows(x: jax.Array, index: jax.Array) -> jax.Array:
    """x [v, R, ...] at index [v, k] -> [v k, ...]."""
    return take_patches(x, index).reshape(-1, *x.shape[2:])


def _patches(x: jax.Array, index: jax.Array, drawn: jax.Array) -> jax.Array:
    """x [v, R, h, w, D] at rows [v, k] and patches drawn [v k, n] of each -> [v k, n, D], in one gather."""
    shards, rows, h, w, width = x.shape
    patches = index[..., None] * (h * w) + drawn.reshape(*index.shape, -1)
    taken = take_patches(x.reshape(shards, rows * h * w, width), patches.reshape(shards, -1))
    return taken.reshape(-1, drawn.shape[-1], width)
