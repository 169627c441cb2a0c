"""Makes `import torchvision` work beside a CPU build of torch; does nothing where it works already.

timm, open_clip and segment_anything all import torchvision. Its wheel on the index is linked against CUDA:
beside a CPU torch its compiled operators do not load, and the import then fails with "operator
torchvision::nms does not exist". On such a build `install` defines the
two operators whose absence breaks the import, with a CPU implementation of `nms`, the only one that is used
here (by SamAutomaticMaskGenerator).
"""

import importlib
import sys
from typing import Any

import torch

_kept_alive: list[Any] = []  # an operator lives as long as the Library that defined it


def nms(boxes_xyxy: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Indices of the boxes that greedy non-maximum suppression keeps, by falling score.

    boxes_xyxy: float [n, 4]; scores: float [n]. Returns int64 [k], k <= n. A box goes when its IoU with a
    kept box of higher score is above `iou_threshold`; an undefined IoU (two boxes without area) suppresses
    nothing.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes_xyxy[order]
    low, high = boxes[:, :2], boxes[:, 2:]
    area = (high - low).prod(dim=1)
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        sides = torch.minimum(high[i], high[i + 1 :]) - torch.maximum(low[i], low[i + 1 :])
        overlap = sides.clamp(min=0).prod(dim=1)
        alive[i + 1 :] &= ~(overlap / (area[i] + area[i + 1 :] - overlap) > iou_threshold)
    return order[alive]


def install() -> bool:
    """Whether torchvision needed it; afterwards `import torchvision` works. Safe to call again.

    Raises whatever `import torchvision` raises for any other reason than the missing operators.
    """
    if _kept_alive:
        return True
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    else:
        return False
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", nms, "CPU")
    _kept_alive.append(library)
    importlib.import_module("torchvision")
    # torchvision.ops asks this before each call and refuses when its compiled file did not load
    extension: Any = importlib.import_module("torchvision.extension")
    extension._has_ops = lambda: True
    return True
