"""A small SAM 2.1 of random weights, once as transformers builds it and once as we do, from one file."""

# ruff: noqa: I001  (our libraries first: they make torchvision load, which transformers imports)

from pathlib import Path

import torch
from labelgen.models.libraries import timm
from safetensors.torch import save_file
from transformers.models.sam2.configuration_sam2 import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)
from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor
from transformers.models.sam2.modeling_sam2 import Sam2Model
from transformers.models.sam2.processing_sam2 import Sam2Processor

from labelgen.models import sam2

INPUT_PX, CHANNELS, HEADS, MLP = 128, 32, 2, 64
POSITIONS = "shared_image_embedding.positional_embedding"
SIZES = {
    "tiny": {},
    "small": {"blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]},
    "base_plus": {
        "hidden_size": 112, "num_attention_heads": 2, "embed_dim_per_stage": [112, 224, 448, 896],
        "num_attention_heads_per_stage": [2, 4, 8, 16], "blocks_per_stage": [2, 3, 16, 3],
        "global_attention_blocks": [12, 16, 20], "window_positional_embedding_background_size": [14, 14],
    },
    "large": {
        "hidden_size": 144, "num_attention_heads": 2, "embed_dim_per_stage": [144, 288, 576, 1152],
        "num_attention_heads_per_stage": [2, 4, 8, 16], "blocks_per_stage": [2, 6, 36, 4],
        "global_attention_blocks": [23, 33, 43], "window_size_per_stage": [8, 4, 16, 8],
    },
}  # fmt: skip
"""What the config.json of facebook/sam2.1-hiera-SIZE says of its backbone, where it is no default."""


def official(size: str) -> Sam2Model:
    """transformers' model of the published size, without memory for its weights."""
    backbone = Sam2HieraDetConfig(**SIZES[size])
    vision = Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=backbone.embed_dim_per_stage[::-1])
    with torch.device("meta"):
        return Sam2Model(_config(vision, Sam2PromptEncoderConfig(), Sam2MaskDecoderConfig()))


def _config(vision: Sam2VisionConfig, prompts: Sam2PromptEncoderConfig, decoder: Sam2MaskDecoderConfig) -> Sam2Config:
    return Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)


def theirs() -> Sam2Model:
    """transformers' small model: masks differ in place and extent, predicted IoUs by point, logits are steep."""
    backbone = Sam2HieraDetConfig(
        hidden_size=16, num_attention_heads=1, image_size=[INPUT_PX, INPUT_PX], embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8], blocks_per_stage=[1, 1, 2, 1], global_attention_blocks=[3],
        window_size_per_stage=[4, 2, 6, 2], window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[128, 64, 32, 16], fpn_hidden_size=CHANNELS,
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
    )  # fmt: skip
    prompts = Sam2PromptEncoderConfig(hidden_size=CHANNELS, image_size=INPUT_PX)
    decoder = Sam2MaskDecoderConfig(
        hidden_size=CHANNELS, mlp_dim=MLP, num_attention_heads=HEADS, iou_head_hidden_dim=CHANNELS
    )
    torch.manual_seed(0)
    model = Sam2Model(_config(vision, prompts, decoder)).eval()
    network = model.mask_decoder
    torch.manual_seed(3)
    with torch.no_grad():
        for mlp in network.output_hypernetworks_mlps:
            mlp.proj_out.weight *= 40
            mlp.proj_out.bias *= 40
        for parameter in model.parameters():
            parameter += 0.07 * torch.randn_like(parameter)
        for layer in network.transformer.layers:
            layer.self_attn.v_proj.weight *= 10  # points matter
        for upscaling in (network.upscale_conv1, network.upscale_conv2):
            upscaling.weight[:] = upscaling.weight.mean((2, 3), keepdim=True)
        for mlp in network.output_hypernetworks_mlps:
            mlp.proj_out.weight *= 330
            mlp.proj_out.bias *= 330
        network.iou_prediction_head.proj_out.weight *= 30
    model.shared_image_embedding.load_state_dict(model.prompt_encoder.shared_embedding.state_dict())
    return model


def processor() -> Sam2Processor:
    """As of the published models, for the small one's input."""
    side = {"height": INPUT_PX, "width": INPUT_PX}
    low = {"height": INPUT_PX // 4, "width": INPUT_PX // 4}
    return Sam2Processor(Sam2ImageProcessor(size=side, mask_size=low), target_size=INPUT_PX)


def ours() -> sam2.Sam2:
    """The same architecture, untrained."""
    trunk = timm.create_model(
        "sam2_hiera_tiny", num_classes=0, embed_dim=16, num_heads=1, stages=(1, 1, 2, 1), global_att_blocks=(3,),
        window_spec=(4, 2, 6, 2), global_pos_size=(4, 4),
    )  # fmt: skip
    return sam2.assemble(trunk, INPUT_PX, CHANNELS, heads=HEADS, mlp=MLP)


def write(model: Sam2Model, path: Path) -> Path:
    """The model as its publisher's file has it."""
    save_file({key: value.contiguous().clone() for key, value in model.state_dict().items()}, path)
    return path


def as_meta(state: dict[str, torch.Tensor], video: bool = True) -> dict[str, torch.Tensor]:
    """Our tensors under the names of Meta's release, with some of what it has for videos."""
    names = {}
    for key, value in state.items():
        name = key.replace("image_encoder.convs.", "image_encoder.neck.convs.")
        for level in range(4):
            name = name.replace(f"neck.convs.{level}.", f"neck.convs.{level}.conv.")
        if "trunk.blocks" in name:
            name = name.replace("mlp.fc1", "mlp.layers.0").replace("mlp.fc2", "mlp.layers.1")
        name = name.replace("image_encoder.no_mem_embed", "no_mem_embed")
        name = name.replace("image_encoder.conv_s", "sam_mask_decoder.conv_s")
        if name.startswith("mask_decoder"):
            name = name.replace("mlp.lin1", "mlp.layers.0").replace("mlp.lin2", "mlp.layers.1")
        name = name.replace("prompt_encoder.", "sam_prompt_encoder.") if name.startswith("prompt") else name
        name = f"sam_{name}" if name.startswith("mask_decoder") else name
        names[name] = value
    if not video:
        return names
    more = ("maskmem_tpos_enc", "memory_attention.norm.weight", "obj_ptr_proj.layers.0.weight", "no_obj_ptr")
    more += ("no_obj_embed_spatial", "sam_mask_decoder.pred_obj_score_head.layers.0.weight", "no_mem_pos_enc")
    return names | {name: torch.zeros(1) for name in more}
