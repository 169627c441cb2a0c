"""One small random member of each family of encoders of timm, in files as labelgen.models.trunks reads them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from labelgen.models.libraries import timm
from labelgen.models.patch_encoder import PatchEncoder
from labelgen.models.trunks import load_timm
from tests.worlds import tiny_models

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
VIT = {"patch_size": 8, "img_size": 48, "embed_dim": 32, "depth": 2, "num_heads": 2}
SWIN = {"img_size": 64, "embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4), "window_size": 4}
CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}


class Family(NamedTuple):
    """What a person knows of it: which tokens come before the patches, of which pixels, stride and width."""

    name: str
    model_args: dict[str, Any]
    prefix: int
    pixels: tuple[tuple[float, ...], tuple[float, ...]]
    patch_px: int = 8
    width: int = 32
    size_px: int = 48
    blocks: str = "blocks"
    norm: str = "norm"


FAMILIES = {
    "dinov2": Family("vit_small_patch14_dinov2", VIT, 1, IMAGENET),
    "dinov2 with registers": Family("vit_small_patch14_reg4_dinov2", VIT, 5, IMAGENET),
    "dinov3": Family("vit_small_patch16_dinov3", VIT, 5, IMAGENET),
    "mae": Family("vit_base_patch16_224.mae", VIT, 1, IMAGENET),
    "siglip 2": Family("vit_base_patch16_siglip_224.v2_webli", VIT, 0, HALF),
    "beit": Family("beit_base_patch16_224", VIT, 1, HALF, norm="fc_norm"),
    "supervised": Family("vit_tiny_patch16_224.augreg_in21k", VIT, 1, HALF),
    "swin": Family("swin_tiny_patch4_window7_224", SWIN, 0, IMAGENET, 32, 128, 192, "layers"),
    "convnext": Family(
        "convnext_tiny", CONVNEXT, 0, IMAGENET, 32, 32, 192, "stages", "head.norm"
    ),
}  # fmt: skip


def build(family: Family) -> Any:
    """The member with its classifier, as its file on a hub has it."""
    torch.manual_seed(5)
    return tiny_models.shaken(timm.create_model(family.name, **family.model_args))


def write(folder: Path) -> Path:
    """All members."""
    for title, family in FAMILIES.items():
        state = {key: value.clone().contiguous() for key, value in build(family).state_dict().items()}
        save_file(state, folder / f"{title}.safetensors")
        (folder / f"{title}.json").write_text(json.dumps({"name": family.name, "model_args": family.model_args}))
    return folder


def load(folder: Path, title: str, **fields: Any) -> PatchEncoder:
    """A member on its own size, unless the fields of config.encoder say otherwise."""
    known = {"name": f"{title}.json", "weights": f"{title}.safetensors", "sha256": "", "layers": (-1,)}
    known |= {"join": "concatenate", "size_px": FAMILIES[title].size_px}
    known |= {"height_px": 0, "window_px": 0, "stride_px": 0}
    return load_timm(SimpleNamespace(**{**known, **fields}), folder, "cpu", "float32")
