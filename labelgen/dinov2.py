"""DINOv2 by timm: the patch features that the head learns on.

Data flow: a photo resized to whole patches (labelgen.views) -> last-layer features after the final norm, of the photo
in one pass or averaged over overlapping windows.
"""

from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import labelgen.torchvision_shim  # noqa: F401  (before timm, which imports torchvision)
from labelgen import compute, weight_files
from labelgen.errors import UserError
from labelgen.pipeline import Busy
from labelgen.views import check_patches, fixed_grid, view_grid
from labelgen.weight_files import WeightFile
from labelgen.windows import HW, resize, spread

# isort: split
import timm
from huggingface_hub import hf_hub_download
from timm.models.vision_transformer import checkpoint_filter_fn

HUB_FILE = "model.safetensors"
NO_REGISTERS = {f"vit_{size}_patch14_dinov2" for size in ("small", "base", "large", "giant")}
"""timm's architectures whose position embeddings Meta's own code resizes otherwise than timm."""
OFFSET = 0.1
"""Patches that Meta's code adds to a side before it scales them."""
WINDOWS_A_PASS = 16


class EncoderConfig(Protocol):
    """The fields of `config.encoder` that load_encoder reads (see configs/default.py)."""

    name: str
    weights: str
    sha256: str
    size_px: int
    height_px: int
    window_px: int
    stride_px: int


@dataclass(frozen=True)
class View:
    """A photo as the encoder sees it: fitted into height_px (0: as size_px) by size_px, in windows (0: one pass)."""

    size_px: int
    height_px: int = 0
    window_px: int = 0
    stride_px: int = 0

    def check(self, patch_px: int) -> None:
        """UserError unless all are multiples of the patch."""
        fixed_grid(self.size_px, patch_px, self.height_px)
        for field, px in (("window_px", self.window_px), ("stride_px", self.stride_px)):
            if self.window_px:
                check_patches(field, px, patch_px)


class PatchEncoder:
    """A frozen ViT of timm that takes any grid of patches."""

    def __init__(self, model: nn.Module, path: Path, view: View, device: torch.device, dtype: torch.dtype) -> None:
        self.model = compute.frozen(model, device)
        self.path, self.view, self.device, self.dtype = path, view, device, dtype
        self.patch_px: int = self.model.patch_embed.patch_size[0]
        self.width: int = self.model.num_features
        settings = self.model.pretrained_cfg
        self.mean, self.std, self.interpolation = settings["mean"], settings["std"], settings["interpolation"]
        self.busy = Busy()
        view.check(self.patch_px)

    @property
    def grid_hw(self) -> HW:
        """The fixed grid h, w that every photo's patches lie on."""
        return fixed_grid(self.view.size_px, self.patch_px, self.view.height_px)

    @compute.enough_memory("DINOv2", "set encoder.size_px smaller, take a smaller model, or device=cpu")
    def features(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 [h', w', D] of a photo uint8 [H, W, 3], whose h' x w' patches cover it exactly."""
        size_hw = image.shape[0], image.shape[1]
        grid_hw, resized_hw = view_grid(size_hw, self.view.size_px, self.patch_px, self.view.height_px)
        resample = getattr(Image.Resampling, self.interpolation.upper())
        pixels = self.pixels(resize(image, resized_hw, resample))
        whole = not self.view.window_px or max(resized_hw) <= self.view.window_px
        features = self.tokens(pixels).view(*grid_hw, -1) if whole else self._windowed(pixels, grid_hw)
        return features.cpu().numpy()

    def _windowed(self, pixels: Tensor, grid_hw: HW) -> Tensor:
        """float32 [h', w', D] of pixels [1, 3, H, W]: each patch's mean over the windows that cover it."""
        patch, stride = self.patch_px, self.view.stride_px // self.patch_px
        side_hw = [min(self.view.window_px // patch, side) for side in grid_hw]
        rows, columns = (spread(*sides, stride) for sides in zip(grid_hw, side_hw, strict=True))
        places = [(slice(y, y + side_hw[0]), slice(x, x + side_hw[1])) for y in rows for x in columns]
        patches = pixels.view(3, grid_hw[0], patch, grid_hw[1], patch)
        total = torch.zeros(*grid_hw, self.width + 1, device=self.device)
        for first in range(0, len(places), WINDOWS_A_PASS):
            part = places[first : first + WINDOWS_A_PASS]
            windows = torch.stack([patches[:, y, :, x].flatten(3).flatten(1, 2) for y, x in part])
            for (y, x), tokens in zip(part, self.tokens(windows), strict=True):
                total[y, x] += F.pad(tokens, (0, 1), value=1).view(*side_hw, -1)
        return total[..., :-1] / total[..., -1:]

    def pixels(self, image: NDArray[np.uint8]) -> Tensor:
        """float32 [1, 3, H, W] normalised by timm's mean and std for this model."""
        pixels = torch.from_numpy(np.array(image)).to(self.device).permute(2, 0, 1)[None].float() / 255
        mean, std = (torch.tensor(value, device=self.device).view(3, 1, 1) for value in (self.mean, self.std))
        return (pixels - mean) / std

    @torch.inference_mode()
    def tokens(self, pixels: Tensor) -> Tensor:
        """float32 [B, N, D] patch tokens after the final norm; class and register tokens are left out."""
        with self.busy(), compute.autocast(self.device, self.dtype):
            tokens: Tensor = self.model.forward_features(pixels)
        return tokens[:, self.model.num_prefix_tokens :].float()

    def identity(self) -> dict[str, Any]:
        """What the features depend on, as JSON: weight digest, size and normalisation of the pixels."""
        return {
            "weights": self.path.name,
            "sha256": weight_files.digest(self.path),
            **asdict(self.view),
            "patch_px": self.patch_px,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
        }


class OriginalPositions:
    """timm's `_pos_embed` with other grids' position embeddings as DINOv2's own vision_transformer.py resizes them.

    Bicubic, not antialiased, by the scale (side + OFFSET) / trained side: so the models without registers were trained
    and measured. Those with registers are antialiased, to the grid's size, as timm does it.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.at = lru_cache(maxsize=16)(self._at)

    def __call__(self, x: Tensor) -> Tensor:
        """Embedded patches [B, h, w, D] -> tokens [B, 1 + h w, D]."""
        cls = self.model.cls_token.expand(len(x), -1, -1)
        return torch.cat([cls, x.flatten(1, 2)], 1) + self.at(*x.shape[1:3])

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
        if config.name.partition(".")[0] in NO_REGISTERS:
            model._pos_embed = OriginalPositions(model)
    view = View(config.size_px, config.height_px, config.window_px, config.stride_px)
    return PatchEncoder(model, path, view, on, compute.torch_dtype(dtype, on))


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
