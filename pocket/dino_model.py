"""The pocket DINOv2's network: timm's own ViT, built from constructor arguments alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labelgen.models.libraries import resample_abs_pos_embed, set_fused_attn, timm
from pocket import storage
from pocket.dino_data import PATCH_PX, SIZE_PX

NAME = "vit_small_patch14_dinov2"
WIDTH, DEPTH, HEADS = 192, 6, 3
MODEL_ARGS: dict[str, Any] = {
    "img_size": SIZE_PX, "patch_size": PATCH_PX, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS,
    "init_values": None,
}  # fmt: skip


def build() -> Any:
    """The network with random weights, as labelgen.models.trunks builds it too."""
    set_fused_attn(False)  # its backward pass is slow on processors; weights do not depend on it
    return timm.create_model(NAME, pretrained=False, num_classes=0, dynamic_img_size=True, **MODEL_ARGS)


def normalise(model: Any, photos: NDArray[np.uint8]) -> Tensor:
    """float32 [B, 3, H, W] of photos uint8 [B, H, W, 3], by the mean and std of timm's settings for the name."""
    settings = model.pretrained_cfg
    pixels = torch.from_numpy(np.ascontiguousarray(photos)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(settings[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (pixels - mean) / std


def features(model: Any, pixels: Tensor, corner_yx: tuple[int, int] | None = None) -> Tensor:
    """[B, h, w, D] after the final norm.

    pixels float32 [B, 3, H, W]: whole photos, or crops whose first patch is corner_yx of the full patch grid.
    """
    h, w = (side // PATCH_PX for side in pixels.shape[2:])
    tokens = model.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
    tokens = torch.cat([model.cls_token.expand(len(tokens), -1, -1), tokens], 1) + positions(model, (h, w), corner_yx)
    encoded: Tensor = model.norm(model.blocks(tokens))
    return encoded[:, model.num_prefix_tokens :].reshape(len(tokens), h, w, -1)


def positions(model: Any, grid_hw: tuple[int, int], corner_yx: tuple[int, int] | None) -> Tensor:
    """Position embeddings [1, 1 + h w, D]: timm's interpolation for whole photos, a slice of the grid for crops."""
    embedded: Tensor = model.pos_embed
    if corner_yx is None:
        resampled: Tensor = resample_abs_pos_embed(
            embedded, list(grid_hw), old_size=list(model.patch_embed.grid_size), num_prefix_tokens=1
        )
        return resampled
    (top, left), (h, w) = corner_yx, grid_hw
    grid = embedded[:, 1:].view(1, *model.patch_embed.grid_size, -1)[:, top : top + h, left : left + w]
    return torch.cat([embedded[:, :1], grid.reshape(1, h * w, -1)], 1)


def whiten_patch_embedding(model: nn.Module, photos: NDArray[np.uint8], rng: np.random.Generator) -> None:
    """First filters = whitened principal components of patches, both signs: learnt from far faster than random ones."""
    projection: Any = model.patch_embed.proj  # type: ignore[union-attr]
    corners = rng.integers(0, 140, (4000, 2))
    chosen = rng.integers(0, len(photos), len(corners))
    size = PATCH_PX
    patches = np.stack([photos[i, y : y + size, x : x + size] for i, (y, x) in zip(chosen, corners, strict=True)])
    flat = normalise(model, patches).flatten(1)
    values, vectors = torch.linalg.eigh(torch.cov(flat.T))
    white = (vectors / (values + 1e-2).sqrt()).T.flip(0)[: WIDTH // 2]
    with torch.no_grad():
        projection.weight.copy_(0.3 * torch.cat([white, -white]).view(WIDTH, 3, size, size))
        projection.bias.copy_(-0.3 * torch.cat([white, -white]) @ flat.mean(0))
        model.pos_embed.normal_(std=0.1)  # type: ignore[operator]


def save(model: nn.Module, out: Path) -> None:
    """Writes out/dinov2.safetensors and out/dinov2.json, which states its SHA-256."""
    digest = storage.write(out / "dinov2.safetensors", model.state_dict())
    fields = {"name": NAME, "model_args": MODEL_ARGS, "sha256": digest, "licence": "Apache-2.0"}
    (out / "dinov2.json").write_text(json.dumps(fields, indent=2) + "\n")
