"""SAM's image encoder: the official weights, with attention that never holds all scores of a global block.

Data flow: normalised pixels -> image embedding. Used by labelgen.sam.

The official code adds the relative position bias (MViTv2, Li et al. 2022, eq. 4) to scores [heads, N, N] of N = 4096
tokens: 0.8 GB a pass of ViT-B in float32. The bias of a pair is a sum of a term by rows and one by columns, both
linear in the query, so it is a scalar product too: queries get both terms as further channels, keys say there in which
row and column they are, and what is left is plain attention, for which torch has fused kernels. The CPU's is slower
than products of a few rows at a time, so there the scores are made in parts that fit its cache.
Equal to `segment_anything.modeling.ImageEncoderViT` up to rounding.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labelgen.libraries import ImageEncoderViT, get_rel_pos, window_partition, window_unpartition

CACHED_SCORES = 1 << 20
"""Scores that the CPU holds at a time, 4 MB in float32."""


def embed(encoder: nn.Module, pixels: Tensor) -> Tensor:
    """The image embeddings [B, C, g, g] of normalised, padded pixels float32 [B, 3, S, S]."""
    if not isinstance(encoder, ImageEncoderViT):
        other: Tensor = encoder(pixels)
        return other
    x: Tensor = encoder.patch_embed(pixels)
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed
    for block in encoder.blocks:
        x = x + _attended(block, x)
        x = x + block.mlp(block.norm2(x))
    embedded: Tensor = encoder.neck(x.permute(0, 3, 1, 2))
    return embedded


def _attended(block: Any, x: Tensor) -> Tensor:
    """A block's attention of tokens [B, h, w, D], within its windows if it has some."""
    normed = block.norm1(x)
    if not block.window_size:
        return attend(block.attn, normed)
    windows, padded_hw = window_partition(normed, block.window_size)
    whole: Tensor = window_unpartition(attend(block.attn, windows), block.window_size, padded_hw, x.shape[1:3])
    return whole


def attend(attention: Any, x: Tensor) -> Tensor:
    """image_encoder.Attention of tokens [B, h, w, D]."""
    count, h, w, _ = x.shape
    qkv = attention.qkv(x).view(count, h * w, 3, attention.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).contiguous().unbind()
    bias = _bias(attention, q, (h, w)) if attention.use_rel_pos else None
    run = in_parts if q.device.type == "cpu" and bias else fused
    heads = run(q * attention.scale, k, v, bias)
    out: Tensor = attention.proj(heads.transpose(1, 2).reshape(count, h, w, -1))
    return out


def _bias(attention: Any, q: Tensor, grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What each query adds to the scores of a row and of a column: [B, heads, N, h] and [B, heads, N, w]."""
    at = torch.unflatten(q, 2, grid_hw)
    tables = zip(grid_hw, (attention.rel_pos_h, attention.rel_pos_w), strict=True)
    by_row, by_column = (get_rel_pos(side, side, table).to(q.dtype) for side, table in tables)
    rows = torch.einsum("bnhwc,hkc->bnhwk", at, by_row)
    columns = torch.einsum("bnhwc,wkc->bnhwk", at, by_column)
    return rows.flatten(2, 3), columns.flatten(2, 3)


def fused(q: Tensor, k: Tensor, v: Tensor, bias: tuple[Tensor, Tensor] | None) -> Tensor:
    """Attention [B, heads, N, d] of scaled queries in one kernel, the bias as channels of queries and keys."""
    if bias is None:
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)
    rows, columns = (part.shape[-1] for part in bias)
    which = torch.eye(rows, dtype=k.dtype, device=k.device).repeat_interleave(columns, 0)
    which = torch.cat([which, torch.eye(columns, dtype=k.dtype, device=k.device).repeat(rows, 1)], 1)
    wide_q, wide_k = torch.cat([q, *bias], -1), torch.cat([k, which.expand(*k.shape[:3], -1)], -1)
    wide_v = F.pad(v, (0, rows + columns))  # flash attention wants one width
    return F.scaled_dot_product_attention(wide_q, wide_k, wide_v, scale=1.0)[..., : v.shape[-1]]


def in_parts(q: Tensor, k: Tensor, v: Tensor, bias: tuple[Tensor, Tensor] | None) -> Tensor:
    """The same, CACHED_SCORES at a time, softmax in float32."""
    out = torch.empty_like(q)
    flat = [tensor.flatten(0, 1) for tensor in (q, k, v, out, *(bias or ()))]
    count, tokens, _ = flat[0].shape
    heads = max(1, CACHED_SCORES // tokens**2)
    rows = min(tokens, max(1, CACHED_SCORES // tokens))
    for head in range(0, count, heads):
        q, k, v, into, *biases = (tensor[head : head + heads] for tensor in flat)
        for row in range(0, tokens, rows):
            at = slice(row, row + rows)
            scores = q[:, at] @ k.transpose(1, 2)
            if biases:
                by_row, by_column = (part[:, at] for part in biases)
                grid = torch.unflatten(scores, 2, (by_row.shape[-1], by_column.shape[-1]))
                grid.add_(by_row[..., :, None]).add_(by_column[..., None, :])
            into[:, at] = scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
    return out
