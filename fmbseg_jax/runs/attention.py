"""softmax(q k^T / sqrt(d)) v over the patches of a photo, by what the platform is good at; N x N is never kept.

CPU: written for it. GPU: cuDNN's flash attention where it takes the type; TPU: Pallas flash attention; else by blocks
of queries. All are the same to rounding (tests), and none exchanges anything between devices.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from fmbseg_jax.runs.precision import of_products

Queries = Float[Array, "B n heads d"]
Keys = Float[Array, "B N heads d"]
Valid = Bool[Array, "B N"]
WRITTEN_OUT, CUDNN, FLASH, BLOCKS = "written out", "cuDNN flash", "Pallas flash", "by blocks of queries"
"""Kernels: the names under which a run says which one it takes."""
_QUERIES = 128  # of a block
_TPU_BLOCK = 128  # patches of a photo are filled up to a multiple of it


def kernel_of(platform: str, dtype: DTypeLike, width: int) -> str:
    """What attends on a platform (cpu, gpu, tpu) in that type, `width` to a head."""
    if platform == "cpu":
        return WRITTEN_OUT
    if platform == "tpu":
        return FLASH
    small = jnp.dtype(dtype).itemsize == 2  # cuDNN has no other, nor wider heads
    return CUDNN if small and width % 8 == 0 and width <= 128 else BLOCKS


def attend(kernel: str, q: Queries, k: Keys, v: Keys, valid: Valid) -> Queries:
    """softmax(q k^T / sqrt(d)) v of each head for n of the patches; where valid is False a patch is seen by none."""
    function = {WRITTEN_OUT: written_out, CUDNN: cudnn, FLASH: flash, BLOCKS: by_blocks}[kernel]
    return function(q, k, v, valid) if kernel == WRITTEN_OUT else over_heads(function, q, k, v, valid)


def over_heads(function: Callable[..., Array], q: Queries, k: Keys, v: Keys, valid: Valid) -> Queries:
    """The function on each device's own heads: no compiler splits these kernels over 'model' by itself."""
    if "model" not in jax.sharding.get_abstract_mesh().axis_names:
        return function(q, k, v, valid)
    heads, whole = PartitionSpec(None, None, "model", None), PartitionSpec()  # type: ignore[no-untyped-call]
    specs = (heads, heads, heads, whole)
    own = jax.shard_map(function, in_specs=specs, out_specs=heads, axis_names={"model"}, check_vma=False)
    attended: Array = own(q, k, v, valid)
    return attended


def written_out(q: Queries, k: Keys, v: Keys, valid: Valid) -> Queries:
    """In half the time that the library takes on a CPU (benchmarks/README.md).

    Heads come before patches, so that products are of whole matrices, and sums are divided by the softmax's
    denominator once they are d wide and not N.
    """
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    precision = of_products(q.dtype)
    scores = jnp.einsum("bhnd,bhmd->bhnm", q, k, precision=precision, preferred_element_type=jnp.float32)
    scores = jnp.where(valid[:, None, None, :], scores, np.finfo(np.float32).min)
    parts = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    typed = parts.astype(v.dtype)
    sums = jnp.einsum("bhnm,bhmd->bhnd", typed, v, precision=precision, preferred_element_type=jnp.float32)
    return jnp.swapaxes(sums / parts.sum(-1, keepdims=True), 1, 2).astype(v.dtype)


def by_blocks(q: Queries, k: Keys, v: Keys, valid: Valid) -> Queries:
    """`written_out` for a block of queries at a time, computed again for the gradient: [_QUERIES, N] is kept."""
    batch, count, heads, width = q.shape
    blocks = jnp.moveaxis(filled_up(q, _QUERIES).reshape(batch, -1, _QUERIES, heads, width), 1, 0)
    attended = jax.lax.map(jax.checkpoint(lambda block: written_out(block, k, v, valid)), blocks)
    return jnp.moveaxis(attended, 0, 1).reshape(batch, -1, heads, width)[:, :count]


def cudnn(q: Queries, k: Keys, v: Keys, valid: Valid, implementation: Literal["cudnn", "xla"] = "cudnn") -> Queries:
    """cuDNN's flash attention, which is told how many patches are valid, not which, and takes even numbers of them.

    implementation: of jax.nn.dot_product_attention; "xla" is the same on any platform.
    """
    batch, count, *_ = q.shape
    valid_first = jnp.argsort(~valid, axis=1, stable=True)
    place = jnp.arange(batch)[:, None]
    k, v = (x.at[place, valid_first].get(unique_indices=True, mode="promise_in_bounds") for x in (k, v))
    attended = jax.nn.dot_product_attention(
        filled_up(q, 2),
        filled_up(k, 2),
        filled_up(v, 2),
        query_seq_lengths=jnp.full(batch, count, jnp.int32),
        key_value_seq_lengths=valid.sum(1, dtype=jnp.int32),
        implementation=implementation,
    )
    return attended[:, :count]


def flash(q: Queries, k: Keys, v: Keys, valid: Valid) -> Queries:
    """Pallas flash attention for TPUs, over filled-up patches; those that are not valid are a segment of their own."""
    from jax.experimental.pallas.ops.tpu import flash_attention as tpu

    count, scale = q.shape[1], q.shape[-1] ** -0.5
    q, k, v = (jnp.swapaxes(filled_up(x, _TPU_BLOCK), 1, 2) for x in (q, k, v))
    sizes = {name: block_of(q if "_q" in name else k) for name in tpu.BlockSizes.__annotations__}
    blocks = tpu.BlockSizes(**sizes | {"block_b": 1})
    seen = jnp.pad(valid, ((0, 0), (0, k.shape[2] - valid.shape[1]))).astype(jnp.int32)
    segments = tpu.SegmentIds(jnp.ones((len(q), q.shape[2]), jnp.int32), seen)
    # The kernel takes no precision of its own, and refuses any but the default in bfloat16.
    with jax.default_matmul_precision("highest" if q.dtype == jnp.float32 else "default"):
        attended: Array = tpu.flash_attention(q, k, v, segment_ids=segments, sm_scale=scale, block_sizes=blocks)
    return jnp.swapaxes(attended, 1, 2)[:, :count]


def block_of(x: Float[Array, "B heads N d"]) -> int:
    """Patches of a photo in a block of the TPU's kernel."""
    return 4 * _TPU_BLOCK if x.shape[2] % (4 * _TPU_BLOCK) == 0 else _TPU_BLOCK


def filled_up(x: Float[Array, "B n heads d"], multiple: int) -> Float[Array, "B m heads d"]:
    """With zeros to a multiple of so many patches."""
    return jnp.pad(x, ((0, 0), (0, -x.shape[1] % multiple), (0, 0), (0, 0)))
