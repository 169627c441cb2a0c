"""Dense CLIP: a unit vector of the text's space for every patch, without training. One function a variant.

X: input of the last block; q, k, v = in_proj(LN1(X)), heads of width d, s = 1/sqrt(d); O: the attention's
out-projection. A variant gives the last block's output; LN_post, the visual projection and unit length follow. To add
one: write a function of `Tokens` and enter it in VARIANTS.

The formulas are those of the authors' published code. What we do otherwise: windows larger than the training size get
position embeddings as open_clip resizes a checkpoint's, antialiased bicubic (SCLIP, ClearCLIP, NACLIP, ProxyCLIP: not
antialiased, by a tenth of a patch more; CLIP Surgery: bilinear). Windows are averaged as unit vectors, theirs as logits
of pixels. And what is said at maskclip and proxyclip.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelgen.core import geometry
from labelgen.core.errors import UserError
from labelgen.core.geometry import HW, Windows
from labelgen.models import compute
from labelgen.models.clip import Block, ClipEncoder, unit

SIGMA = 5.0
"""NACLIP: width of the neighbourhood, patches."""
BETA, GAMMA = 1.2, 3.0
"""ProxyCLIP: what counts as similar, and how sharply."""
SURGERY_BLOCKS = 6


class Tokens:
    """What a variant may use of a batch of n windows.

    inputs: [n, 1 + N, width] of each of `blocks`, the last ones of the tower; grid_hw: N = h w patches of a window;
    proxy: unit patch features [n, a, b, D] of another encoder over the same windows, on a grid of their own.
    """

    def __init__(self, blocks: Sequence[Block], inputs: Sequence[Tensor], grid_hw: HW, proxy: Tensor) -> None:
        self.blocks, self.inputs, self.grid_hw, self.proxy = blocks, inputs, grid_hw, proxy
        self.block, self.x = blocks[-1], inputs[-1]

    @cached_property
    def qkv(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of the last block: each [n, heads, 1 + N, d]."""
        return self.block.qkv(self.x)

    def patches(self, tokens: Tensor) -> Tensor:
        """[n, 1 + N, width] without CLS, on the window's grid: [n, h, w, width]."""
        return tokens[:, 1:].reshape(len(tokens), *self.grid_hw, -1)


def maskclip(tokens: Tokens) -> Tensor:
    """O(v): no attention, no residual, no FFN (Zhou et al. 2022, as ClearCLIP's authors compare with it).

    MaskCLIP's own code for ViTs keeps the residual and the FFN.
    """
    return tokens.patches(tokens.block.out(tokens.qkv[2]))


def sclip(tokens: Tokens) -> Tensor:
    """X + O((softmax(s q qT) + softmax(s k kT)) v), FFN kept (Wang et al. 2024)."""
    q, k, v = tokens.qkv
    attended = tokens.block.attend(q, q, v) + tokens.block.attend(k, k, v)
    return tokens.patches(tokens.block.residual(tokens.x, tokens.block.out(attended)))


def clearclip(tokens: Tokens) -> Tensor:
    """O(softmax(s q qT) v), no residual, no FFN (Lan et al. 2024)."""
    q, _, v = tokens.qkv
    return tokens.patches(tokens.block.out(tokens.block.attend(q, q, v)))


def naclip(tokens: Tokens) -> Tensor:
    """O(softmax(s k kT + w) v), w_ij = exp(-|p_i - p_j|^2 / 2 SIGMA^2) and 0 for CLS; no residual, no FFN."""
    _, k, v = tokens.qkv
    near = _neighbourhood(tokens.grid_hw).to(k.device)
    return tokens.patches(tokens.block.out(tokens.block.attend(k, k, v, near)))


def _neighbourhood(grid_hw: HW) -> Tensor:
    """float32 [1 + N, 1 + N], patches row by row after CLS."""
    rows, columns = torch.meshgrid(*(torch.arange(float(side)) for side in grid_hw), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], 1)
    near = torch.zeros(len(places) + 1, len(places) + 1)
    near[1:, 1:] = torch.exp(-(torch.cdist(places, places) ** 2) / (2 * SIGMA**2))
    return near


def surgery(tokens: Tokens) -> Tensor:
    """A second path beside the last blocks: X + sum of their O(softmax(s v vT) v), no FFN (Li et al. 2023)."""
    blocks, inputs = tokens.blocks[-SURGERY_BLOCKS:], tokens.inputs[-SURGERY_BLOCKS:]
    path = inputs[0]
    for block, x in zip(blocks, inputs, strict=True):
        _, _, v = block.qkv(x)
        path = path + block.out(block.attend(v, v, v))
    return tokens.patches(path)


