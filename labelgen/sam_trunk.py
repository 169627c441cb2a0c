"""SAM's image encoder as a trunk of patch features.

Data flow: labelgen.sam's image encoder -> its image embedding [h, w, C] for labelgen.patch_encoder.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from labelgen import compute, sam_vit, weight_files
from labelgen.core.geometry import HW
from labelgen.layers import Layer, Layers
from labelgen.sam import SamEncoder


class SamTrunk:
    """See labelgen.patch_encoder.Trunk. Its one layer is the neck's output, what the mask decoder sees."""

    interpolation = "bilinear"
    """As labelgen.sam resizes photos."""

    def __init__(self, sam: SamEncoder, layers: Sequence[int], join: str) -> None:
        """UserError for a layer that there is not."""
        self._sam, self.device, self.dtype = sam, sam.device, sam.dtype
        prompts = sam.model.prompt_encoder
        there = [Layer(prompts.embed_dim, sam.input_px // prompts.image_embedding_size[0])]
        self._layers = Layers(layers, join, there, "sam")
        self.patch_px, self.width = self._layers.patch_px, self._layers.width
        self.canvas_hw: HW | None = (sam.input_px, sam.input_px)
        self.mean, self.std = (
            tuple((value.flatten() / 255).tolist()) for value in (sam.model.pixel_mean, sam.model.pixel_std)
        )

    @torch.inference_mode()
    def maps(self, pixels: Tensor) -> Tensor:
        """float32 [B, h, w, C]."""
        with compute.autocast(self.device, self._sam.dtype):
            embedding = sam_vit.embed(self._sam.model.image_encoder, pixels)
        return self._layers.joined([embedding.permute(0, 2, 3, 1)])

    def identity(self) -> dict[str, Any]:
        """As Trunk's."""
        path = self._sam.path
        return {"weights": path.name, "sha256": weight_files.digest(path), **self._layers.identity()}
