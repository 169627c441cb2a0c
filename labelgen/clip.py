"""CLIP by open_clip: unit text embeddings, unit crop embeddings, and its last blocks opened for labelgen.dense.

Data flow: words -> prototypes (the text tower alone runs); crops and windows of a photo -> embeddings, and what the
dense variants read.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from labelgen import compute, weight_files
from labelgen.clip_source import ClipConfig, Source, build, fill, find_source

Floats = NDArray[np.float32]
T = TypeVar("T", bound=np.generic)
P = TypeVar("P")
PLANES_WIDTH, PLANES_SCORES = 16, 3
"""A row's memory: so many times float32 [N, width] and [heads, N, N]; above what was measured with B/16 and L/14."""
MEND = "set clip.window_px smaller, or device=cpu"


class Block:
    """One of open_clip's residual attention blocks in its parts; x is [n, 1 + N, width], CLS first."""

    def __init__(self, block: Any) -> None:
        self.module = block
        self.heads: int = block.attn.num_heads
        self.scale: float = block.attn.head_dim**-0.5

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of LN1(x), each [n, heads, 1 + N, d]."""
        attention = self.module.attn
        n, tokens, width = x.shape
        packed = F.linear(self.module.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = packed.view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return q, k, v

    def out(self, heads: Tensor) -> Tensor:
        """The attention's out-projection: [n, heads, T, d] -> [n, T, width]."""
        projected: Tensor = self.module.attn.out_proj(heads.transpose(1, 2).flatten(2))
        return projected

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
        """softmax(s q kT + bias) v, the softmax in float32."""
        scores = (q @ k.transpose(-2, -1)).float() * self.scale + bias
        return scores.softmax(-1).to(v.dtype) @ v

    def residual(self, x: Tensor, attended: Tensor) -> Tensor:
        """What the block makes of x and its attention's output [n, T, width]: both residuals, FFN between."""
        x = x + self.module.ls_1(attended)
        x = x + self.module.ls_2(self.module.mlp(self.module.ln_2(x)))
        return x