def proxyclip(tokens: Tokens) -> Tensor:
    """O(softmax(S') v) on the proxy's grid, v resized to it; S = F FT, S' = GAMMA (S - BETA mean S), negatives out.

    Lan et al. 2024, whose DINO sees the window alone: our features are the whole photo's, computed once for the head as
    well. A patch always attends to itself: where all features are alike nothing else would be left.
    """
    n, a, b, _ = tokens.proxy.shape
    v = tokens.qkv[2][:, :, 1:].float()
    heads, width = v.shape[1], v.shape[-1]
    grid = v.transpose(2, 3).reshape(n, heads * width, *tokens.grid_hw)
    with torch.autocast(v.device.type, enabled=False):
        resized = torch.nn.functional.interpolate(grid, (a, b), mode="bilinear", align_corners=False)
        features = tokens.proxy.flatten(1, 2)
        similar = features @ features.transpose(1, 2)
        similar = GAMMA * (similar - BETA * similar.mean((1, 2), keepdim=True))
        itself = torch.eye(a * b, dtype=torch.bool, device=v.device)
        weight = similar.masked_fill((similar < 0) & ~itself, -torch.inf).softmax(-1)
        attended = weight[:, None] @ resized.view(n, heads, width, a * b).transpose(2, 3)
    return tokens.block.out(attended).reshape(n, a, b, -1)


class Variant(NamedTuple):
    """run: the last block's output [n, a, b, width], any grid over the window; blocks: how many it needs at least."""

    run: Callable[[Tokens], Tensor]
    blocks: int = 1


VARIANTS = {
    "maskclip": Variant(maskclip),
    "sclip": Variant(sclip),
    "clearclip": Variant(clearclip),
    "naclip": Variant(naclip),
    "surgery": Variant(surgery, SURGERY_BLOCKS),
    "proxyclip": Variant(proxyclip),
}


def check_variants(names: Sequence[str]) -> None:
    """UserError for a name that is not in VARIANTS."""
    for name in names:
        if name not in VARIANTS:
            raise UserError(f"clip.variants has {name!r}; choose from {', '.join(VARIANTS)}")


@torch.inference_mode()
def window_maps(
    encoder: ClipEncoder,
    frame: NDArray[np.uint8],
    where: Windows,
    names: Sequence[str],
    features: NDArray[np.float32],
) -> tuple[dict[str, NDArray[np.float16]], Tensor]:
    """Dense maps over a photo's patch grid, and the windows' CLS embeddings.

    frame: uint8 [H, W, 3], the photo as `where` cuts it; features: float32 [h', w', D] patch features of another
    encoder, whose grid the maps take. Returns variant -> float16 [h', w', E], the mean of their unit vectors over the
    windows that cover a patch, and float32 [n, E] unit rows.
    """
    depth = max((VARIANTS[name].blocks for name in names), default=1)
    proxy = torch.from_numpy(features).to(encoder.device)
    side = where.side // encoder.patch_px

    def run(starts: NDArray[np.int64]) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        part = Windows(where.frame_hw, where.side, starts)
        inputs = encoder.inputs(part.cut(frame), depth)
        tokens = Tokens(encoder.blocks[-depth:], inputs, (side, side), _under(part, proxy))
        maps = {}
        for name in names:
            with compute.autocast(encoder.device, encoder.dtype):
                out = VARIANTS[name].run(tokens)
            maps[name] = _onto_grid(part, encoder.project(out), features.shape[:2])
        return encoder.cls(inputs[-1]), maps

    cls, maps = zip(*encoder.over(where.starts_yx, where.side, run), strict=True)
    return {name: _mean([part[name] for part in maps]) for name in names}, torch.cat(cls)


def _mean(parts: Sequence[tuple[Tensor, Tensor]]) -> NDArray[np.float16]:
    """float16 [h', w', E] of sums [h', w', E] and how many windows each cell is a sum of [h', w', 1]."""
    total, cover = (sum(tensors[1:], tensors[0]) for tensors in zip(*parts, strict=True))
    return np.asarray((total / cover).cpu(), np.float16)


def _onto_grid(where: Windows, values: Tensor, grid_hw: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Values [n, a, b, E] of the windows summed on the photo's grid [h', w', E], and how many they are [h', w', 1]."""
    rows, columns = (
        torch.from_numpy(geometry.onto_grid(starts, where.side, length, tokens, cells)).to(values.device)
        for starts, length, tokens, cells in zip(
            where.starts_yx.T, where.frame_hw, values.shape[1:3], grid_hw, strict=True
        )
    )
    cover = torch.einsum("ni,nj->ij", rows.sum(-1), columns.sum(-1))
    return torch.einsum("nia,nabe,njb->ije", rows, values, columns), cover[..., None]


def _under(where: Windows, features: Tensor) -> Tensor:
    """Unit features [n, a, b, D] under each window, a and b as fine as the photo's grid [h', w', D] is there."""
    grid_hw = features.shape[:2]
    points = [max(1, round(where.side * cells / px)) for px, cells in zip(where.frame_hw, grid_hw, strict=True)]
    rows, columns = (
        torch.from_numpy(geometry.from_grid(starts, where.side, length, count, cells)).to(features.device)
        for starts, length, count, cells in zip(where.starts_yx.T, where.frame_hw, points, grid_hw, strict=True)
    )
    return unit(torch.einsum("nai,ijd,nbj->nabd", rows, features, columns))
