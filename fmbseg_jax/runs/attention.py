"""softmax(q k^T / sqrt(d)) v over the patches of a photo, by what the platform is good at; N x N is never kept.

CPU: written for it. GPU: cuDNN's flash attention where it takes the type; TPU: Pallas flash attention; else by blocks
of queries. All are the same to rounding (tests), and none exchanges anything between devices.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, Int32

from fmbseg_jax.runs.precision import of_products

Heads = Float[Array, "B N heads d"]
Valid = Bool[Array, "B N"]
WRITTEN_OUT, CUDNN, FLASH, BLOCKS = "written out", "cuDNN flash", "Pallas flash", "by blocks of queries"
"""Kernels: the names under which a run says which one it takes."""
_QUERIES = 128  # of a block
_TPU_BLOCK = 256  # patches of a photo are filled up to a multiple of it


def kernel_of(platform: str, dtype: DTypeLike, width: int) -> str:
    """What attends on a platform (cpu, gpu, tpu) in that type, `width` to a head."""
    if platform == "cpu":
        return WRITTEN_OUT
    if platform == "tpu":
        return FLASH
    small = jnp.dtype(dtype).itemsize == 2  # cuDNN has no other, nor wider heads
    return CUDNN if small and width % 8 == 0 and width <= 128 else BLOCKS


def attend(kernel: str, q: Heads, k: Heads, v: Heads, valid: Valid) -> Heads:
    """softmax(q k^T / sqrt(d)) v of each head; where valid is False a patch is seen by none.

    For CUDNN the valid patches of each photo come first (`valid_first`).
    """
    function = {WRITTEN_OUT: written_out, CUDNN: cudnn, FLASH: flash, BLOCKS: by_blocks}[kernel]
    return function(q, k, v, valid) if kernel == WRITTEN_OUT else over_heads(function, q, k, v, valid)


def over_heads(function: Callable[..., Array], q: Heads, k: Heads, v: Heads, valid: Valid) -> Heads:
    """The function on each device's own heads: no compiler splits these kernels over 'model' by itself."""
    if "model" not in jax.sharding.get_abstract_mesh().axis_names:
        return function(q, k, v, valid)
    heads, whole = PartitionSpec(None, None, "model", None), PartitionSpec()  # type: ignore[no-untyped-call]
    own = jax.shard_map(function, in_specs=(heads, heads, heads, whole), out_specs=heads, axis_names={"model"})
    attended: Array = own(q, k, v, valid)
    return attended


def written_out(q: Heads, k: Heads, v: Heads, valid: Valid) -> Heads:
    """In half the time that the library takes on a CPU (benchmarks/README.md).

    Heads come before patches, so that products are of whole matrices, and sums are divided by the softmax's
    denominator once they are d wide and not N.
    """
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    precision = of_products(q.dtype)
    scores = jnp.einsum("bhnd,bhmd->bhnm", q, k, precision=precision, preferred_element_type=jnp.float32)
    scores = jnp.where(valid[:, None, None, :], scores, np.finfo(np.float32).min)
    parts = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    parts_of = parts.astype(v.dtype)
    sums = jnp.einsum("bhnm,bhmd->bhnd", parts_of, v, precision=precision, preferred_element_type=jnp.float32)
    return jnp.swapaxes(sums / parts.sum(-1, keepdims=True), 1, 2).astype(v.dtype)


def by_blocks(q: Heads, k: Heads, v: Heads, valid: Valid) -> Heads:
    """`written_out` for a block of queries at a time, computed again for the gradient: [_QUERIES, N] is kept."""
    batch, count, heads, width = q.shape
    padded = jnp.pad(q, ((0, 0), (0, -count % _QUERIES), (0, 0), (0, 0)))
    blocks = jnp.moveaxis(padded.reshape(batch, -1, _QUERIES, heads, width), 1, 0)
    attended = jax.lax.map(jax.checkpoint(lambda block: written_out(block, k, v, valid)), blocks)
    return jnp.moveaxis(attended, 0, 1).reshape(batch, -1, heads, width)[:, :count]


def cudnn(q: Heads, k: Heads, v: Heads, valid: Valid, implementation: Literal["cudnn", "xla"] = "cudnn") -> Heads:
    """cuDNN's flash attention, which takes how many patches are valid, not which, and even numbers of them.

    implementation: of jax.nn.dot_product_attention; "xla" is the same on any platform.
    """
    count = q.shape[1]
    q, k, v = (jnp.pad(x, ((0, 0), (0, count % 2), (0, 0), (0, 0))) for x in (q, k, v))
    lengths: Int32[Array, B] = valid.sum(1, dtype=jnp.int32)
    attended = jax.nn.dot_product_attention(
        q, k, v, query_seq_lengths=lengths, key_value_seq_lengths=lengths, implementation=implementation
    )
    return attended[:, :count]


def valid_first(valid: Valid) -> Int[Array, "B N"]:
    """The order of each photo's patches in which the valid ones come first, as they stand."""
    return jnp.argsort(~valid, axis=1, stable=True)


def flash(q: Heads, k: Heads, v: Heads, valid: Valid) -> Heads:
    """Pallas flash attention for TPUs; filled up, and patches of unlike validity do not see each other."""
    from jax.experimental.pallas.ops.tpu import flash_attention as tpu

    count, width = q.shape[1], q.shape[-1]
    fill = -count % _TPU_BLOCK
    q, k, v = (jnp.swapaxes(jnp.pad(x, ((0, 0), (0, fill), (0, 0), (0, 0))), 1, 2) for x in (q, k, v))
    seen = jnp.pad(valid, ((0, 0), (0, fill))).astype(jnp.int32)
    block = 2 * _TPU_BLOCK if (count + fill) % (2 * _TPU_BLOCK) == 0 else _TPU_BLOCK
    sizes = tpu.BlockSizes(**dict.fromkeys(tpu.BlockSizes.__annotations__, block) | {"block_b": 1})
    attend = functools.partial(tpu.flash_attention, sm_scale=width**-0.5, block_sizes=sizes)
    # The kernel takes no precision of its own, and refuses any but the default in bfloat16.
    with jax.default_matmul_precision("highest" if q.dtype == jnp.float32 else "default"):
        attended = attend(q, k, v, segment_ids=tpu.SegmentIds(seen, seen))
    return jnp.swapaxes(attended, 1, 2)[:, :count]
