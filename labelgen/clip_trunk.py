"""CLIP's own visual tower as a trunk of patch features: plain hidden states, not the dense variants of labelgen.dense.

Data flow: labelgen.clip's tower -> maps [h, w, width] for labelgen.patch_encoder.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from labelgen import compute, weight_files
from labelgen.clip import ClipEncoder
from labelgen.core.geometry import HW
from labelgen.layers import Layer, Layers


class ClipTrunk:
    """See labelgen.patch_encoder.Trunk. A layer is a block's output after LN_post, before the visual projection."""

    canvas_hw: HW | None = None
    """Position embeddings are resized."""

    def __init__(self, clip: ClipEncoder, layers: Sequence[int], join: str) -> None:
        """UserError for a layer that there is not."""
        self._clip, self.device, self.dtype = clip, clip.device, clip.dtype
        there = [Layer(clip.visual.conv1.out_channels, clip.patch_px)] * len(clip.blocks)
        self._layers = Layers(layers, join, there, "clip")
        self.patch_px, self.width = self._layers.patch_px, self._layers.width
        self.mean, self.std = clip.source.mean, clip.source.std
        self.interpolation = clip.source.interpolation

    @torch.inference_mode()
    def maps(self, pixels: Tensor) -> Tensor:
        """float32 [B, h, w, D]; the CLS token is left out."""
        clip, kept = self._clip, []
        grid_hw = [side // self.patch_px for side in pixels.shape[-2:]]
        with compute.autocast(clip.device, clip.dtype):
            x = clip.embed(pixels)
            for i, block in enumerate(clip.blocks[: self._layers.indices[-1] + 1]):
                x = block.module(x)
                if i in self._layers.indices:
                    kept.append(clip.visual.ln_post(x)[:, 1:].unflatten(1, grid_hw))
        return self._layers.joined(kept)

    def identity(self) -> dict[str, Any]:
        """As Trunk's."""
        path = self._clip.source.path
        return {"weights": path.name, "sha256": weight_files.digest(path), **self._layers.identity()}
