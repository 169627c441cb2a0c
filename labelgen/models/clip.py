"""CLIP by open_clip: unit text embeddings, unit crop embeddings, and its last blocks opened for
labelgen.models.dense_clip.

Data flow: config.clip + weights_dir -> where it comes from (an official architecture and tag of open_clip, or a model
config with its own vocabulary): constructor arguments, pixels' mean and std, tokenizer and a checked file -> the model.
Then words -> prototypes (the text tower alone runs); crops and windows of a photo -> embeddings, and what the dense
variants read.
"""

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from labelgen.core.config import IMAGENET
from labelgen.core.errors import UserError
from labelgen.models import compute, weight_files
from labelgen.models.libraries import (
    CLIP,
    CustomTextCLIP,
    ResidualAttentionBlock,
    SimpleTokenizer,
    VisionTransformer,
    load_checkpoint,
    open_clip,
)
from labelgen.models.weight_files import WeightFile

Floats = NDArray[np.float32]
T = TypeVar("T", bound=np.generic)
P = TypeVar("P")
TEXT_DTYPE = "float32"
"""The text tower's, whatever dtype the image towers have: words are few."""
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
LICENCES = dict.fromkeys(("openai", "laion2b_s34b_b88k", "laion2b_s32b_b82k"), "MIT")
"""By tag, where the model's own page says it."""
PLANES_WIDTH, PLANES_SCORES = 16, 3
"""A row's memory: so many times float32 [N, width] and [heads, N, N]; above what was measured with B/16 and L/14."""
FIX = "set clip.window_px smaller, or device=cpu"


class ClipConfig(Protocol):
    """The fields of `config.clip` that load_clip reads (see configs/default.py)."""

    name: str
    pretrained: str
    sha256: str
    batch_size: int


@dataclass(frozen=True)
class ClipSource:
    """Where a CLIP comes from. model: constructor arguments; mean, std [3] of pixels in 0..1; all by tag or config."""

    model: dict[str, Any]
    path: Path
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    tokenizer: Callable[[list[str]], Tensor]


