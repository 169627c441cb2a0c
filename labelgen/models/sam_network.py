"""SAM's two networks with fewer products: the official weights, the official results up to rounding.

Data flow: normalised pixels -> image embedding (`embed`); it and points -> logits and predicted IoUs (PointDecoder).
Used by labelgen.models.sam.

The image encoder's attention never holds all scores of a global block. The official code adds the relative position
bias (MViTv2, Li et al. 2022, eq. 4) to scores [heads, N, N] of N = 4096 tokens: 0.8 GB a pass of ViT-B in float32. The
bias of a pair is a sum of a term by rows and one by columns, both linear in the query, so it is a scalar product too:
queries get both terms as further channels, keys say there in which row and column they are, and what is left is plain
attention, for which torch has fused kernels. The CPU's is slower than products of a few rows at a time, so there the
scores are made in parts that fit its cache. Equal to `segment_anything.modeling.ImageEncoderViT` up to rounding.

The mask decoder takes many point prompts of one image, which share its tokens until the first block has read them;
later each prompt has N tokens of its own, and the official decoder projects them all, five times a block. There are far
fewer prompt tokens (T = 7) than image tokens, so here the projection moves to the prompt's side: q (W k)^T = (q W) k^T.
Upsampling is done with channels last, where a transposed convolution of stride 2 is a product and the norm reads rows.
Equal to `segment_anything.modeling.MaskDecoder`, and for SAM 2.1 to transformers' `Sam2MaskDecoder`, up to rounding.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labelgen.core.geometry import HW
from labelgen.models.compute import by_rows
from labelgen.models.libraries import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    get_rel_pos,
    window_partition,
    window_unpartition,
)

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
        x = x + by_rows(block.mlp, block.norm2(x))
    x = x.permute(0, 3, 1, 2)
    for layer in encoder.neck:  # its norms compute in the type of what they get: within autocast a narrow one
        x = layer(x if isinstance(layer, nn.Conv2d) else x.float())
    return x


def _attended(block: Any, x: Tensor) -> Tensor:
    """A block's attention of tokens [B, h, w, D], within its windows if it has some."""
    attention, side = block.attn, block.window_size
    qkv = attention.qkv(block.norm1(x))
    if not side:
        return _projected(attention, attend_heads(attention, qkv))
    windows, padded_hw = window_partition(_padded(qkv, attention.qkv.bias, side), side)
    whole: Tensor = window_unpartition(attend_heads(attention, windows), side, padded_hw, x.shape[1:3])
    return _projected(attention, whole)


