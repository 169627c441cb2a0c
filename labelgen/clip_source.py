"""Where a CLIP comes from: an official architecture and tag of open_clip, or a model config with its own vocabulary.

Data flow: config.clip + weights_dir -> constructor arguments, pixels' mean and std, tokenizer and a checked file ->
labelgen.clip.
"""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from labelgen import compute, weight_files
from labelgen.core.errors import UserError
from labelgen.libraries import (
    CLIP,
    CustomTextCLIP,
    ResidualAttentionBlock,
    SimpleTokenizer,
    VisionTransformer,
    load_checkpoint,
    open_clip,
)
from labelgen.weight_files import WeightFile

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
LICENCES = {tag: "MIT" for tag in ("openai", "laion2b_s34b_b88k", "laion2b_s32b_b82k")}
"""By tag, where the model's own page says it."""


class ClipConfig(Protocol):
    """The fields of `config.clip` that load_clip reads (see configs/default.py)."""

    name: str
    pretrained: str
    sha256: str
    batch_size: int


@dataclass(frozen=True)
class Source:
    """Where a CLIP comes from. model: constructor arguments; mean, std [3] of pixels in 0..1; all by tag or config."""

    model: dict[str, Any]
    path: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    tokenizer: Callable[[list[str]], Tensor]


def find_source(config: ClipConfig, weights_dir: str | Path) -> Source:
    """By tag, or by model config. UserError when a name, tag or file is not there, or is another than the digest's."""
    return (from_json if config.name.endswith(".json") else from_tag)(config, Path(weights_dir))


def weight_file(config: ClipConfig, weights_dir: str | Path) -> WeightFile:
    """The file of config.clip's name and tag. UserError for a name or tag that there is not, or cannot be used."""
    if config.name.endswith(".json"):
        fields = weight_files.read_config(weights_dir, config.name, ("embed_dim", "vision_cfg", "text_cfg"))
        return weight_files.described(weights_dir, config.pretrained, config.sha256, fields)
    model, tag = _architecture(config)
    parameters = compute.parameters(lambda: build(model, config.name))  # refuses what cannot be used, too
    hub = tag["hf_hub"].strip("/")
    return WeightFile(
        Path(weights_dir),
        [f"{config.name}-{config.pretrained}{suffix}" for suffix in (".safetensors", ".bin", ".pt", ".pth")],
        config.sha256,
        lambda: str(open_clip.download_pretrained(tag)),
        f"https://huggingface.co/{hub} (open_clip_model.safetensors; a .bin or .pt keeps its ending)",
        lambda: weight_files.in_hub_cache(hub, HUB_FILES) if hub else None,
        licence=LICENCES.get(config.pretrained, weight_files.UNKNOWN_LICENCE),
        parameters=lambda: parameters,
    )


def _architecture(config: ClipConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """open_clip's model config and what it knows of the tag, which says which GELU the model was trained with."""
    model, tag = open_clip.get_model_config(config.name), open_clip.get_pretrained_cfg(config.name, config.pretrained)
    if model is None:
        raise UserError(
            f"clip.name = {config.name!r} is no open_clip architecture; see open_clip.list_models(), or name a *.json"
        )
    if not tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(config.name)) or "none"
        raise UserError(f"clip.pretrained = {config.pretrained!r} is no tag of {config.name}; its tags: {tags}")
    if "hf_model_name" in model["text_cfg"]:
        raise UserError(
            f"clip.name = {config.name!r}: its text tower is another library's; choose one such as ViT-B-16"
        )
    return model | {"quick_gelu": tag.get("quick_gelu", False)}, tag


def from_tag(config: ClipConfig, weights_dir: Path) -> Source:
    """An official architecture and tag."""
    path = weight_files.find(weight_file(config, weights_dir))
    model, tag = _architecture(config)
    return Source(model, path, tag["mean"], tag["std"], tag["interpolation"], _tokenizer(config.name))


def _tokenizer(name: str) -> Callable[[list[str]], Tensor]:
    """The architecture's own tokenizer; those of other libraries are fetched from the hub."""
    try:
        tokenizer: Callable[[list[str]], Tensor] = open_clip.get_tokenizer(name)
    except Exception as error:  # each library raises its own
        raise UserError(
            f"clip.name = {name!r}: its tokenizer cannot be had ({type(error).__name__}: {error}); choose one with "
            "CLIP's own, such as ViT-B-16"
        ) from error
    return tokenizer


def from_json(config: ClipConfig, weights_dir: Path) -> Source:
    """A model config file as open_clip's own, with `preprocess` (mean, std) and its own vocabulary beside it."""
    model = weight_files.read_config(weights_dir, config.name, ("embed_dim", "vision_cfg", "text_cfg", "preprocess"))
    path = weight_files.find(weight_file(config, weights_dir))
    pixels = model.pop("preprocess")
    for stated in ("sha256", "licence"):
        model.pop(stated, None)
    text = model["text_cfg"]
    with weight_files.building(f"{weights_dir / config.name}: text_cfg.tokenizer_kwargs"):
        options = dict(text.pop("tokenizer_kwargs"))
        vocabulary = weight_files.find(WeightFile(weights_dir, [options.pop("bpe_path")]))
        tokenizer = SimpleTokenizer(str(vocabulary), context_length=text["context_length"], **options)
    if tokenizer.vocab_size > text["vocab_size"]:
        raise UserError(
            f"{vocabulary}: {tokenizer.vocab_size} tokens, but {config.name} has vocab_size = {text['vocab_size']}; "
            "it is the vocabulary of another model"
        )
    with weight_files.building(f"{weights_dir / config.name}: preprocess"):
        mean, std = tuple(pixels["mean"]), tuple(pixels["std"])
    return Source(model, path, mean, std, pixels.get("interpolation", "bicubic"), tokenizer)


def build(arguments: dict[str, Any], name: str) -> Any:
    """The untrained model of a model config; UserError when it cannot be built or dense variants cannot use it."""
    rest = dict(arguments)
    with weight_files.building(f"clip.name = {name!r}"):
        model = (CustomTextCLIP if rest.pop("custom_text", False) else CLIP)(**rest)
    _check_supported(model, name)
    return model


def fill(model: nn.Module, path: Path) -> None:
    """open_clip's own loading; OpenAI's release files are TorchScript archives, which it refuses."""
    if not _is_torchscript(path):
        load_checkpoint(model, str(path))
        return
    archive: Any = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    sizes = ("input_resolution", "context_length", "vocab_size")
    model.load_state_dict({key: value for key, value in archive.state_dict().items() if key not in sizes})


def _is_torchscript(path: Path) -> bool:
    """Whatever the file is named."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _check_supported(model: Any, name: str) -> None:
    """Dense variants are defined on a ViT with a CLS token and open_clip's plain block."""
    visual = model.visual
    plain = isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.pool_type == "tok"
    if not plain or not all(isinstance(block, ResidualAttentionBlock) for block in visual.transformer.resblocks):
        raise UserError(f"clip.name = {name!r}: dense variants need a plain ViT with a CLS token, such as ViT-B-16")