class ClipEncoder:
    """A frozen CLIP. Images come as uint8 [n, S, S, 3] RGB, any S that is a multiple of `patch_px`."""

    def __init__(
        self, model: nn.Module, source: ClipSource, device: torch.device, dtype: torch.dtype, batch: int
    ) -> None:
        self.model = compute.frozen(model, device)
        self.visual = self.model.visual
        compute.narrow(self.visual, dtype)  # the text tower stays as it is
        self.source, self.device, self.dtype = source, device, dtype
        self.batches = compute.Batches("CLIP", FIX, device, batch, on_cpu=32)
        for block in self.visual.transformer.resblocks:
            block.mlp.forward = partial(compute.by_rows, block.mlp.forward)
        self.blocks = [Block(block) for block in self.visual.transformer.resblocks]
        self.patch_px: int = self.visual.patch_size[0]
        self.image_px: int = self.visual.image_size[0]
        self.width, self.text_width = map(int, self.visual.proj.shape)
        self.resample = getattr(Image.Resampling, source.interpolation.upper())
        self._mean = torch.tensor(source.mean, device=device).view(3, 1, 1) * 255
        self._std = torch.tensor(source.std, device=device).view(3, 1, 1) * 255

    @torch.inference_mode()
    def text(self, words: Sequence[str], templates: Sequence[str]) -> Floats:
        """float32 [K, E] unit rows: each word in each template ("a photo of a {}."), averaged. No image tower runs."""
        rows, patterns = [], written_out(templates)
        for word in words:
            tokens = self.source.tokenizer([pattern.replace("{}", word) for pattern in patterns])
            rows.append(unit(unit(self.model.encode_text(tokens.to(self.device)).float()).mean(0)))
        return torch.stack(rows).cpu().numpy()

    @torch.inference_mode()
    def crops(self, images: NDArray[np.uint8]) -> Tensor:
        """Unit CLS embeddings float32 [n, E] of uint8 [n, S, S, 3]."""
        parts = self.over(images, images.shape[1], lambda part: self.cls(self.inputs(part, 1)[-1]))
        return torch.cat(parts) if parts else torch.zeros(0, self.text_width, device=self.device)

    def over(self, rows: NDArray[T], side_px: int, run: Callable[[NDArray[T]], P]) -> list[P]:
        """What `run` makes of the rows, as many at a time as fit; each is a crop or window of side_px."""
        tokens = (side_px // self.patch_px) ** 2
        planes = PLANES_WIDTH * tokens * self.visual.conv1.out_channels
        planes += PLANES_SCORES * tokens**2 * self.blocks[-1].heads
        return self.batches.over(rows, run, 4 * planes)

    def inputs(self, images: NDArray[np.uint8], count: int) -> list[Tensor]:
        """Inputs [n, 1 + N, width] of the last `count` blocks, in their order."""
        layer_inputs = []
        with compute.autocast(self.device, self.dtype):
            x = self.embed(self._pixels(images))
            for i, block in enumerate(self.blocks[:-1]):
                if i >= len(self.blocks) - count:
                    layer_inputs.append(x)
                x = block.module(x)
        return [*layer_inputs, x]

    def _pixels(self, images: NDArray[np.uint8]) -> Tensor:
        """Normalised float32 [n, 3, S, S]."""
        return (torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float() - self._mean) / self._std

    def embed(self, pixels: Tensor) -> Tensor:
        """VisionTransformer._embeds of normalised [n, 3, H, W], with position embeddings for this size."""
        patches = self.visual.conv1(pixels)
        cls = self.visual.class_embedding.expand(len(pixels), 1, -1)
        x = torch.cat([cls, patches.flatten(2).transpose(1, 2)], 1) + self._positions(patches.shape[-2:])
        embedded: Tensor = self.visual.ln_pre(x)
        return embedded

    def _positions(self, grid_hw: torch.Size) -> Tensor:
        """Position embeddings [1 + N, width] resized as open_clip resizes those of a checkpoint."""
        positions: Tensor = self.visual.positional_embedding
        if tuple(grid_hw) == tuple(self.visual.grid_size):
            return positions
        grid = positions[1:].view(1, *self.visual.grid_size, -1).permute(0, 3, 1, 2).float()
        with torch.autocast(self.device.type, enabled=False):
            resized = F.interpolate(grid, grid_hw, mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([positions[:1], resized[0].flatten(1).T])

    def cls(self, x: Tensor) -> Tensor:
        """Unit image embeddings float32 [n, E] from the last block's input; only the CLS token goes through it."""
        block = self.blocks[-1]
        with compute.autocast(self.device, self.dtype):
            q, k, v = block.qkv(x)
            return self.project(block.residual(x[:, :1], block.out(block.attend(q[:, :, :1], k, v))))[:, 0]

    def project(self, tokens: Tensor) -> Tensor:
        """LN_post, visual projection, unit length: [..., width] -> float32 [..., E]."""
        with torch.autocast(self.device.type, enabled=False):
            return unit(self.visual.ln_post(tokens.float()) @ self.visual.proj)

    def identity(self) -> dict[str, Any]:
        """What the embeddings depend on, as JSON: weight digest, size and normalisation of the pixels."""
        source = self.source
        return {
            "weights": source.path.name,
            "sha256": weight_files.digest(source.path),
            "image_px": self.image_px,
            "patch_px": self.patch_px,
            "quick_gelu": bool(source.model.get("quick_gelu", False)),
            "mean": list(source.mean),
            "std": list(source.std),
            "interpolation": source.interpolation,
        }


class Block:
    """One of open_clip's residual attention blocks in its parts; x is [n, 1 + N, width], CLS first."""

    def __init__(self, block: Any) -> None:
        self.module = block
        self.heads: int = block.attn.num_heads
        self.scale: float = block.attn.head_dim**-0.5

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of LN1(x), each [n, heads, 1 + N, d]."""
        attention = self.module.attn
        n, tokens, width = x.shape
        packed = F.linear(self.module.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = packed.view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return q, k, v

    def out(self, heads: Tensor) -> Tensor:
        """The attention's out-projection: [n, heads, T, d] -> [n, T, width]."""
        projected: Tensor = self.module.attn.out_proj(heads.transpose(1, 2).flatten(2))
        return projected

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
        """softmax(s q kT + bias) v, the softmax in float32."""
        scores = (q @ k.transpose(-2, -1)).float() * self.scale + bias
        return scores.softmax(-1).to(v.dtype) @ v

    def residual(self, x: Tensor, attended: Tensor) -> Tensor:
        """What the block makes of x and its attention's output [n, T, width]: both residuals, FFN between."""
        x = x + self.module.ls_1(attended)
        return torch.add(x, self.module.ls_2(self.module.mlp(self.module.ln_2(x))))


def written_out(templates: Sequence[str]) -> list[str]:
    """The patterns of labels.templates: themselves, or those of the set that they name, as open_clip has it."""
    if tuple(templates) == (IMAGENET,):
        return [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    return list(templates)


def unit(x: Tensor) -> Tensor:
    """Rows of length one."""
    return F.normalize(x, dim=-1)


def load_clip(config: ClipConfig, weights_dir: str | Path, device: str, dtype: str) -> ClipEncoder:
    """The CLIP of an open_clip architecture and tag, or of a model config and a weight file in weights_dir.

    UserError when the name, tag or file is not there, when the digest is another, or when the file is of another model.
    """
    on = compute.torch_device(device)
    source = find_source(config, weights_dir)
    model = build(source.model, config.name)
    with weight_files.loading(source.path, config.name):
        fill(model, source.path)
    width = int(model.visual.proj.shape[0])
    return ClipEncoder(model, source, on, compute.torch_dtype(dtype, on, width), config.batch_size)


def find_source(config: ClipConfig, weights_dir: str | Path) -> ClipSource:
    """By tag, or by model config. UserError when a name, tag or file is not there, or is another than the digest's."""
    return (from_json if config.name.endswith(".json") else from_tag)(config, Path(weights_dir))


def from_tag(config: ClipConfig, weights_dir: Path) -> ClipSource:
    """An official architecture and tag."""
    path = weight_files.find(weight_file(config, weights_dir))
    model, tag = _architecture(config)
    return ClipSource(model, path, tag["mean"], tag["std"], tag["interpolation"], _tokenizer(config.name))


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


def from_json(config: ClipConfig, weights_dir: Path) -> ClipSource:
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
    return ClipSource(model, path, mean, std, pixels.get("interpolation", "bicubic"), tokenizer)


@dataclass(frozen=True, kw_only=True)
class OpenClipFile(WeightFile):
    """The file of a tag of open_clip, which knows where it is.

    tag: what open_clip knows of it; model_parameters: of its architecture.
    """

    tag: dict[str, Any]
    model_parameters: int

    def fetch(self) -> Path:
        return Path(open_clip.download_pretrained(self.tag))

    def cached(self) -> Path | None:
        hub = _hub(self.tag)
        return weight_files.in_hub_cache(hub, HUB_FILES) if hub else None

    def parameters(self) -> int:
        return self.model_parameters


def _hub(tag: dict[str, Any]) -> str:
    name: str = tag["hf_hub"].strip("/")
    return name


def weight_file(config: ClipConfig, weights_dir: str | Path) -> WeightFile:
    """The file of config.clip's name and tag. UserError for a name or tag that there is not, or cannot be used."""
    if config.name.endswith(".json"):
        fields = weight_files.read_config(weights_dir, config.name, ("embed_dim", "vision_cfg", "text_cfg"))
        return weight_files.described(weights_dir, config.pretrained, config.sha256, fields)
    model, tag = _architecture(config)
    parameters = compute.parameters(lambda: build(model, config.name))  # refuses what cannot be used, too
    return OpenClipFile(
        Path(weights_dir),
        [f"{config.name}-{config.pretrained}{suffix}" for suffix in (".safetensors", ".bin", ".pt", ".pth")],
        config.sha256,
        LICENCES.get(config.pretrained, weight_files.UNKNOWN_LICENCE),
        f"https://huggingface.co/{_hub(tag)} (open_clip_model.safetensors; a .bin or .pt keeps its ending)",
        tag=tag,
        model_parameters=parameters,
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


def build(arguments: dict[str, Any], name: str) -> Any:
    """The untrained model of a model config; UserError when it cannot be built or dense variants cannot use it."""
    rest = dict(arguments)
    with weight_files.building(f"clip.name = {name!r}"):
        model = (CustomTextCLIP if rest.pop("custom_text", False) else CLIP)(**rest)
    _check_supported(model, name)
    return model


def _check_supported(model: Any, name: str) -> None:
    """Dense variants are defined on a ViT with a CLS token and open_clip's plain block."""
    visual = model.visual
    plain = isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.pool_type == "tok"
    if not plain or not all(isinstance(block, ResidualAttentionBlock) for block in visual.transformer.resblocks):
        raise UserError(f"clip.name = {name!r}: dense variants need a plain ViT with a CLS token, such as ViT-B-16")


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