def _padded(qkv: Tensor, bias: Tensor | None, side: int) -> Tensor:
    """Maps [B, h, w, 3 D] up to whole windows. The official code pads before the projection, of which only the bias is
    left there; so it need not be computed for what is padding, nor the projection after the attention."""
    count, h, w, width = qkv.shape
    if not (h % side or w % side):
        return qkv
    shape = count, -(-h // side) * side, -(-w // side) * side, width
    padded = qkv.new_zeros(shape) if bias is None else bias.to(qkv.dtype).expand(shape).contiguous()
    padded[:, :h, :w] = qkv
    return padded


def attend(attention: Any, x: Tensor) -> Tensor:
    """image_encoder.Attention of tokens [B, h, w, D]."""
    return _projected(attention, attend_heads(attention, attention.qkv(x)))


def _projected(attention: Any, heads: Tensor) -> Tensor:
    projected: Tensor = attention.proj(heads)
    return projected


def attend_heads(attention: Any, qkv: Tensor) -> Tensor:
    """The heads' answers [B, h, w, D] to queries, keys and values [B, h, w, 3 D]."""
    count, h, w, _ = qkv.shape
    q, k, v = qkv.view(count, h * w, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4).contiguous().unbind()
    bias = _bias(attention, q, (h, w)) if attention.use_rel_pos else None
    run = in_parts if q.device.type == "cpu" and bias else fused
    heads = run(q * attention.scale, k, v, bias)
    return heads.transpose(1, 2).reshape(count, h, w, -1)


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
            scores = (q[:, at] @ k.transpose(1, 2)).float()
            if biases:
                by_row, by_column = (part[:, at] for part in biases)
                grid = torch.unflatten(scores, 2, (by_row.shape[-1], by_column.shape[-1]))
                grid.add_(by_row[..., :, None]).add_(by_column[..., None, :])
            into[:, at] = scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v
    return out


class PointDecoder:
    """Three masks for each point prompt, computed in float32, but for the two products that upsample."""

    def __init__(
        self,
        prompts: PromptEncoder,
        decoder: MaskDecoder,
        dtype: torch.dtype = torch.float32,
        first: nn.Embedding | None = None,
    ) -> None:
        """dtype: of these two, where the pocket SAM's masks keep an IoU of .99. In bfloat16 the attention before them
        costs as much again and moves predicted IoUs by up to .04. first: SAM 2.1's token before the others; predicted
        IoUs are then a sigmoid's."""
        self.prompts, self.decoder = prompts, decoder
        self.own: list[nn.Embedding] = [*([first] if first else []), decoder.iou_token, decoder.mask_tokens]
        self.doubling = [_as_linear(decoder.output_upscaling[i], dtype) for i in (0, 3)]

    def __call__(
        self, features: Tensor, points: Tensor, finer: Sequence[Tensor] = (), needed: HW | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits float32 [3 n, l, l] and predicted IoUs float32 [3 n].

        features: float32 [1, C, g, g], the image embedding; points: [n, 2] xy in the px of the model's input; finer:
        SAM 2.1's maps half and quarter (sam2.Detail); l = 4 g; needed: rows and columns of the logits that are wanted,
        or some more come: what else there is, is not made.
        """
        decoder: Any = self.decoder
        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        sparse, dense = self.prompts(points=(points[:, None], labels), boxes=None, masks=None)
        own = torch.cat([token.weight for token in self.own]).expand(len(points), -1, -1)
        where = self.prompts.get_dense_pe().flatten(2).transpose(1, 2)
        image = (features + dense[:1]).flatten(2).transpose(1, 2)
        tokens, image = two_way(decoder.transformer, torch.cat([own, sparse], 1), image, where)
        tokens = tokens[:, len(self.own) - 2 :]  # from that of the predicted IoU on
        several = list(enumerate(decoder.output_hypernetworks_mlps, 1))[1:]  # the first is for an unambiguous prompt
        kernels = torch.stack([mlp(tokens[:, i]) for i, mlp in several], 1)
        image, side = _upper_left(image, features.shape[-1], None if finer else needed)
        low = self.masks(image, kernels, side, finer)
        iou = decoder.iou_prediction_head(tokens[:, 0])[:, 1:].flatten()
        return low.flatten(0, 1), iou.sigmoid() if len(self.own) > 2 else iou

    def masks(self, image: Tensor, kernels: Tensor, side: int, finer: Sequence[Tensor] = ()) -> Tensor:
        """Logits [n, m, 4 h, 4 side] of image [n, h side, C] and kernels [n, m, C / 8]; finer: as of __call__."""
        _, norm, activation, _, _ = self.decoder.output_upscaling
        x = torch.unflatten(_product(image, *self.doubling[0]), -1, (4, -1))
        x = x + finer[0] if finer else x
        x = activation(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
        x = _product(x, *self.doubling[1]).view(len(image), 16 * image.shape[1], -1)
        x = activation(x + finer[1] if finer else x)
        low: Tensor = kernels @ x.transpose(1, 2)
        n, m, _ = low.shape
        placed = low.view(n, m, -1, side, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return placed.reshape(n, m, -1, 4 * side)


def _product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """float32, with operands of the weight's dtype."""
    return F.linear(x.to(weight.dtype), weight, bias).float()


def _upper_left(image: Tensor, side: int, needed: HW | None) -> tuple[Tensor, int]:
    """The tokens [n, h w, C] of image [n, side^2, C] that these rows and columns of logits are made of, and w."""
    if needed is None:
        return image, side
    rows, columns = (min(side, -(-length // 4)) for length in needed)
    return torch.unflatten(image, 1, (side, side))[:, :rows, :columns].flatten(1, 2), columns


def two_way(transformer: Any, prompts: Tensor, image: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """TwoWayTransformer: (tokens [n, T, C], image [n, N, C]) of prompts [n, T, C] and image, where [1, N, C]."""
    tokens = prompts
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            tokens = layer.self_attn(tokens, tokens, tokens)
        else:
            asking = tokens + prompts
            tokens = tokens + layer.self_attn(asking, asking, tokens)
        tokens = layer.norm1(tokens)
        placed = image + where
        tokens = layer.norm2(tokens + read_image(layer.cross_attn_token_to_image, tokens + prompts, placed, image))
        tokens = layer.norm3(tokens + layer.mlp(tokens))
        image = add_tokens(layer.cross_attn_image_to_token, image, placed, tokens + prompts, tokens)
        image = layer.norm4(image)
    last = transformer.final_attn_token_to_image
    return transformer.norm_final_attn(tokens + read_image(last, tokens + prompts, image + where, image)), image


def read_image(attention: Any, asking: Tensor, placed: Tensor, image: Tensor) -> Tensor:
    """Attention of prompt tokens [n, T, C] to image tokens [n or 1, N, C]; `placed` has their position added."""
    n, tokens, _ = asking.shape
    heads = attention.num_heads
    if len(image) < n or heads * tokens >= attention.internal_dim:
        read: Tensor = attention(asking, placed, image)
        return read
    width = attention.internal_dim // heads
    q = attention.q_proj(asking).unflatten(2, (heads, width)) * width**-0.5
    keys = attention.k_proj.weight.unflatten(0, (heads, width))  # its bias adds the same to all scores of a query
    absorbed = torch.einsum("nthd,hdc->nhtc", q, keys).flatten(1, 2)
    weights = (absorbed @ placed.transpose(1, 2)).softmax(-1)
    found = torch.unflatten((weights @ image), 1, (heads, tokens))
    values = attention.v_proj.weight.unflatten(0, (heads, width))
    out = torch.einsum("nhtc,hdc->nthd", found, values).flatten(2) + attention.v_proj.bias
    projected: Tensor = attention.out_proj(out)
    return projected


def add_tokens(attention: Any, image: Tensor, placed: Tensor, keys: Tensor, tokens: Tensor) -> Tensor:
    """Image tokens [n or 1, N, C] plus their attention to prompt tokens [n, T, C]: [n, N, C]."""
    count = tokens.shape[1]
    heads = attention.num_heads
    if heads * count >= attention.internal_dim:
        added: Tensor = image + attention(placed, keys, tokens)
        return added
    width = attention.internal_dim // heads
    k = attention.k_proj(keys).unflatten(2, (heads, width)) * width**-0.5
    queries = attention.q_proj.weight.unflatten(0, (heads, width))
    absorbed = torch.einsum("nthd,hdc->nthc", k, queries).flatten(1, 2)
    offset = torch.einsum("nthd,hd->nth", k, attention.q_proj.bias.unflatten(0, (heads, width))).flatten(1, 2)
    scores = absorbed @ placed.transpose(1, 2) + offset[..., None]
    weights = torch.unflatten(scores, 1, (count, heads)).softmax(1).flatten(1, 2)
    v = attention.v_proj(tokens).unflatten(2, (heads, width))
    values = torch.einsum("nthd,chd->nthc", v, attention.out_proj.weight.unflatten(1, (heads, width))).flatten(1, 2)
    values = values + attention.out_proj.bias / heads  # a head's weights sum to one
    summed: Tensor = (weights.transpose(1, 2) @ values).add_(image)
    return summed


def _as_linear(convolution: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weight [4 C', C] and bias [4 C'] of a ConvTranspose2d of kernel and stride 2: the new pixels row by row."""
    weight: Tensor = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()
    return weight.to(dtype), convolution.bias.repeat(4).to(dtype)
