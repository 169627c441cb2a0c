"""MobileSAM (Zhang et al., arXiv:2306.14289): segment_anything's Sam with timm's TinyViT-5M for an image encoder.

Data flow: release file mobile_sam.pt -> its keys as timm names them -> Sam. Used by labelgen.models.sam.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from labelgen.models import weight_files
from labelgen.models.libraries import LayerNorm2d, MaskDecoder, PromptEncoder, Sam, TinyVit, TwoWayTransformer

INPUT_PX = 1024
STRIDE_PX = 16
CHANNELS = 256
PREFIX = "image_encoder."
CLASSIFIER = ("norm_head.weight", "norm_head.bias", "head.weight", "head.bias")
"""In the release file, but no part of what encodes an image."""
MERGING = re.compile(r"^layers\.(\d)\.downsample\.")
RENAMES = (
    (re.compile(r"^patch_embed\.seq\.0\."), "patch_embed.conv1."),
    (re.compile(r"^patch_embed\.seq\.2\."), "patch_embed.conv2."),
    (re.compile(r"^layers\.(\d)\.blocks\."), r"stages.\1.blocks."),
    (re.compile(r"(conv\d?)\.c\."), r"\1.conv."),
)
"""Names within the image encoder: the release file's, timm's."""


class MobileEncoder(nn.Module):
    """TinyViT without its classifier, with SAM's neck.

    Its last stage does not halve the resolution: normalised pixels float [B, 3, img_size, img_size] become an image
    embedding [B, channels, img_size / 16, img_size / 16].
    """

    def __init__(self, vit: TinyVit, input_px: int, channels: int) -> None:
        super().__init__()
        self.img_size = input_px  # Sam.preprocess reads it under this name
        self.patch_embed, self.stages = vit.patch_embed, vit.stages
        merging: Any = vit.stages[-1].downsample
        merging.conv2.conv.stride = (1, 1)
        self.neck = nn.Sequential(
            nn.Conv2d(vit.num_features, channels, 1, bias=False),
            LayerNorm2d(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            LayerNorm2d(channels),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self.neck(self.stages(self.patch_embed(pixels)))
        return embedding


def build() -> Sam:
    """MobileSAM, untrained: TinyViT-5M at 1024 px, prompt encoder and mask decoder as in every SAM."""
    vit = TinyVit(
        num_classes=0,
        embed_dims=(64, 128, 160, 320),
        depths=(2, 2, 6, 2),
        num_heads=(2, 4, 5, 10),
        window_sizes=(7, 7, 14, 7),
        drop_path_rate=0.0,
    )
    grid = INPUT_PX // STRIDE_PX
    transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=2048, num_heads=8)
    return Sam(
        MobileEncoder(vit, INPUT_PX, CHANNELS),
        PromptEncoder(CHANNELS, (grid, grid), (INPUT_PX, INPUT_PX), mask_in_chans=16),
        MaskDecoder(transformer_dim=CHANNELS, transformer=transformer),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )


def as_timm(key: str) -> str:
    """timm's name of a key of the release file."""
    name = key.removeprefix(PREFIX)
    if name == key:
        return key
    name = MERGING.sub(lambda match: f"stages.{int(match[1]) + 1}.downsample.", name)  # timm merges in the stage after
    for pattern, replacement in RENAMES:
        name = pattern.sub(replacement, name)
    return PREFIX + name


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The release file's tensors, less the classifier's, under timm's names; ValueError when two keys mean the same."""
    tensors: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.removeprefix(PREFIX) in CLASSIFIER:
            continue
        if as_timm(key) in tensors:
            raise ValueError(f"a second key for {as_timm(key)}")
        tensors[as_timm(key)] = tensor
    return tensors


def load(path: Path) -> Sam:
    """MobileSAM with the weights of a release file; UserError unless every key and shape fits."""
    model = build()
    with weight_files.loading(path, "mobile_sam"):
        model.load_state_dict(renamed(weight_files.read_state(path)))
    return model
