"""The head: frozen patch features become unit vectors in CLIP's text space, one a patch. It sees no words.

Its blocks attend over the patches of a view; on a CPU the attention is written for it, elsewhere it is the library's.
"""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Float32, Int32

from fmbseg_jax.runs.settings import HeadConfig

_MLP_RATIO = 4  # hidden width of a block's MLP over its own width
Heads = Float[Array, "B N heads d"]


def attend(q: Heads, k: Heads, v: Heads, valid: Bool[Array, "B N"]) -> Heads:
    """softmax(q k^T / sqrt(d)) v of each head; where valid is False a patch is seen by none."""
    if jax.default_backend() == "cpu":
        return on_cpu(q, k, v, valid)
    return jax.nn.dot_product_attention(q, k, v, mask=valid[:, None, None, :])


def on_cpu(q: Heads, k: Heads, v: Heads, valid: Bool[Array, "B N"]) -> Heads:
    """`attend`, in half the library's time there (benchmarks/README.md).

    Heads come before patches, so that products are of whole matrices, and sums are divided by the softmax's
    denominator once they are d wide and not N.
    """
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    scores = jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(valid[:, None, None, :], scores, np.finfo(np.float32).min)
    parts = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    sums = jnp.einsum("bhnm,bhmd->bhnd", parts.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return jnp.swapaxes(sums / parts.sum(-1, keepdims=True), 1, 2).astype(v.dtype)


class Block(nn.Module):
    """A pre-norm transformer block over the patches of a view: attention, then an MLP, each with its residual."""

    heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"], valid: Bool[Array, "B N"]) -> Float[Array, "B N D"]:
        """Patches where valid is False are attended to by none."""
        width = x.shape[-1]
        y = nn.LayerNorm(dtype=self.dtype)(x)
        qkv = nn.DenseGeneral((3, self.heads, width // self.heads), dtype=self.dtype, name="qkv")(y)
        q, k, v = (qkv[:, :, i] for i in range(3))
        y = attend(q, k, v, valid)
        x = x + nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, name="out")(y)
        y = nn.LayerNorm(dtype=self.dtype)(x)
        y = nn.gelu(nn.Dense(_MLP_RATIO * width, dtype=self.dtype, name="up")(y))
        return x + nn.Dense(width, dtype=self.dtype, name="down")(y)


class Head(nn.Module):
    """Zero or more blocks, then a linear map or an MLP, then unit length. Parameters are float32.

    text_width: E; blocks: transformer blocks; heads: attention heads of a block; hidden: width of the MLP's hidden
    layer, 0 for one linear map; dtype: compute type of everything but the normalisation to unit length.
    """

    text_width: int
    blocks: int = 0
    heads: int = 8
    hidden: int = 0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "B *grid D"], valid: Bool[Array, "B *grid"]
    ) -> Float32[Array, "B *grid E"]:
        """z, rows of length 1 (any row where valid is False means nothing). Any grid is as good: h w, N."""
        batch, *grid, width = features.shape
        x = features.reshape(batch, -1, width).astype(self.dtype)
        for i in range(self.blocks):
            x = Block(self.heads, self.dtype, name=f"block_{i}")(x, valid.reshape(batch, -1))
        if self.blocks:
            x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        if self.hidden:
            x = nn.gelu(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x))
        z = nn.Dense(self.text_width, dtype=self.dtype, name="project")(x)
        return unit(z.astype(jnp.float32)).reshape(batch, *grid, self.text_width)


def unit(z: Float32[Array, "*n E"]) -> Float32[Array, "*n E"]:
    """z at length 1; a zero vector stays zero, with a finite gradient."""
    return z * jax.lax.rsqrt(jnp.sum(z * z, -1, keepdims=True) + 1e-12)


@flax.struct.dataclass
class State:
    """What training changes: step, params {"head", maybe "log_temperature"}, the optimiser's moments."""

    step: Int32[Array, ""]
    params: Any
    moments: Any


def make_head(config: HeadConfig, text_width: int) -> Head:
    """The head for E = text_width."""
    return Head(text_width, config.blocks, config.heads, config.hidden, jnp.dtype(config.dtype))
