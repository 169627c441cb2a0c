"""What the tensors of a SAM 2.1 file are called, in Meta's release and in transformers' files, and here.

Data flow: state of a weight file -> the same tensors under the names of labelgen.models.sam2.Sam2. Used by
labelgen.models.sam2.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Renames = Sequence[tuple[str, str]]
VIDEO = re.compile(
    r"(memory_|maskmem_|mask_downsample|no_mem_pos_enc|no_obj|obj_ptr|object_pointer|temporal_positional|"
    r"no_memory_positional|no_object_pointer|occlusion_|(sam_)?mask_decoder\.pred_obj_score_head)"
)
"""Names that begin so are a video's memory, or say whether there is an object: no part of what makes masks."""
META: Renames = (
    (r"^image_encoder\.neck\.convs\.(\d)\.conv\.", r"image_encoder.convs.\1."),
    (r"^(image_encoder\.trunk\.blocks\.\d+\.mlp)\.layers\.0\.", r"\1.fc1."),
    (r"^(image_encoder\.trunk\.blocks\.\d+\.mlp)\.layers\.1\.", r"\1.fc2."),
    (r"^no_mem_embed$", "image_encoder.no_mem_embed"),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.(conv_s\d)\.", r"image_encoder.\1."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"^(mask_decoder\.transformer\.layers\.\d\.mlp)\.layers\.0\.", r"\1.lin1."),
    (r"^(mask_decoder\.transformer\.layers\.\d\.mlp)\.layers\.1\.", r"\1.lin2."),
)
TRANSFORMERS: Renames = (
    (r"^vision_encoder\.backbone\.", "image_encoder.trunk."),
    (r"\.patch_embed\.projection\.", ".patch_embed.proj."),
    (r"^(image_encoder\.trunk\.blocks\.\d+\.mlp)\.proj_in\.", r"\1.fc1."),
    (r"^(image_encoder\.trunk\.blocks\.\d+\.mlp)\.proj_out\.", r"\1.fc2."),
    (r"^vision_encoder\.neck\.convs\.", "image_encoder.convs."),
    (r"^no_memory_embedding$", "image_encoder.no_mem_embed"),
    (r"^mask_decoder\.(conv_s\d)\.", r"image_encoder.\1."),
    (r"\.shared_embedding\.positional_embedding$", ".pe_layer.positional_encoding_gaussian_matrix"),
    (r"\.mask_embed\.conv1\.", ".mask_downscaling.0."),
    (r"\.mask_embed\.layer_norm1\.", ".mask_downscaling.1."),
    (r"\.mask_embed\.conv2\.", ".mask_downscaling.3."),
    (r"\.mask_embed\.layer_norm2\.", ".mask_downscaling.4."),
    (r"\.mask_embed\.conv3\.", ".mask_downscaling.6."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.layer_norm_final_attn\.", ".norm_final_attn."),
    (r"\.o_proj\.", ".out_proj."),
    (r"^(mask_decoder\.transformer\.layers\.\d\.mlp)\.proj_in\.", r"\1.lin1."),
    (r"^(mask_decoder\.transformer\.layers\.\d\.mlp)\.proj_out\.", r"\1.lin2."),
    (r"\.upscale_conv1\.", ".output_upscaling.0."),
    (r"\.upscale_layer_norm\.", ".output_upscaling.1."),
    (r"\.upscale_conv2\.", ".output_upscaling.3."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d|iou_prediction_head))\.layers\.0\.", r"\1.layers.1."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d|iou_prediction_head))\.proj_in\.", r"\1.layers.0."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d|iou_prediction_head))\.proj_out\.", r"\1.layers.2."),
)
"""Each applied once, in this order."""
POINTS = "prompt_encoder.point_embed.weight"
POSITIONS = "shared_image_embedding.positional_embedding"


def renamed(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of an image under our names; ValueError for two of one name, or for positions that differ."""
    state = dict(state.get("model", state))
    theirs = any(key.startswith("vision_encoder.") for key in state)
    if theirs:
        state |= _points(state.pop(POINTS))
        if not torch.equal(state.pop(POSITIONS), state["prompt_encoder.shared_embedding.positional_embedding"]):
            raise ValueError(f"{POSITIONS} is another one than the prompt encoder's")
    tensors: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if VIDEO.match(key):
            continue
        name = _name(key, TRANSFORMERS if theirs else META)
        if name in tensors:
            raise ValueError(f"a second key for {name}")
        tensors[name] = tensor
    return tensors


def _name(key: str, renames: Renames) -> str:
    for pattern, replacement in renames:
        key = re.sub(pattern, replacement, key)
    return key


def _points(weight: Tensor) -> dict[str, Tensor]:
    """transformers has the four kinds of points in one table."""
    return {f"prompt_encoder.point_embeddings.{kind}.weight": row[None] for kind, row in enumerate(weight)}
