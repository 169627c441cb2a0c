"""The head: frozen patch features become unit vectors in CLIP's text space, one a patch. It sees no words.

Its blocks attend over the patches of a view, by what the platform that it runs on is good at.
"""

import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Float32, Int, Int32, Shaped

from fmbseg_jax.runs import attention
from fmbseg_jax.runs.precision import of_products
from fmbseg_jax.runs.settings import HeadConfig

_MLP_RATIO = 4  # hidden width of a block's MLP over its own width


class Projections(nn.Module):
    """Queries, keys and values of each head, one kernel [D, 3, heads, d] and bias for all three."""

    heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, asking: Float[Array, "B n D"], seen: Float[Array, "B N D"]
    ) -> tuple[attention.Queries, attention.Keys, attention.Keys]:
        """Queries of the patches that ask, keys and values of those that are seen."""
        width = seen.shape[-1]
        shape = (3, self.heads, width // self.heads)
        flat = nn.initializers.lecun_normal()
        kernel = self.param("kernel", lambda key: flat(key, (width, 3 * width)).reshape(width, *shape))
        kernel, bias = kernel.astype(self.dtype), self.param("bias", nn.initializers.zeros, shape).astype(self.dtype)

        def project(x: Float[Array, "B n D"], part: slice) -> list[Float[Array, "B n heads d"]]:
            product = jnp.einsum("bnD,Dphd->pbnhd", x, kernel[:, part], precision=of_products(self.dtype))
            return list(product + bias[part, None, None])

        if asking is seen:
            q, k, v = project(seen, slice(0, 3))
        else:
            (q,), (k, v) = project(asking, slice(0, 1)), project(seen, slice(1, 3))
        return q, k, v


class Block(nn.Module):
    """A pre-norm transformer block over the patches of a view: attention, then an MLP, each with its residual."""

    heads: int
    dtype: DTypeLike
    kernel: str = attention.WRITTEN_OUT

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"], drawn: Int[Array, "B n"] | None = None
    ) -> Float[Array, "B n D"]:
        """Of the patches drawn (None: all). Patches where valid is False are attended to by none."""
        width, precision = x.shape[-1], of_products(self.dtype)
        dense = functools.partial(nn.Dense, dtype=self.dtype, precision=precision)
        seen = nn.LayerNorm(dtype=self.dtype)(x)
        x, asking = (x, seen) if drawn is None else (take_patches(x, drawn), take_patches(seen, drawn))
        q, k, v = Projections(self.heads, self.dtype, name="qkv")(asking, seen)
        y = attention.attend(self.kernel, q, k, v, valid)
        out = nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, precision=precision, name="out")
        x = x + out(y)
        y = nn.LayerNorm(dtype=self.dtype)(x)
        y = nn.gelu(dense(_MLP_RATIO * width, name="up")(y))
        return x + dense(width, name="down")(y)


class Head(nn.Module):
    """Zero or more blocks, then a linear map or an MLP, then unit length. Parameters are float32.

    text_width: E; blocks: transformer blocks; heads: attention heads of a block; hidden: width of the MLP's hidden
    layer, 0 for one linear map; dtype: compute type of everything but the normalisation to unit length; platform: cpu,
    gpu or tpu, of the devices that it is compiled for.
    """

    text_width: int
    blocks: int = 0
    heads: int = 8
    hidden: int = 0
    dtype: DTypeLike = jnp.float32
    platform: str = "cpu"

    @nn.compact
    def __call__(
        self,
        features: Float[Array, "B *grid D"],
        valid: Bool[Array, "B *grid"],
        drawn: Int[Array, "B n"] | None = None,
    ) -> Float32[Array, "B *places E"]:
        """z of all patches, or of those drawn from a view [B, N], rows of length 1. Any grid is as good: h w, N.

        Where valid is False a row means nothing. What only other patches need is not computed of them: with blocks that
        is all that follows the last one's keys and values.
        """
        batch, *grid, width = features.shape
        dense = functools.partial(nn.Dense, dtype=self.dtype, precision=of_products(self.dtype))
        x, flat = features.reshape(batch, -1, width).astype(self.dtype), valid.reshape(batch, -1)
        kernel = self.kernel(width)
        for i in range(self.blocks):
            last = drawn if i == self.blocks - 1 else None
            x = Block(self.heads, self.dtype, kernel, name=f"block_{i}")(x, flat, last)
        if drawn is not None and not self.blocks:
            x = take_patches(x, drawn)
        if self.blocks:
            x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        if self.hidden:
            x = nn.gelu(dense(self.hidden, name="hidden")(x))
        z = dense(self.text_width, name="project")(x)
        places = grid if drawn is None else drawn.shape[1:]
        return unit(z.astype(jnp.float32)).reshape(batch, *places, self.text_width)

    def kernel(self, feature_width: int) -> str:
        """What its blocks attend with, see fmbseg_jax.runs.attention."""
        return attention.kernel_of(self.platform, self.dtype, feature_width // self.heads)


def unit(z: Float32[Array, "*n E"]) -> Float32[Array, "*n E"]:
    """z at length 1; a zero vector stays zero, with a finite gradient."""
    return z * jax.lax.rsqrt(jnp.sum(z * z, -1, keepdims=True) + 1e-12)


@flax.struct.dataclass
class State:
    """What training changes: step, params {"head", maybe "log_temperature"}, the optimiser's moments."""

    step: Int32[Array, ""]
    params: Any
    moments: Any


def make_head(config: HeadConfig, text_width: int, platform: str) -> Head:
    """The head for E = text_width on devices of that platform; its parameters are the same on all."""
    return Head(text_width, config.blocks, config.heads, config.hidden, jnp.dtype(config.dtype), platform)


def take_patches(x: Shaped[Array, "B N *rest"], index: Int[Array, "B n"]) -> Shaped[Array, "B n *rest"]:
    """Of each row of x, what is at the row's places `index`."""
    taken: Array = jax.vmap(lambda rows, i: rows[i])(x, index)
    return taken
