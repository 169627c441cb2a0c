"""Patch features [h, w, D] of a photo, whatever network makes them: the head learns on these.

Data flow: a photo resized to whole patches (labelgen.core.geometry) -> its trunk's map, of the photo in one pass or
averaged over overlapping windows. Which trunk, labelgen.models.trunks says. Layers says which of a network's layers the
map is made of, and how several become one: from encoder.layers, encoder.join and what the network says of its layers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from labelgen.core.config import LAST
from labelgen.core.errors import UserError
from labelgen.core.geometry import HW, check_patches, fixed_grid, resize, spread, view_grid
from labelgen.core.threads import Busy
from labelgen.models import compute

WINDOWS_A_PASS = 16


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

    @property
    def pass_hw(self) -> HW:
        """The px that one pass sees at most."""
        return (self.window_px,) * 2 if self.window_px else (self.height_px or self.size_px, self.size_px)


class Trunk(Protocol):
    """A frozen network that gives a map of patch features, and what it says of itself."""

    device: torch.device
    dtype: torch.dtype
    """Of its products."""
    patch_px: int
    """The stride of the map: a cell of it is a patch of so many px a side."""
    width: int
    """D."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """[3] of the pixels in 0..1."""
    interpolation: str
    """Of the photo's resize, by its name in Pillow."""
    canvas_hw: HW | None
    """The only size of input it takes, px; None: any whole patches."""

    def maps(self, pixels: Tensor) -> Tensor:
        """float32 [B, H / patch_px, W / patch_px, D] of normalised pixels float32 [B, 3, H, W]."""

    def identity(self) -> dict[str, Any]:
        """`weights` (a file's name), its `sha256`, and what else the features depend on besides the pixels."""


