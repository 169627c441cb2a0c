"""A batch as the compiled step gets it: rows that were fed, or a split on the devices and which of its rows to take.

Either gives its `Photos`, on each device those of its own rows: within a shard_map over 'data', where an array is the
device's part of it. Of the features of a stored split a step takes no more than it uses.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Float32, Int32, Shaped, UInt8, UInt16

from fmbseg_jax.runs.head import take_patches


class Photos(NamedTuple):
    """The photos of a step, B of them. One whose shares are all 0 counts for nothing: it pads a batch."""

    classes: UInt16[Array, "B h w 3"]
    """labelgen.data.records' target_classes."""
    grid_hw: Int32[Array, "B 2"]
    """The valid patches, top-left."""
    row: Int32[Array, "B"]
    """The photo's number in the split."""
    shares: UInt8[Array, "B h w 3"]
    features: Callable[[Int32[Array, "B n"] | None], Float[Array, "B n D"]]
    """Patches drawn of each (None: all N) -> their features."""


@flax.struct.dataclass
class FedBatch:
    """Rows over 'data', as in `Photos`."""

    classes: UInt16[Array, "B h w 3"]
    features: Float[Array, "B h w D"]
    grid_hw: Int32[Array, "B 2"]
    row: Int32[Array, "B"]
    shares: UInt8[Array, "B h w 3"]
    stop: Float32[Array, "B"] | None = None
    """1 where the row's host is to stop; of a batch to train on."""

    def photos(self, step: Int32[Array, ""] | int) -> Photos:
        """All of them, whichever step it is."""
        flat = self.features.reshape(self.features.shape[0], -1, self.features.shape[-1])

        def features(drawn: Int32[Array, "B n"] | None) -> Float[Array, "B n D"]:
            return flat if drawn is None else take_patches(flat, drawn)

        return Photos(self.classes, self.grid_hw, self.row, self.shares, features)

    @property
    def stored_bytes(self) -> int:
        """Of the arrays of a split that lives on the devices."""
        return 0


@flax.struct.dataclass
class StoredBatch:
    """A split, R rows in each of V virtual shards over 'data', and those of the batches of S steps among them."""

    classes: UInt16[Array, "V R h w 3"]
    features: Float[Array, "V R h w D"]
    grid_hw: Int32[Array, "V R 2"]
    indices: Int32[Array, "V S B/V"]
    """Rows of each virtual shard; the first of the S steps is a multiple of S."""
    row: Int32[Array, "V R"]
    shares: UInt8[Array, "V R h w 3"]
    stop: Float32[Array, "B"] | None = None
    """As of a FedBatch."""

    def photos(self, step: Int32[Array, ""] | int) -> Photos:
        """Those of a step."""
        index = jnp.take(self.indices, step % self.indices.shape[1], axis=1)

        def rows(x: Shaped[Array, "V R *rest"]) -> Shaped[Array, "B *rest"]:
            return _rows(x, index)

        def features(drawn: Int32[Array, "B n"] | None) -> Float[Array, "B n D"]:
            if drawn is None:
                whole = rows(self.features)
                return whole.reshape(whole.shape[0], -1, whole.shape[-1])
            return _patches(self.features, index, drawn)

        return Photos(rows(self.classes), rows(self.grid_hw), rows(self.row), rows(self.shares), features)

    @property
    def stored_bytes(self) -> int:
        """Of the arrays of the split, all devices together."""
        return sum(x.nbytes for x in (self.classes, self.features, self.grid_hw, self.row, self.shares))


Batch = FedBatch | StoredBatch


def _rows(x: Shaped[Array, "v R *rest"], index: Int32[Array, "v k"]) -> Shaped[Array, "v*k *rest"]:
    """Of each shard of x, the rows at its places `index`."""
    return take_patches(x, index).reshape(-1, *x.shape[2:])


def _patches(
    x: Float[Array, "v R h w D"], index: Int32[Array, "v k"], drawn: Int32[Array, "v*k n"]
) -> Float[Array, "v*k n D"]:
    """As `_rows`, but of each row the patches drawn, in one gather.

    x keeps its shape: a TPU's tiles do not divide its rows of patches, and to join those it would copy the split.
    """
    width = x.shape[3]
    row = jnp.broadcast_to(index[..., None], (*index.shape, drawn.shape[-1]))
    y, column = jnp.divmod(drawn.reshape(row.shape), width)
    taken: Array = jax.vmap(lambda of_shard, *places: of_shard[places])(x, row, y, column)
    return taken.reshape(-1, *taken.shape[2:])
