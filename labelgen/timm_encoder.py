"""Any model of timm that gives patch tokens or a feature map, as a trunk of patch features.

Data flow: encoder.name and its weight file -> the model, strictly of these weights -> maps [h, w, D] for
labelgen.patch_encoder. Prefix tokens, pixels' mean and std, interpolation, strides, channels, and whether the input has
one size only, are what timm says of the model; nothing is read from its name.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from huggingface_hub import hf_hub_download
from torch import Tensor, nn

from labelgen import compute, weight_files
from labelgen.core.errors import UserError
from labelgen.core.geometry import HW
from labelgen.dinov2 import NO_REGISTERS, OriginalPositions
from labelgen.layers import Layer, Layers
from labelgen.libraries import timm
from labelgen.patch_encoder import PatchEncoder, View
from labelgen.weight_files import WeightFile

HUB_FILE = "model.safetensors"
FREE_SIZE = "dynamic_img_size"
"""timm's argument for architectures that take any size, but were trained at one."""


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


class TimmTrunk:
    """A frozen model of timm. See labelgen.patch_encoder.Trunk."""

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
            found = self.model.forward_intermediates(
                pixels,
                indices=self._layers.indices,
                norm=self._norm is None,
                stop_early=True,
                intermediates_only=True,
            )
        maps = [self._normed(part.permute(0, 2, 3, 1)) for part in found]
        self._layers.check(maps, pixels.shape[-2:])
        return self._layers.joined(maps)[:, :h, :w]

    def _normed(self, found: Tensor) -> Tensor:
        """A map [B, h, w, D_i] after the norm that the model applies only to what it has pooled."""
        norm = self._norm
        if norm is None or tuple(norm.normalized_shape) != found.shape[-1:]:
            return found
        return F.layer_norm(found.float(), norm.normalized_shape, norm.weight, norm.bias, norm.eps)

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


def load_encoder(config: EncoderConfig, weights_dir: str | Path, device: str, dtype: str) -> PatchEncoder:
    """The model of a timm name, or of a model config (`name`, `model_args`) and a weight file in weights_dir.

    UserError when the name or file is not there, when the digest is another, when the file is of another model, or when
    the model gives neither patch tokens nor a map.
    """
    on = compute.torch_device(device)
    path = weight_files.find(weight_file(config, weights_dir))
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
    return PatchEncoder(TimmTrunk(model, path, layers, canvas_hw, on, compute.torch_dtype(dtype, on)), view)


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
    own = model.state_dict().keys()
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert and _without(heads, state, own).keys() != own:
        state = convert(state, model)
    model.load_state_dict(_without(heads, state, own))


def _without(heads: tuple[str, ...], state: dict[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key in own or not key.startswith(heads)}


def _canvas(model: Any, built_px: int | None, pass_hw: HW) -> HW:
    """The one size that the model takes from now on: that of a pass where timm can change it, else the one that it was
    built for, square, or trained at."""
    if not hasattr(model, "set_input_size"):
        _, height, width = model.pretrained_cfg["input_size"]
        return (built_px, built_px) if built_px else (height, width)
    with weight_files.building(f"encoder.size_px or window_px for {pass_hw[1]} x {pass_hw[0]} px a pass"):
        model.set_input_size(img_size=pass_hw)
    return pass_hw


def weight_file(config: EncoderConfig, weights_dir: str | Path) -> WeightFile:
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
    return WeightFile(
        Path(weights_dir),
        [config.weights] if config.weights else [f"{config.name}.safetensors", Path(tag.url or "").name],
        config.sha256,
        (lambda: str(hf_hub_download(hub, HUB_FILE))) if hub else None,
        f"https://huggingface.co/{hub} ({HUB_FILE})" if hub else "",
        lambda: weight_files.in_hub_cache(hub, [HUB_FILE]) if hub else None,
        licence={"apache-2.0": "Apache-2.0"}.get(tag.license, tag.license or weight_files.UNKNOWN_LICENCE),
        parameters=lambda: compute.parameters(lambda: timm.create_model(config.name, num_classes=0)),
    )
