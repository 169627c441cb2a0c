"""DINOv2's position embeddings where its own code resizes them otherwise than timm. Used by labelgen.timm_encoder."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NO_REGISTERS = {f"vit_{size}_patch14_dinov2" for size in ("small", "base", "large", "giant")}
"""timm's architectures that this concerns."""
OFFSET = 0.1
"""Patches that Meta's code adds to a side before it scales them."""


class OriginalPositions:
    """timm's `_pos_embed` with other grids' position embeddings as DINOv2's own vision_transformer.py resizes them.

    Bicubic, not antialiased, by the scale (side + OFFSET) / trained side: so the models without registers were trained
    and measured. Those with registers are antialiased, to the grid's size, as timm does it.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, x: Tensor) -> Tensor:
        """Embedded patches [B, h, w, D] -> tokens [B, 1 + h w, D]."""
        cls = self.model.cls_token.expand(len(x), -1, -1)
        return torch.cat([cls, x.flatten(1, 2)], 1) + self._at(*x.shape[1:3])

    def _at(self, h: int, w: int) -> Tensor:
        """[1, 1 + h w, D]."""
        positions: Tensor = self.model.pos_embed
        rows, columns = self.model.patch_embed.grid_size
        if (h, w) == (rows, columns):
            return positions
        grid = positions[:, 1:].view(1, rows, columns, -1).permute(0, 3, 1, 2)
        scale = (h + OFFSET) / rows, (w + OFFSET) / columns
        with torch.autocast(grid.device.type, enabled=False):
            resized = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat([positions[:, :1], resized.flatten(2).transpose(1, 2)], 1)