class PatchEncoder:
    """A trunk that takes photos of any size.

    Where the trunk's input has one size only, the photo lies in its upper left part and the rest is padding of the mean
    colour, whose patches are no part of the result: every patch of it is the photo's.
    """

    def __init__(self, trunk: Trunk, view: View) -> None:
        """UserError when the view is no whole patches, or not what the trunk takes."""
        self.trunk, self.view = trunk, view
        self.device, self.patch_px, self.width = trunk.device, trunk.patch_px, trunk.width
        self.busy = Busy()
        view.check(self.patch_px)
        _check_canvas(trunk.canvas_hw, view)

    @property
    def grid_hw(self) -> HW:
        """The fixed grid h, w that every photo's patches lie on."""
        return fixed_grid(self.view.size_px, self.patch_px, self.view.height_px)

    @compute.enough_memory("encoder", "set encoder.size_px smaller, take a smaller model, or device=cpu")
    def features(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 [h', w', D] of a photo uint8 [H, W, 3], whose h' x w' patches cover it exactly."""
        size_hw = image.shape[0], image.shape[1]
        grid_hw, resized_hw = view_grid(size_hw, self.view.size_px, self.patch_px, self.view.height_px)
        resample = getattr(Image.Resampling, self.trunk.interpolation.upper())
        pixels = self.pixels(resize(image, resized_hw, resample))
        whole = not self.view.window_px or max(resized_hw) <= self.view.window_px
        features = self.maps(pixels)[0] if whole else self._windowed(pixels, grid_hw)
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
            for (y, x), found in zip(part, self.maps(windows), strict=True):
                total[y, x] += F.pad(found, (0, 1), value=1)
        return total[..., :-1] / total[..., -1:]

    def pixels(self, image: NDArray[np.uint8]) -> Tensor:
        """float32 [1, 3, H, W] normalised by the trunk's mean and std."""
        pixels = torch.from_numpy(np.array(image)).to(self.device).permute(2, 0, 1)[None].float() / 255
        mean, std = (
            torch.tensor(value, device=self.device).view(3, 1, 1) for value in (self.trunk.mean, self.trunk.std)
        )
        return (pixels - mean) / std

    @torch.inference_mode()
    def maps(self, pixels: Tensor) -> Tensor:
        """float32 [B, h, w, D] of normalised pixels [B, 3, H, W], which are whole patches, on the trunk's canvas."""
        height, width = pixels.shape[-2:]
        canvas_hw = self.trunk.canvas_hw or (height, width)
        padded = F.pad(pixels, (0, canvas_hw[1] - width, 0, canvas_hw[0] - height))
        with self.busy():
            return self.trunk.maps(padded)[:, : height // self.patch_px, : width // self.patch_px]

    def identity(self) -> dict[str, Any]:
        """What the features depend on, as JSON: weight digest, layers, size and normalisation of the pixels."""
        return {
            **self.trunk.identity(),
            **asdict(self.view),
            "patch_px": self.patch_px,
            "mean": list(self.trunk.mean),
            "std": list(self.trunk.std),
            "interpolation": self.trunk.interpolation,
        }


def _check_canvas(canvas_hw: HW | None, view: View) -> None:
    """UserError when a pass of the view is another size than the only one there is."""
    if canvas_hw is None or view.pass_hw == canvas_hw:
        return
    height, width = canvas_hw
    fields = f"encoder.size_px = {width}, encoder.height_px = {0 if height == width else height}"
    windows = f", or encoder.window_px = {width} for larger photos" if height == width else ""
    raise UserError(
        f"encoder.name takes {width} x {height} px and nothing else, but a pass has {view.pass_hw[1]} x "
        f"{view.pass_hw[0]}; set {fields}{windows}"
    )


class Layer(NamedTuple):
    """What a layer gives: channels, and px between two cells of its map."""

    width: int
    stride_px: int


class Layers:
    """The layers that are taken, in the network's order."""

    def __init__(self, layers: Sequence[int], join: str, model_layers: Sequence[Layer], name: str) -> None:
        """layers: places among `model_layers`, negative from the end; join: concatenate or mean.

        UserError for a layer that there is not, and for the mean of layers of different width.
        """
        count = len(model_layers)
        wrong = [i for i in layers if not -count <= i < count]
        if wrong:
            raise UserError(
                f"encoder.layers has {wrong[0]}, but {name} has {count}: 0 ... {count - 1}, or from the end -1 ... "
                f"{-count}"
            )
        self._name = name
        self.indices = sorted({i % count for i in layers})
        self._taken = [model_layers[i] for i in self.indices]
        widths, strides = zip(*self._taken, strict=True)
        self.patch_px, self.unit_px = min(strides), max(strides)
        self._mean = join == "mean"
        if self._mean and len(set(widths)) > 1:
            raise UserError(
                f"encoder.join = 'mean', but layers {self.indices} of {name} have {list(widths)} channels; set "
                "--config.encoder.join=concatenate"
            )
        self.width = widths[0] if self._mean else sum(widths)
        self._by_default = tuple(layers) == LAST

    def check(self, maps: Sequence[Tensor], input_hw: Sequence[int]) -> None:
        """UserError unless maps [B, h_i, w_i, D_i] of an input of that many px are as the network said."""
        for i, tensor, (width, stride) in zip(self.indices, maps, self._taken, strict=True):
            shape = [*(side // stride for side in input_hw), width]
            if list(tensor.shape[1:]) != shape:
                raise UserError(
                    f"encoder.layers: layer {i} of {self._name} gives {list(tensor.shape[1:])} for {list(input_hw)} "
                    f"px, not {shape} as its stride and width say; choose other layers or another encoder"
                )

    def joined(self, maps: Sequence[Tensor]) -> Tensor:
        """float32 [B, h, w, D] of maps [B, h_i, w_i, D_i] in the order of `indices`; coarser ones bilinearly resized to
        the finest."""
        times = [layer.stride_px // self.patch_px for layer in self._taken]
        same = [_enlarged(found.float(), by) for found, by in zip(maps, times, strict=True)]
        return torch.stack(same).mean(0) if self._mean else torch.cat(same, -1)

    def identity(self) -> dict[str, Any]:
        """As labelgen.core.config.encoder_settings has it: nothing where the config leaves it at the last layer."""
        if self._by_default:
            return {}
        return {"layers": self.indices, "join": "mean" if self._mean else "concatenate"}


def _enlarged(maps: Tensor, times: int) -> Tensor:
    if times == 1:
        return maps
    larger = F.interpolate(maps.permute(0, 3, 1, 2), scale_factor=times, mode="bilinear", align_corners=False)
    return larger.permute(0, 2, 3, 1)
