"""DINOv2 by timm: the patch features that the head learns on.

Data flow: a photo resized to whole patches (labelgen.views) -> last-layer features after the final norm.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import labelgen.torchvision_shim  # noqa: F401  (before timm, which imports torchvision)
from labelgen import compute, weight_files
from labelgen.errors import UserError
from labelgen.views import view_grid
from labelgen.weight_files import WeightFile
from labelgen.windows import HW, resize

# isort: split
import timm
from huggingface_hub import hf_hub_download
from timm.models.vision_transformer import checkpoint_filter_fn

HUB_FILE = "model.safetensors"


class EncoderConfig(Protocol):
    """The fields of `config.encoder` that load_encoder reads (see configs/default.py)."""

    name: str
    weights: str
    sha256: str
    size_px: int


class PatchEncoder:
    """A frozen ViT of timm that takes any grid of patches; the photo's longest side becomes size_px."""

    def __init__(self, model: nn.Module, path: Path, size_px: int, device: torch.device, dtype: torch.dtype) -> None:
        self.model = compute.frozen(model, device)
        self.path, self.size_px, self.device, self.dtype = path, size_px, device, dtype
        self.patch_px: int = self.model.patch_embed.patch_size[0]
        self.width: int = self.model.num_features
        settings = self.model.pretrained_cfg
        self.mean, self.std, self.interpolation = settings["mean"], settings["std"], settings["interpolation"]
        view_grid((1, 1), size_px, self.patch_px)  # refuses a size_px that is no multiple of the patch

    @property
    def grid_hw(self) -> HW:
        """The fixed grid h, w that every photo's patches lie on."""
        return self.size_px // self.patch_px, self.size_px // self.patch_px

    @compute.enough_memory("DINOv2", "set encoder.size_px smaller, take a smaller model, or device=cpu")
    def features(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 [h', w', D] of a photo uint8 [H, W, 3], whose h' x w' patches cover it exactly."""
        grid_hw, resized_hw = view_grid((image.shape[0], image.shape[1]), self.size_px, self.patch_px)
        resample = getattr(Image.Resampling, self.interpolation.upper())
        tokens = self.tokens(self.pixels(resize(image, resized_hw, resample)))
        return np.asarray(tokens[0].view(*grid_hw, self.width).cpu(), np.float32)

    def pixels(self, image: NDArray[np.uint8]) -> Tensor:
        """float32 [1, 3, H, W] normalised by timm's mean and std for this model."""
        pixels = torch.from_numpy(np.array(image)).to(self.device).permute(2, 0, 1)[None].float() / 255
        mean, std = (torch.tensor(value, device=self.device).view(3, 1, 1) for value in (self.mean, self.std))
        return (pixels - mean) / std

    @torch.inference_mode()
    def tokens(self, pixels: Tensor) -> Tensor:
        """float32 [B, N, D] patch tokens after the final norm; class and register tokens are left out."""
        with compute.autocast(self.device, self.dtype):
            tokens: Tensor = self.model.forward_features(pixels)
        return tokens[:, self.model.num_prefix_tokens :].float()

    def identity(self) -> dict[str, Any]:
        """What the features depend on, as JSON: weight digest, size and normalisation of the pixels."""
        return {
            "weights": self.path.name,
            "sha256": weight_files.digest(self.path),
            "size_px": self.size_px,
            "patch_px": self.patch_px,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
        }


def load_encoder(config: EncoderConfig, weights_dir: str | Path, device: str, dtype: str) -> PatchEncoder:
    """The ViT of a timm name, or of a model config (`name`, `model_args`) and a weight file in weights_dir.

    UserError when the name or file is not there, when the digest is another, or when the file is of another model.
    """
    on = compute.torch_device(device)
    path = weight_files.find(weight_file(config, weights_dir))
    if config.name.endswith(".json"):
        described = weight_files.read_config(weights_dir, config.name, ("name", "model_args"))
        model = _create(described["name"], described["model_args"], path)
    else:
        model = _create(config.name, {}, path)
    return PatchEncoder(model, path, config.size_px, on, compute.torch_dtype(dtype, on))


def _create(name: str, model_args: dict[str, Any], path: Path) -> Any:
    """The model with these weights; official checkpoints are converted by timm itself."""
    with weight_files.building(f"encoder.name = {name!r}"):
        model: Any = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True, **model_args)
    if not getattr(model, "num_prefix_tokens", None) or not hasattr(model, "patch_embed"):
        raise UserError(f"encoder.name = {name!r} is no ViT with patch tokens, such as vit_small_patch14_dinov2")
    with weight_files.loading(path, name):
        state = weight_files.read_state(path)
        if "mask_token" in state:  # Meta's own file
            state = checkpoint_filter_fn(state, model)
        model.load_state_dict(state)
    return model


def weight_file(config: EncoderConfig, weights_dir: str | Path) -> WeightFile:
    """The file of config.encoder: timm's of that name, or that of a model config. UserError for an unknown name."""
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
        [config.weights or f"{config.name}.safetensors"],
        config.sha256,
        (lambda: str(hf_hub_download(hub, HUB_FILE))) if hub else None,
        f"https://huggingface.co/{hub} ({HUB_FILE})" if hub else "",
        lambda: weight_files.in_hub_cache(hub, [HUB_FILE]) if hub else None,
        licence={"apache-2.0": "Apache-2.0"}.get(tag.license, tag.license or weight_files.UNKNOWN_LICENCE),
        parameters=lambda: compute.parameters(lambda: timm.create_model(config.name, num_classes=0)),
    )
