"""SAM 2.1's image mode (Ravi et al., arXiv:2408.00714): timm's Hiera, and the prompt encoder and mask decoder of SAM.

Data flow: a file of Meta's, or of transformers -> its tensors as sam2_names has them -> Sam2. Used by
labelgen.models.sam. What is other than in SAM: a photo is stretched to the square input, not padded; two maps of finer
patches go into the mask decoder's upsampling; its tokens begin with one that asks whether there is an object (the
answer, like the memory of a video, is not used for pictures: SAM2ImagePredictor does not either); predicted IoUs are
a sigmoid's; and masks are enlarged to the photo in one step.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from labelgen.models import sam2_names, weight_files
from labelgen.models.libraries import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer, timm

INPUT_PX = 1024
CHANNELS = 256
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of pixels in 0..1, as ImageNet's."""
SIZES = {f"sam2.1_hiera_{size}": f"sam2_hiera_{size}" for size in ("tiny", "small", "base_plus", "large")}
"""sam.name -> timm's architecture."""
VIDEO_PARAMETERS = 7_653_618
"""In each release file besides: memory, object pointers, the object's score."""


class Detail(NamedTuple):
    """An image embedding float32 [1, C, g, g] and the finer maps that the mask decoder adds, in the order in which its
    upsampling makes pixels: half [1, g^2, 4, C / 4], quarter [1, 16 g^2, C / 8]."""

    embedding: Tensor
    half: Tensor
    quarter: Tensor


class HieraEncoder(nn.Module):
    """Hiera with its feature pyramid: normalised pixels [B, 3, S, S] -> an image embedding [B, C, S / 16, S / 16]."""

    def __init__(self, trunk: Any, input_px: int, channels: int) -> None:
        super().__init__()
        self.img_size = input_px  # Sam.preprocess reads it under this name
        trunk.head = nn.Identity()
        self.trunk = trunk
        widths = [int(stage["num_chs"]) for stage in reversed(trunk.feature_info)]
        self.convs = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        self.conv_s0 = nn.Conv2d(channels, channels // 8, 1)
        self.conv_s1 = nn.Conv2d(channels, channels // 4, 1)
        self.no_mem_embed = nn.Parameter(trunk.pos_embed.new_zeros(1, 1, channels))

    def forward(self, pixels: Tensor) -> Tensor:
        return self._embedding(self.trunk.forward_intermediates(pixels, intermediates_only=True))

    def detail(self, pixels: Tensor) -> Detail:
        """The same with the finer maps, of one image."""
        maps = self.trunk.forward_intermediates(pixels, intermediates_only=True)
        half, quarter = self.conv_s1(self.convs[2](maps[1])).float(), self.conv_s0(self.convs[3](maps[0])).float()
        side = maps[2].shape[-1]
        halves = half.view(1, -1, side, 2, side, 2).permute(0, 2, 4, 3, 5, 1)
        quarters = quarter.view(1, -1, side, 2, 2, side, 2, 2).permute(0, 2, 5, 3, 6, 4, 7, 1)
        placed = halves.reshape(1, side**2, 4, -1), quarters.reshape(1, 16 * side**2, -1)
        return Detail(self._embedding(maps).float(), *placed)

    def _embedding(self, maps: list[Tensor]) -> Tensor:
        """Of the four stages' maps: only the coarsest is added to another, as SAM 2 was trained."""
        coarsest = F.interpolate(self.convs[0](maps[3]).float(), scale_factor=2.0, mode="nearest")
        embedding: Tensor = self.convs[1](maps[2]) + coarsest + self.no_mem_embed.view(1, -1, 1, 1)
        return embedding


class Sam2Decoder(MaskDecoder):  # type: ignore[misc]
    """SAM's mask decoder with one more token; labelgen.models.sam_network.PointDecoder runs it."""

    def __init__(self, channels: int, heads: int = 8, mlp: int = 2048) -> None:
        transformer = TwoWayTransformer(depth=2, embedding_dim=channels, mlp_dim=mlp, num_heads=heads)
        super().__init__(transformer_dim=channels, transformer=transformer, iou_head_hidden_dim=channels)
        self.obj_score_token = nn.Embedding(1, channels)


class Sam2(Sam):  # type: ignore[misc]
    """A Sam whose input is the whole photo, stretched."""


def build(name: str) -> Sam2:
    """The untrained model of a sam.name."""
    return assemble(timm.create_model(SIZES[name], pretrained=False, num_classes=0), INPUT_PX, CHANNELS)


def assemble(trunk: Any, input_px: int, channels: int, **decoder: int) -> Sam2:
    """SAM 2.1 on a Hiera of timm; `decoder`: heads, mlp."""
    grid = input_px // 16
    return Sam2(
        HieraEncoder(trunk, input_px, channels),
        PromptEncoder(channels, (grid, grid), (input_px, input_px), mask_in_chans=16),
        Sam2Decoder(channels, **decoder),
        pixel_mean=[255 * value for value in MEAN],
        pixel_std=[255 * value for value in STD],
    )


def load(name: str, path: Path) -> Sam2:
    """The model of a sam.name with the weights of a file; UserError unless every key and shape fits."""
    model = build(name)
    fill(model, path, name)
    return model


def fill(model: Sam2, path: Path, name: str) -> None:
    """Meta's release (*.pt), or transformers' (*.safetensors); UserError as load."""
    with weight_files.loading(path, name):
        model.load_state_dict(sam2_names.renamed(weight_files.read_state(path)))
