"""Linear probe of the pocket DINOv2: how well one linear map tells the classes from frozen patch features.

    python -m pocket.probe [--weights=pocket/weights] [--photos=100]

The only place where a class meets these features; nothing is trained on it.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from labelgen.core.command import command, parser
from labelgen.models.patch_encoder import PatchEncoder
from labelgen.models.trunks import load_timm
from pocket.scenes import CLASSES, STUFF, Scene, draw

SIZE_PX = 192
STEPS, BATCH, RATE = 1500, 2048, 3e-3


def patch_truth(mask: NDArray[np.uint8], grid_hw: tuple[int, int]) -> NDArray[np.int64]:
    """Most frequent class index of each patch, int64 [h, w], of a label map uint8 [H, W]."""
    h, w = grid_hw
    resized = np.asarray(Image.fromarray(mask).resize((8 * w, 8 * h), Image.Resampling.NEAREST))
    patches = resized.reshape(h, 8, w, 8)
    counts = np.stack([(patches == c).sum((1, 3)) for c in range(len(CLASSES))])
    return np.asarray(counts.argmax(0))


def patches(encoder: PatchEncoder, scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """(features float32 [n, D], classes int64 [n]) of all patches of the scenes."""
    rows, truth = [], []
    for scene in scenes:
        found = encoder.features(scene.photo)
        rows.append(found.reshape(-1, found.shape[-1]))
        truth.append(patch_truth(scene.mask, found.shape[:2]).ravel())
    return torch.from_numpy(np.concatenate(rows)), torch.from_numpy(np.concatenate(truth))


def fit(rows: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """(W [D, C], b [C]) by softmax regression on standardised rows."""
    mean, deviation = rows.mean(0), rows.std(0) + 1e-6
    weight = torch.zeros(rows.shape[1], len(CLASSES), requires_grad=True)
    bias = torch.zeros(len(CLASSES), requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        chosen = torch.randint(len(rows), (BATCH,), generator=generator)
        loss = F.cross_entropy((rows[chosen] - mean) / deviation @ weight + bias, truth[chosen])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    scaled = weight.detach() / deviation[:, None]
    return scaled, bias.detach() - mean @ scaled


def class_iou(predicted: Tensor, truth: Tensor) -> NDArray[np.float64]:
    """IoU of each class, float64 [C], from class indices int64 [n]."""
    count = len(CLASSES)
    confusion = torch.bincount(truth * count + predicted, minlength=count * count).view(count, count).double().numpy()
    hits = np.diag(confusion)
    return np.asarray(hits / np.maximum(confusion.sum(0) + confusion.sum(1) - hits, 1))


def main(args: argparse.Namespace) -> int:
    """Fits on scenes of train, measures on the other splits."""
    torch.set_num_threads(1)
    fields = {
        "size_px": SIZE_PX,
        "height_px": 0,
        "window_px": 0,
        "stride_px": 0,
        "layers": (-1,),
        "join": "concatenate",
    }
    config = SimpleNamespace(name="dinov2.json", weights="dinov2.safetensors", sha256="", **fields)
    encoder = load_timm(config, args.weights, "cpu", "bfloat16")
    weight, bias = fit(*patches(encoder, [draw(0, i, "train") for i in range(args.photos)]))
    for split in ("eval", "held_out"):
        rows, truth = patches(encoder, [draw(0, i, split) for i in range(args.photos)])
        iou = class_iou((rows @ weight + bias).argmax(1), truth)
        stuff, things = iou[: len(STUFF)].mean(), iou[len(STUFF) :].mean()
        print(f"{split}: mIoU {iou.mean():.3f}, stuff {stuff:.3f}, things {things:.3f}", flush=True)
        print("  " + ", ".join(f"{name} {value:.2f}" for name, value in zip(CLASSES, iou, strict=True)), flush=True)
    print("wrote nothing; next, if it is good enough: python -m labelgen.run --config=configs/pocket.py --out=DATA")
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m pocket.probe`."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument(
        "--weights", type=Path, default=Path("pocket/weights"), help="folder of dinov2.json and its file"
    )
    flags.add_argument("--photos", type=int, default=100, help="scenes a split; the probe fits on those of train (100)")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
