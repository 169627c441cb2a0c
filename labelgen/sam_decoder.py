"""SAM's mask decoder for many point prompts of one image: the official weights, fewer products.

Data flow: image embedding and points -> logits and predicted IoUs. Used by labelgen.sam.

The prompts of an image share its tokens until the first block has read them; later each prompt has N tokens of its
own, and the official decoder projects them all, five times a block. There are far fewer prompt tokens (T = 7) than
image tokens (N = 4096), so here the projection moves to the prompt's side: q (W k)^T = (q W) k^T. Upsampling is done
with channels last, where a transposed convolution of stride 2 is a product and the norm reads rows. Equal to
`segment_anything.modeling.MaskDecoder` up to rounding.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from labelgen.libraries import MaskDecoder, PromptEncoder


class PointDecoder:
    """Three masks for each point prompt, computed in float32."""

    def __init__(self, prompts: PromptEncoder, decoder: MaskDecoder) -> None:
        self.prompts, self.decoder = prompts, decoder
        self.doubling = [_as_linear(decoder.output_upscaling[i]) for i in (0, 3)]

    def __call__(self, features: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Logits float32 [3 n, l, l] and predicted IoUs float32 [3 n].

        features: float32 [1, C, g, g], the image embedding; points: [n, 2] xy in the px of the model's input; l = 4 g.
        """
        decoder: Any = self.decoder
        labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
        sparse, dense = self.prompts(points=(points[:, None], labels), boxes=None, masks=None)
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(len(points), -1, -1)
        where = self.prompts.get_dense_pe().flatten(2).transpose(1, 2)
        image = (features + dense[:1]).flatten(2).transpose(1, 2)
        tokens, image = two_way(decoder.transformer, torch.cat([own, sparse], 1), image, where)
        several = list(enumerate(decoder.output_hypernetworks_mlps, 1))[1:]  # the first is for an unambiguous prompt
        kernels = torch.stack([mlp(tokens[:, i]) for i, mlp in several], 1)
        low = self.masks(image, kernels, features.shape[-1])
        return low.flatten(0, 1), decoder.iou_prediction_head(tokens[:, 0])[:, 1:].flatten()

    def masks(self, image: Tensor, kernels: Tensor, side: int) -> Tensor:
        """Logits [n, m, 4 side, 4 side] of image [n, side^2, C] and kernels [n, m, C / 8]."""
        _, norm, activation, _, _ = self.decoder.output_upscaling
        x = torch.unflatten(F.linear(image, *self.doubling[0]), -1, (4, -1))
        x = activation(F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, norm.eps))
        x = activation(F.linear(x, *self.doubling[1])).view(len(image), 16 * side**2, -1)
        low: Tensor = kernels @ x.transpose(1, 2)
        n, m, _ = low.shape
        placed = low.view(n, m, side, side, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return placed.reshape(n, m, 4 * side, 4 * side)


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
    n, count, _ = tokens.shape
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


def _as_linear(convolution: Any) -> tuple[Tensor, Tensor]:
    """Weight [4 C', C] and bias [4 C'] of a ConvTranspose2d of kernel and stride 2: the new pixels row by row."""
    weight: Tensor = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()
    return weight, convolution.bias.repeat(4)
