"""Which encoder gives the patch features: any fitting model of timm, CLIP's own tower, or SAM's image encoder.

Data flow: config.encoder (and config.clip or config.sam, where it names them) -> its weight file and, strictly of these
weights, a trunk -> maps [h, w, D] for labelgen.models.patch_encoder.

timm   a model that gives patch tokens or a feature map. Prefix tokens, pixels' mean and std, interpolation, strides,
       channels, and whether the input has one size only, are what timm says of the model; nothing is read from its
       name, but for DINOv2's position embeddings, which its own code resizes otherwise than timm
clip   plain hidden states of labelgen.models.clip's visual tower [h, w, width], not the dense variants of
       labelgen.models.dense_clip
sam    the image embedding [h, w, C] of labelgen.models.sam's image encoder
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from ml_collections import ConfigDict
from torch import Tensor, nn

from labelgen.core.errors import UserError
from labelgen.core.geometry import HW
from labelgen.models import compute, sam_network, weight_files
from labelgen.models.clip import ClipEncoder, load_clip
from labelgen.models.libraries import timm
from labelgen.models.patch_encoder import Layer, Layers, PatchEncoder, View
from labelgen.models.sam import SamEncoder, load_sam
from labelgen.models.weight_files import WeightFile

HUB_FILE = "model.safetensors"
FREE_SIZE = "dynamic_img_size"
"""timm's argument for architectures that take any size, but were trained at one."""
NO_REGISTERS = {f"vit_{size}_patch14_dinov2" for size in ("small", "base", "large", "giant")}
"""timm's architectures that this concerns."""
OFFSET = 0.1
"""Patches that Meta's code adds to a side before it scales them."""


class EncoderConfig(Protocol):
    """The fields of `config.encoder` (see configs/default.py)."""

    name: str
    weights: str
    sha256: str
    layers: Sequence[int]
    join: str
    size_px: int
    height_px: int
    window_px: int
    stride_px: int


def load_encoder(
    config: ConfigDict,
    weights_dir: str | Path = "",
    clip: ClipEncoder | None = None,
    sam: SamEncoder | None = None,
) -> PatchEncoder:
    """The encoder of config.encoder. Reads encoder, clip, sam, device, dtype, weights_dir (unless given).

    clip, sam: those of the config where they are loaded already; what dtype=auto became for clip counts here too.
    UserError as their loaders, timm_encoder.load_encoder and PatchEncoder.
    """
    dtype = compute.dtype_name(clip.dtype) if clip else config.dtype
    fields, common = config.encoder, (weights_dir or config.weights_dir, config.device, dtype)
    view = View(fields.size_px, fields.height_px, fields.window_px, fields.stride_px)
    if fields.name == "clip":
        return PatchEncoder(ClipTrunk(clip or load_clip(config.clip, *common), fields.layers, fields.join), view)
    if fields.name == "sam":
        return PatchEncoder(SamTrunk(sam or load_sam(config.sam, *common), fields.layers, fields.join), view)
    return load_timm(fields, *common)


def weight_file(config: ConfigDict) -> WeightFile | None:
    """The file of config.encoder; None where it is CLIP's or SAM's. UserError for an unknown name."""
    if config.encoder.name in ("clip", "sam"):
        return None
    return timm_file(config.encoder, config.weights_dir)


