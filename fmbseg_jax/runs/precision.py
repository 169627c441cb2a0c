"""What float32 means for a matrix product: float32, on every platform.

By itself jax takes one pass in bfloat16 on TPUs and TF32 on GPUs, with 8 and 11 bits of each number, and what a cosine
loses is divided by a small temperature. Who wants that speed sets head.dtype=bfloat16; the cosines and the loss stay
float32.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

FULL = jax.lax.Precision.HIGHEST


def of_products(dtype: DTypeLike) -> jax.lax.Precision | None:
    """The precision of products in that compute type; None: a 16-bit type has but one."""
    return FULL if jnp.dtype(dtype) == jnp.float32 else None
