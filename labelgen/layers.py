"""Which of a network's layers the patch features are, and how several become one.

Data flow: encoder.layers, encoder.join and what a network says of its layers -> Layers -> one map of features.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from labelgen.core.config import LAST
from labelgen.core.errors import UserError


class Layer(NamedTuple):
    """What a layer gives: channels, and px between two cells of its map."""

    width: int
    stride_px: int


class Layers:
    """The layers that are taken, in the network's order."""

    def __init__(self, wanted: Sequence[int], join: str, there: Sequence[Layer], name: str) -> None:
        """wanted: places among `there`, negative from the end; join: concatenate or mean.

        UserError for a layer that there is not, and for the mean of layers of different width.
        """
        count = len(there)
        wrong = [i for i in wanted if not -count <= i < count]
        if wrong:
            raise UserError(
                f"encoder.layers has {wrong[0]}, but {name} has {count}: 0 ... {count - 1}, or from the end -1 ... "
                f"{-count}"
            )
        self._name = name
        self.indices = sorted({i % count for i in wanted})
        self._taken = [there[i] for i in self.indices]
        widths, strides = zip(*self._taken, strict=True)
        self.patch_px, self.unit_px = min(strides), max(strides)
        self._mean = join == "mean"
        if self._mean and len(set(widths)) > 1:
            raise UserError(
                f"encoder.join = 'mean', but layers {self.indices} of {name} have {list(widths)} channels; set "
                "--config.encoder.join=concatenate"
            )
        self.width = widths[0] if self._mean else sum(widths)
        self._by_default = tuple(wanted) == LAST

    def check(self, maps: Sequence[Tensor], input_hw: Sequence[int]) -> None:
        """UserError unless maps [B, h_i, w_i, D_i] of an input of that many px are as the network said."""
        for i, found, (width, stride) in zip(self.indices, maps, self._taken, strict=True):
            wanted = [*(side // stride for side in input_hw), width]
            if list(found.shape[1:]) != wanted:
                raise UserError(
                    f"encoder.layers: layer {i} of {self._name} gives {list(found.shape[1:])} for {list(input_hw)} px, "
                    f"not {wanted} as its stride and width say; choose other layers or another encoder"
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