class ClipTrunk:
    """See labelgen.models.patch_encoder.Trunk. A layer is a block's output after LN_post, before the visual
    projection.
    """

    canvas_hw: HW | None = None
    """Position embeddings are resized."""

    def __init__(self, clip: ClipEncoder, layers: Sequence[int], join: str) -> None:
        """UserError for a layer that there is not."""
        self._clip, self.device, self.dtype = clip, clip.device, clip.dtype
        there = [Layer(clip.visual.conv1.out_channels, clip.patch_px)] * len(clip.blocks)
        self._layers = Layers(layers, join, there, "clip")
        self.patch_px, self.width = self._layers.patch_px, self._layers.width
        self.mean, self.std = clip.source.mean, clip.source.std
        self.interpolation = clip.source.interpolation

    @torch.inference_mode()
    def maps(self, pixels: Tensor) -> Tensor:
        """float32 [B, h, w, D]; the CLS token is left out."""
        clip, layer_maps = self._clip, []
        grid_hw = [side // self.patch_px for side in pixels.shape[-2:]]
        with compute.autocast(clip.device, clip.dtype):
            x = clip.embed(pixels)
            for i, block in enumerate(clip.blocks[: self._layers.indices[-1] + 1]):
                x = block.module(x)
                if i in self._layers.indices:
                    layer_maps.append(clip.visual.ln_post(x)[:, 1:].unflatten(1, grid_hw))
        return self._layers.joined(layer_maps)

    def identity(self) -> dict[str, Any]:
        """As Trunk's."""
        path = self._clip.source.path
        return {"weights": path.name, "sha256": weight_files.digest(path), **self._layers.identity()}


class SamTrunk:
    """See labelgen.models.patch_encoder.Trunk. Its one layer is the neck's output, what the mask decoder sees."""

    interpolation = "bilinear"
    """As labelgen.models.sam resizes photos."""

    def __init__(self, sam: SamEncoder, layers: Sequence[int], join: str) -> None:
        """UserError for a layer that there is not."""
        self._sam, self.device, self.dtype = sam, sam.device, sam.dtype
        prompts = sam.model.prompt_encoder
        there = [Layer(prompts.embed_dim, sam.input_px // prompts.image_embedding_size[0])]
        self._layers = Layers(layers, join, there, "sam")
        self.patch_px, self.width = self._layers.patch_px, self._layers.width
        self.canvas_hw: HW | None = (sam.input_px, sam.input_px)
        self.mean, self.std = (
            tuple((value.flatten() / 255).tolist()) for value in (sam.model.pixel_mean, sam.model.pixel_std)
        )

    @torch.inference_mode()
    def maps(self, pixels: Tensor) -> Tensor:
        """float32 [B, h, w, C]."""
        with compute.autocast(self.device, self._sam.dtype):
            embedding = sam_network.embed(self._sam.model.image_encoder, pixels)
        return self._layers.joined([embedding.permute(0, 2, 3, 1)])

    def identity(self) -> dict[str, Any]:
        """As Trunk's."""
        path = self._sam.path
        return {"weights": path.name, "sha256": weight_files.digest(path), **self._layers.identity()}


class TimmTrunk:
    """A frozen model of timm. See labelgen.models.patch_encoder.Trunk."""

    def __init__(
        self,
        model: nn.Module,
        path: Path,
        layers: Layers,
        canvas_hw: HW | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.model = compute.frozen(model, device)
        compute.narrow(self.model, dtype)
        self.path, self.canvas_hw, self.device, self.dtype = path, canvas_hw, device, dtype
        self._layers, self._norm = layers, norm_after_pooling(model)
        self.patch_px, self.width = layers.patch_px, layers.width
        settings = self.model.pretrained_cfg
        self.mean, self.std, self.interpolation = settings["mean"], settings["std"], settings["interpolation"]

    @torch.inference_mode()
    def maps(self, pixels: Tensor) -> Tensor:
        """float32 [B, h, w, D] after the final norm; class and register tokens are left out."""
        h, w = (side // self.patch_px for side in pixels.shape[-2:])
        unit = 1 if self.canvas_hw else self._layers.unit_px  # the coarsest layer's
        pixels = F.pad(pixels, (0, -pixels.shape[-1] % unit, 0, -pixels.shape[-2] % unit))
        with compute.autocast(self.device, self.dtype):
            outputs = self.model.forward_intermediates(
                pixels,
                indices=self._layers.indices,
                norm=self._norm is None,
                stop_early=True,
                intermediates_only=True,
            )
        maps = [self._normed(part.permute(0, 2, 3, 1)) for part in outputs]
        self._layers.check(maps, pixels.shape[-2:])
        return self._layers.joined(maps)[:, :h, :w]

    def _normed(self, layer_map: Tensor) -> Tensor:
        """A map [B, h, w, D_i] after the norm that the model applies only to what it has pooled."""
        norm = self._norm
        if norm is None or tuple(norm.normalized_shape) != layer_map.shape[-1:]:
            return layer_map
        return F.layer_norm(layer_map.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    def identity(self) -> dict[str, Any]:
        """As Trunk's."""
        return {
            "weights": self.path.name,
            "sha256": weight_files.digest(self.path),
            **self._layers.identity(),
        }


def norm_after_pooling(model: Any) -> nn.LayerNorm | None:
    """The final norm of a model that pools first (BEiT, ConvNeXt); None where the patches have one of their own.

    Over the channels, so it is as good for a patch as for the mean of all: so DINOv3's own ConvNeXt gives its patches.
    """
    if not isinstance(getattr(model, "norm", None), nn.Identity | None):
        return None
    after = getattr(model, "fc_norm", None), getattr(getattr(model, "head", None), "norm", None)
    return next((norm for norm in after if isinstance(norm, nn.LayerNorm)), None)


def load_timm(config: EncoderConfig, weights_dir: str | Path, device: str, dtype: str) -> PatchEncoder:
    """The model of a timm name, or of a model config (`name`, `model_args`) and a weight file in weights_dir.

    UserError when the name or file is not there, when the digest is another, when the file is of another model, or when
    the model gives neither patch tokens nor a map.
    """
    on = compute.torch_device(device)
    path = weight_files.find(timm_file(config, weights_dir))
    view = View(config.size_px, config.height_px, config.window_px, config.stride_px)
    name, model_args = config.name, {}
    if name.endswith(".json"):
        described = weight_files.read_config(weights_dir, name, ("name", "model_args"))
        name, model_args = described["name"], described["model_args"]
    model, free = create(name, model_args, path)
    if config.name.partition(".")[0] in NO_REGISTERS:
        model._pos_embed = OriginalPositions(model)
    layers = Layers(config.layers, config.join, layers_of(model), config.name)
    canvas_hw = None if free else _canvas(model, model_args.get("img_size"), view.pass_hw)
    computes_in = compute.torch_dtype(dtype, on, model.num_features)
    return PatchEncoder(TimmTrunk(model, path, layers, canvas_hw, on, computes_in), view)


def layers_of(model: Any) -> list[Layer]:
    """What forward_intermediates gives, in its order, by timm's feature_info."""
    return [Layer(int(layer["num_chs"]), int(layer["reduction"])) for layer in model.feature_info]


def create(name: str, model_args: dict[str, Any], path: Path) -> tuple[Any, bool]:
    """(the model with these weights, whether it takes any size). UserError as load_encoder."""
    with weight_files.building(f"encoder.name = {name!r}"):
        model, free = _build(name, model_args)
    if not hasattr(model, "forward_intermediates") or not getattr(model, "feature_info", None):
        raise UserError(
            f"encoder.name = {name!r}: this architecture gives neither patch tokens nor a feature map; choose another "
            "one, such as vit_small_patch14_dinov2"
        )
    with weight_files.loading(path, name):
        _fill(model, weight_files.read_state(path))
    return model, free


def _build(name: str, model_args: dict[str, Any]) -> tuple[Any, bool]:
    """The untrained model, and whether it takes any size."""
    arguments: dict[str, Any] = {"pretrained": False, "num_classes": 0, **model_args}
    try:
        return timm.create_model(name, **{**arguments, FREE_SIZE: True}), True
    except TypeError as error:
        if FREE_SIZE not in str(error):
            raise
    model: Any = timm.create_model(name, **arguments)
    return model, not model.pretrained_cfg["fixed_input_size"]


def _fill(model: Any, state: dict[str, Tensor]) -> None:
    """Strict, but for the classifier, which is not there. Files of the authors are renamed by timm's own function."""
    classifiers = model.pretrained_cfg["classifier"]
    names = [classifiers] if isinstance(classifiers, str) else classifiers or ()
    heads = tuple(name.partition(".")[0] + "." for name in names)
    keys = model.state_dict().keys()
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert and _without(heads, state, keys).keys() != keys:
        state = convert(state, model)
    model.load_state_dict(_without(heads, state, keys))


def _without(heads: tuple[str, ...], state: dict[str, Tensor], keys: Iterable[str]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key in keys or not key.startswith(heads)}


def _canvas(model: Any, built_px: int | None, pass_hw: HW) -> HW:
    """The one size that the model takes from now on: that of a pass where timm can change it, else the one that it was
    built for, square, or trained at."""
    if not hasattr(model, "set_input_size"):
        _, height, width = model.pretrained_cfg["input_size"]
        return (built_px, built_px) if built_px else (height, width)
    with weight_files.building(f"encoder.size_px or window_px for {pass_hw[1]} x {pass_hw[0]} px a pass"):
        model.set_input_size(img_size=pass_hw)
    return pass_hw


@dataclass(frozen=True, kw_only=True)
class TimmFile(WeightFile):
    """The file of a timm model, which lies on the hub. model: timm's name; hub: its repository there, empty: none."""

    model: str
    hub: str

    def fetch(self) -> Path | None:
        return Path(hf_hub_download(self.hub, HUB_FILE)) if self.hub else None

    def cached(self) -> Path | None:
        return weight_files.in_hub_cache(self.hub, [HUB_FILE]) if self.hub else None

    def parameters(self) -> int:
        return compute.parameters(lambda: timm.create_model(self.model, num_classes=0))


def timm_file(config: EncoderConfig, weights_dir: str | Path) -> WeightFile:
    """The file of config.encoder. UserError for an unknown name.

    Of a timm name it is encoder.weights, NAME.safetensors or Meta's release file in weights_dir, else timm's own on the
    hub.
    """
    if config.name.endswith(".json"):
        described = weight_files.read_config(weights_dir, config.name, ("name", "model_args"))
        return weight_files.described(weights_dir, config.weights, config.sha256, described)
    try:
        tag: Any = timm.get_pretrained_cfg(config.name, allow_unregistered=False)
    except RuntimeError as error:
        raise UserError(f"encoder.name: {error} See timm.list_pretrained('*dinov2*')") from error
    hub = tag.hf_hub_id or ""
    return TimmFile(
        Path(weights_dir),
        [config.weights] if config.weights else [f"{config.name}.safetensors", Path(tag.url or "").name],
        config.sha256,
        {"apache-2.0": "Apache-2.0"}.get(tag.license, tag.license or weight_files.UNKNOWN_LICENCE),
        f"https://huggingface.co/{hub} ({HUB_FILE})" if hub else "",
        model=config.name,
        hub=hub,
    )


class OriginalPositions:
    """timm's `_pos_embed` with other grids' position embeddings as DINOv2's own vision_transformer.py resizes them.

    Bicubic, not antialiased, by the scale (side + OFFSET) / trained side: so the models without registers were trained
    and measured. Those with registers are antialiased, to the grid's size, as timm does it.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, x: Tensor) -> Tensor:
        """Embedded patches [B, h, w, D] -> tokens [B, 1 + h w, D]."""
        cls = self.model.cls_token.expand(len(x), -1, -1)
        return torch.cat([cls, x.flatten(1, 2)], 1) + self._at(*x.shape[1:3])

    def _at(self, h: int, w: int) -> Tensor:
        """[1, 1 + h w, D]."""
        positions: Tensor = self.model.pos_embed
        rows, columns = self.model.patch_embed.grid_size
        if (h, w) == (rows, columns):
            return positions
        grid = positions[:, 1:].view(1, rows, columns, -1).permute(0, 3, 1, 2)
        scale = (h + OFFSET) / rows, (w + OFFSET) / columns
        with torch.autocast(grid.device.type, enabled=False):
            resized = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat([positions[:, :1], resized.flatten(2).transpose(1, 2)], 1)
