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


class Block(nn.Module):
    """A pre-norm transformer block over the patches of a view: attention, then an MLP, each with its residual."""

    heads: int
    dtype: DTypeLike
    kernel: str

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Float[Array, "B N D"]:
        """Patches where valid is False are attended to by none."""
        width, precision = x.shape[-1], of_products(self.dtype)
        dense = functools.partial(nn.Dense, dtype=self.dtype, precision=precision)
        general = functools.partial(nn.DenseGeneral, dtype=self.dtype, precision=precision)
        y = nn.LayerNorm(dtype=self.dtype)(x)
        qkv = general((3, self.heads, width // self.heads), name="qkv")(y)
        q, k, v = (qkv[:, :, i] for i in range(3))
        y = attention.attend(self.kernel, q, k, v, valid)
        x = x + general(width, axis=(-2, -1), name="out")(y)
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
        self, features: Float[Array, "B *grid D"], valid: Bool[Array, "B *grid"]
    ) -> Float32[Array, "B *grid E"]:
        """z, rows of length 1 (any row where valid is False means nothing). Any grid is as good: h w, N."""
        batch, *grid, width = features.shape
        dense = functools.partial(nn.Dense, dtype=self.dtype, precision=of_products(self.dtype))
        x, flat = features.reshape(batch, -1, width).astype(self.dtype), valid.reshape(batch, -1)
        if self.blocks:
            x = self._through_blocks(x, flat)
            x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        if self.hidden:
            x = nn.gelu(dense(self.hidden, name="hidden")(x))
        z = dense(self.text_width, name="project")(x)
        return unit(z.astype(jnp.float32)).reshape(batch, *grid, self.text_width)

    def _through_blocks(self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Float[Array, "B N D"]:
        """No block knows where a patch lies, so that a kernel may have them in the order that it wants."""
        kernel = self.kernel(x.shape[-1])
        order = attention.valid_first(valid) if kernel == attention.CUDNN else None
        if order is not None:
            x, valid = take_patches(x, order), take_patches(valid, order)
        for i in range(self.blocks):
            x = Block(self.heads, self.dtype, kernel, name=f"block_{i}")(x, valid)
        return x if order is None else take_patches(x, jnp.argsort(order, axis=1))

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