class ClipEncoder:
    """A frozen CLIP. Images come as uint8 [n, S, S, 3] RGB, any S that is a multiple of `patch_px`."""

    def __init__(self, model: nn.Module, source: Source, device: torch.device, dtype: torch.dtype, batch: int) -> None:
        self.model = compute.frozen(model, device)
        self.visual = self.model.visual
        self.source, self.device, self.dtype = source, device, dtype
        self.batches = compute.Batches("CLIP", MEND, device, batch, on_cpu=32)
        self.blocks = [Block(block) for block in self.visual.transformer.resblocks]
        self.patch_px: int = self.visual.patch_size[0]
        self.image_px: int = self.visual.image_size[0]
        self.text_width: int = self.visual.proj.shape[1]
        self.resample = getattr(Image.Resampling, source.interpolation.upper())
        self._mean = torch.tensor(source.mean, device=device).view(3, 1, 1) * 255
        self._std = torch.tensor(source.std, device=device).view(3, 1, 1) * 255

    @torch.inference_mode()
    def text(self, words: Sequence[str], templates: Sequence[str]) -> Floats:
        """float32 [K, E] unit rows: each word in each template ("a photo of a {}."), averaged. No image tower runs."""
        rows = []
        for word in words:
            tokens = self.source.tokenizer([template.replace("{}", word) for template in templates])
            rows.append(unit(unit(self.model.encode_text(tokens.to(self.device)).float()).mean(0)))
        return torch.stack(rows).cpu().numpy()

    @torch.inference_mode()
    def crops(self, images: NDArray[np.uint8]) -> Tensor:
        """Unit CLS embeddings float32 [n, E] of uint8 [n, S, S, 3]."""
        parts = self.over(images, images.shape[1], lambda part: self.cls(self.inputs(part, 1)[-1]))
        return torch.cat(parts) if parts else torch.zeros(0, self.text_width, device=self.device)

    def over(self, rows: NDArray[T], side_px: int, run: Callable[[NDArray[T]], P]) -> list[P]:
        """What `run` makes of the rows, as many at a time as fit; each is a crop or window of side_px."""
        tokens = (side_px // self.patch_px) ** 2
        planes = PLANES_WIDTH * tokens * self.visual.conv1.out_channels
        planes += PLANES_SCORES * tokens**2 * self.blocks[-1].heads
        return self.batches.over(rows, run, 4 * planes)

    def inputs(self, images: NDArray[np.uint8], count: int) -> list[Tensor]:
        """Inputs [n, 1 + N, width] of the last `count` blocks, in their order."""
        kept = []
        with compute.autocast(self.device, self.dtype):
            x = self.embed(self._pixels(images))
            for i, block in enumerate(self.blocks[:-1]):
                if i >= len(self.blocks) - count:
                    kept.append(x)
                x = block.module(x)
        return [*kept, x]

    def _pixels(self, images: NDArray[np.uint8]) -> Tensor:
        """Normalised float32 [n, 3, S, S]."""
        return (torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() - self._mean) / self._std

    def embed(self, pixels: Tensor) -> Tensor:
        """VisionTransformer._embeds of normalised [n, 3, H, W], with position embeddings for this size."""
        patches = self.visual.conv1(pixels)
        cls = self.visual.class_embedding.expand(len(pixels), 1, -1)
        x = torch.cat([cls, patches.flatten(2).transpose(1, 2)], 1) + self._positions(patches.shape[-2:])
        embedded: Tensor = self.visual.ln_pre(x)
        return embedded

    def _positions(self, grid_hw: torch.Size) -> Tensor:
        """Position embeddings [1 + N, width] resized as open_clip resizes those of a checkpoint."""
        positions: Tensor = self.visual.positional_embedding
        if tuple(grid_hw) == tuple(self.visual.grid_size):
            return positions
        grid = positions[1:].view(1, *self.visual.grid_size, -1).permute(0, 3, 1, 2).float()
        with torch.autocast(self.device.type, enabled=False):
            resized = F.interpolate(grid, grid_hw, mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([positions[:1], resized[0].flatten(1).T])

    def cls(self, x: Tensor) -> Tensor:
        """Unit image embeddings float32 [n, E] from the last block's input; only the CLS token goes through it."""
        block = self.blocks[-1]
        with compute.autocast(self.device, self.dtype):
            q, k, v = block.qkv(x)
            return self.project(block.residual(x[:, :1], block.out(block.attend(q[:, :, :1], k, v))))[:, 0]

    def project(self, tokens: Tensor) -> Tensor:
        """LN_post, visual projection, unit length: [..., width] -> float32 [..., E]."""
        with torch.autocast(self.device.type, enabled=False):
            return unit(self.visual.ln_post(tokens.float()) @ self.visual.proj)

    def identity(self) -> dict[str, Any]:
        """What the embeddings depend on, as JSON: weight digest, size and normalisation of the pixels."""
        source = self.source
        return {
            "weights": source.path.name,
            "sha256": weight_files.digest(source.path),
            "image_px": self.image_px,
            "patch_px": self.patch_px,
            "quick_gelu": bool(source.model.get("quick_gelu", False)),
            "mean": list(source.mean),
            "std": list(source.std),
            "interpolation": source.interpolation,
        }


def unit(x: Tensor) -> Tensor:
    """Rows of length one."""
    return F.normalize(x, dim=-1)


def load_clip(config: ClipConfig, weights_dir: str | Path, device: str, dtype: str) -> ClipEncoder:
    """The CLIP of an open_clip architecture and tag, or of a model config and a weight file in weights_dir.

    UserError when the name, tag or file is not there, when the digest is another, or when the file is of another model.
    """
    on = compute.torch_device(device)
    source = find_source(config, weights_dir)
    model = build(source.model, config.name)
    with weight_files.loading(source.path, config.name):
        fill(model, source.path)
    return ClipEncoder(model, source, on, compute.torch_dtype(dtype, on), config.batch_size)
