"""The pocket SAM as segment_anything's own classes build it: constructor arguments in sam.json, weights beside.

sam.json holds `image_encoder`, `prompt_encoder`, `mask_decoder` (with its `transformer`), `pixel_mean`, `pixel_std`
and `sha256`, the digest of sam.safetensors.
"""

import copy
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from labelgen.models.libraries import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from pocket import storage

SIZE_PX = 192
PATCH_PX = 12
EMBED = 48
CONFIG: dict[str, Any] = {
    "image_encoder": {
        "img_size": SIZE_PX, "patch_size": PATCH_PX, "embed_dim": 160, "depth": 5, "num_heads": 5, "mlp_ratio": 3.6,
        "out_chans": EMBED, "use_abs_pos": True, "use_rel_pos": False,
    },
    "prompt_encoder": {
        "embed_dim": EMBED, "image_embedding_size": [SIZE_PX // PATCH_PX] * 2, "input_image_size": [SIZE_PX] * 2,
        "mask_in_chans": 8,
    },
    "mask_decoder": {
        "transformer_dim": EMBED, "num_multimask_outputs": 3, "iou_head_depth": 3, "iou_head_hidden_dim": 96,
        "transformer": {"depth": 2, "embedding_dim": EMBED, "num_heads": 2, "mlp_dim": 128},
    },
    "pixel_mean": [123.675, 116.28, 103.53],
    "pixel_std": [58.395, 57.12, 57.375],
}  # fmt: skip


def build(config: Mapping[str, Any]) -> Sam:
    """A Sam with fresh weights from constructor arguments as sam.json holds them."""
    decoder = dict(config["mask_decoder"])
    decoder["transformer"] = TwoWayTransformer(**decoder["transformer"])
    return Sam(
        ImageEncoderViT(**config["image_encoder"]),
        PromptEncoder(**config["prompt_encoder"]),
        MaskDecoder(**decoder),
        pixel_mean=config["pixel_mean"],
        pixel_std=config["pixel_std"],
    )


def load(folder: str | Path) -> Sam:
    """The Sam of folder/sam.json and folder/sam.safetensors, float32, in evaluation mode.

    Raises:
        ValueError: the weights are not those whose digest sam.json states.
    """
    config = json.loads(Path(folder, "sam.json").read_text(encoding="utf-8"))
    path = Path(folder, "sam.safetensors")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != config["sha256"]:
        raise ValueError(f"{path}: sha256 {digest}, but sam.json states {config['sha256']}: fetch both files again")
    model = build(config)
    model.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return model.eval()


def store(model: Sam, folder: str | Path) -> None:
    """Writes sam.safetensors, then sam.json with its digest, each atomically."""
    digest = storage.write(Path(folder, "sam.safetensors"), model.state_dict())
    partial = Path(folder, "sam.json.partial")
    partial.write_text(json.dumps(copy.deepcopy(CONFIG) | {"sha256": digest, "licence": "Apache-2.0"}, indent=2) + "\n")
    os.replace(partial, Path(folder, "sam.json"))
