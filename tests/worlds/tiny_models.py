"""Random small models of the official classes, in files as the pocket ones are: what the encoders' tests run on."""

import gzip
import json
from pathlib import Path

import torch
from ml_collections import ConfigDict
from safetensors.torch import save_file

from configs.default import get_config
from labelgen.models.libraries import CLIP, ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer, timm

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
CLIP_JSON = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 3},
    "text_cfg": {
        "context_length": 12, "vocab_size": 600, "width": 16, "heads": 2, "layers": 2,
        "tokenizer_kwargs": {"bpe_path": "vocab.bpe.txt.gz"},
    },
    "preprocess": {"mean": MEAN, "std": STD},
}  # fmt: skip
SAM_JSON = {
    "image_encoder": {
        "img_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "out_chans": 16,
    },
    "prompt_encoder": {
        "embed_dim": 16, "image_embedding_size": [8, 8], "input_image_size": [64, 64], "mask_in_chans": 4,
    },
    "mask_decoder": {
        "transformer_dim": 16, "num_multimask_outputs": 3, "iou_head_depth": 2, "iou_head_hidden_dim": 16,
        "transformer": {"depth": 2, "embedding_dim": 16, "num_heads": 2, "mlp_dim": 32},
    },
    "pixel_mean": [120.0, 110.0, 100.0],
    "pixel_std": [50.0, 60.0, 70.0],
}  # fmt: skip
DINO_JSON = {
    "name": "vit_small_patch14_reg4_dinov2",
    "model_args": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 48},
}


def clip_model(config: dict) -> CLIP:
    """open_clip's CLIP of a model config, untrained; biases and norms random too, so that none is a no-op."""
    torch.manual_seed(0)
    text = {key: value for key, value in config["text_cfg"].items() if key != "tokenizer_kwargs"}
    return shaken(CLIP(config["embed_dim"], config["vision_cfg"], text, quick_gelu=config["quick_gelu"]))


def sam_model() -> Sam:
    """segment_anything's Sam of SAM_JSON, untrained, with masks and predicted IoUs that differ by point."""
    torch.manual_seed(1)
    decoder = {**SAM_JSON["mask_decoder"], "transformer": TwoWayTransformer(**SAM_JSON["mask_decoder"]["transformer"])}
    model = Sam(
        ImageEncoderViT(**SAM_JSON["image_encoder"]),
        PromptEncoder(**SAM_JSON["prompt_encoder"]),
        MaskDecoder(**decoder),
        SAM_JSON["pixel_mean"],
        SAM_JSON["pixel_std"],
    )
    model = shaken(model)
    with torch.no_grad():
        for mlp in model.mask_decoder.output_hypernetworks_mlps:  # logits as steep as a trained model's
            mlp.layers[-1].weight *= 40
            mlp.layers[-1].bias *= 40
    return model


def mask_makers(model: Sam) -> Sam:
    """Random weights for a Sam of any size whose masks differ in place and extent: steep, smooth logits that are mostly
    negative."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        decoder = model.mask_decoder
        for convolution in (decoder.output_upscaling[0], decoder.output_upscaling[3]):
            convolution.weight[:] = convolution.weight.mean((2, 3), keepdim=True)
        for mlp in decoder.output_hypernetworks_mlps:
            mlp.layers[-1].bias -= 0.8
            mlp.layers[-1].weight *= 600
            mlp.layers[-1].bias *= 600
    return model.eval()


def dino_model() -> torch.nn.Module:
    """timm's ViT of DINO_JSON, untrained."""
    torch.manual_seed(2)
    args = DINO_JSON["model_args"]
    return shaken(timm.create_model(DINO_JSON["name"], num_classes=0, dynamic_img_size=True, **args))


def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """The model with noise on every parameter, in evaluation mode."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    return model.eval()


def lively(model: torch.nn.Module) -> torch.nn.Module:
    """The model with noise on norms and biases, which begin as no-ops, in evaluation mode: quick, for large models."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def write(folder: Path) -> Path:
    """The three models with their json and the CLIP's vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    models = {
        "clip": (clip_model(CLIP_JSON), CLIP_JSON),
        "sam": (sam_model(), SAM_JSON),
        "dinov2": (dino_model(), DINO_JSON),
    }
    for name, (model, config) in models.items():
        save_file(
            {key: value.contiguous() for key, value in model.state_dict().items()}, folder / f"{name}.safetensors"
        )
        (folder / f"{name}.json").write_text(json.dumps(config))
    with gzip.open(folder / "vocab.bpe.txt.gz", "wt") as file:
        file.write("#version: 0.2\nb a\nl l</w>\nba ll</w>\nb o\nbo x</w>")
    return folder


def config(weights_dir: Path) -> ConfigDict:
    """A config that loads what `write` wrote."""
    fields = get_config()
    fields.weights_dir, fields.device = str(weights_dir), "cpu"
    fields.clip.update(
        name="clip.json", pretrained="clip.safetensors", short_side_px=48, window_px=32, stride_px=16,
        crop_scales=(1.0, 0.67), batch_size=4, variants=("maskclip", "proxyclip"),
    )  # fmt: skip
    fields.sam.update(
        name="sam.json", weights="sam.safetensors", points_per_side=6, batch_size=16,
        pred_iou_threshold=0.15, stability_threshold=0.6,
    )  # fmt: skip
    fields.encoder.update(name="dinov2.json", weights="dinov2.safetensors", size_px=48)
    return fields
