"""Attention over the patches of a view: the library's, and on a CPU the same written for it."""

import jax
import jax.numpy as jnp
import numpy as np


def attend(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v of each head: [B, N, heads, d] of q, k, v alike; valid [B, N] False: seen by none."""
    if jax.default_backend() == "cpu":
        return on_cpu(q, k, v, valid)
    return jax.nn.dot_product_attention(q, k, v, mask=valid[:, None, None, :])


def on_cpu(q: jax.Array, k: jax.Array, v: jax.Array, valid: jax.Array) -> jax.Array:
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
