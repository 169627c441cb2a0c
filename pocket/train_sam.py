"""Trains the pocket SAM: points -> masks of the scenes' regions, no classes.

    python -m pocket.train_sam [--out=pocket/weights] [--minutes=22] [--scratch=FOLDER]

Minutes are processor minutes of one core, so a busy machine changes little but the wait. The scratch folder holds
the scenes drawn ahead and the checkpoint; the same command again goes on from it.

The shipped weights: 22 minutes of one core (2,300 steps; the first four minutes with _IOU_WEIGHT = 1) and five to
draw 14,000 scenes; the loss was still falling. On 100 unseen eval scenes `python -m pocket.measure_sam --scenes=100`
found a one-point IoU of .75 on stuff and .75 on things for the best of the three masks, .66 and .69 for the one that
the predicted IoU chooses; predicted IoUs are off by +.007 on the whole and by .13 each; the automatic masks of 16 x 16
points (predicted IoU > .6, stability >= .4) hold stuff at IoU .64 and things at .71. A photo takes 0.02 s to encode and
0.19-0.24 s for 256 points on one core.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from labelgen.core.command import command, parser
from labelgen.models.libraries import Sam
from pocket import sam_data, sam_loss
from pocket.sam_model import CONFIG, EMBED, build, store

PICTURES, PROMPTS = 8, 10
SCENES = 14000
_SAVE_EVERY = 240.0  # processor seconds
_IOU_WEIGHT = 4.0  # squared errors of IoUs are small numbers
_WARM_UP = 0.02  # share of the time
_RATES = {"muon": 4e-3, "adamw": 2.5e-3}


def whitened_filters(scenes: sam_data.Scenes, count: int, patch_px: int, rng: np.random.Generator) -> torch.Tensor:
    """PCA-whitened patches as first filters [count, 3, p, p], both signs: learnt far faster from than random ones."""
    photos = [scenes.photos[i] for i in rng.integers(0, len(scenes.photos), 200)]
    corners = rng.integers(0, 100, (len(photos), 40, 2))
    patches = np.stack([
        photo[y : y + patch_px, x : x + patch_px] for photo, yx in zip(photos, corners, strict=True) for y, x in yx
    ])  # fmt: skip
    flat = (patches.reshape(len(patches), -1) - np.mean(CONFIG["pixel_mean"])) / np.mean(CONFIG["pixel_std"])
    values, vectors = np.linalg.eigh(np.cov(flat.T))
    order = np.argsort(-values)[: count // 2]
    white = (vectors[:, order] / np.sqrt(values[order] + 1e-2)).T
    both = np.concatenate([white, -white]).reshape(count, patch_px, patch_px, 3)
    return torch.from_numpy(0.3 * both.transpose(0, 3, 1, 2).copy()).float()


def fresh(scenes: sam_data.Scenes) -> Sam:
    """A model to start from."""
    torch.manual_seed(0)
    model = build(CONFIG)
    filters = model.image_encoder.patch_embed.proj.weight
    with torch.no_grad():
        filters.copy_(whitened_filters(scenes, len(filters), filters.shape[-1], np.random.default_rng(1)))
        model.image_encoder.pos_embed.normal_(std=0.02)
    return model


def optimizers(model: Sam, affinity: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the transformers' matrices, AdamW for the rest."""
    blocks = [*model.image_encoder.blocks.parameters(), *model.mask_decoder.transformer.parameters()]
    matrices = [p for p in blocks if p.ndim == 2]
    taken = {id(p) for p in matrices}
    rest = [p for p in [*model.parameters(), *affinity.parameters()] if id(p) not in taken]
    return [
        torch.optim.Muon(matrices, lr=_RATES["muon"], weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=_RATES["adamw"], weight_decay=0.01, betas=(0.9, 0.98)),
    ]


def rate(share: float) -> float:
    """The learning rate as a share of its highest after a share of the time: warm-up, flat, then a half cosine."""
    return min(1.0, share / _WARM_UP) * (1.0 if share < 0.3 else 0.5 + 0.5 * math.cos(math.pi * (share - 0.3) / 0.7))


def averaging(average: torch.Tensor, value: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
    """A moving average over the last third of the steps at first, over about 300 steps later."""
    return average.lerp(value, max(0.003, 3 / (3 + float(count))))


class Training:
    """Model, averaged model, optimisers and the time spent: all that a checkpoint keeps."""

    def __init__(self, scenes: sam_data.Scenes, seconds: float) -> None:
        self.scenes, self.seconds = scenes, seconds
        self.model, self.affinity = fresh(scenes), sam_loss.Affinity(EMBED)
        self.averaged = torch.optim.swa_utils.AveragedModel(self.model, avg_fn=averaging)
        self.optimizers = optimizers(self.model, self.affinity)
        self.step, self.spent = 0, 0.0

    def take_step(self) -> sam_loss.Losses:
        """One step on a batch that depends on the step's number alone."""
        share = self.spent / self.seconds
        rng = np.random.default_rng([sam_data.SEED, self.step])
        terms = sam_loss.losses(self.model, self.affinity, sam_data.batch(self.scenes, rng, PICTURES, PROMPTS))
        (terms.mask + _IOU_WEIGHT * terms.iou + (1 - 0.7 * share) * terms.affinity).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.affinity.parameters()], 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("highest", group["lr"]) * rate(share)
            optimizer.step()
            optimizer.zero_grad()
        self.averaged.update_parameters(self.model)
        self.step += 1
        return terms

    def state(self) -> dict[str, Any]:
        """What resumes together."""
        parts = [self.model, self.affinity, self.averaged, *self.optimizers]
        return {"parts": [part.state_dict() for part in parts], "step": self.step, "spent": self.spent}

    def restore(self, state: dict[str, Any]) -> None:
        """The state of an earlier run."""
        parts = [self.model, self.affinity, self.averaged, *self.optimizers]
        for part, kept in zip(parts, state["parts"], strict=True):
            part.load_state_dict(kept)
        self.step, self.spent = state["step"], state["spent"]


def save(training: Training, checkpoint: Path, out: Path) -> None:
    """The checkpoint, atomically, then usable weights from the averaged model."""
    partial = checkpoint.with_suffix(".partial")
    torch.save(training.state(), partial)
    os.replace(partial, checkpoint)
    store(training.averaged.module, out)


def train(training: Training, checkpoint: Path, out: Path) -> None:
    """Steps until the time is spent, saving now and then."""
    saved, sums = training.spent, np.zeros(5)
    while training.spent < training.seconds:
        started = time.process_time()
        terms = training.take_step()
        training.spent += time.process_time() - started
        sums += [terms.mask.item(), terms.iou.item(), terms.affinity.item(), terms.best, terms.chosen]
        if training.step % 50 == 0:
            mask, iou, affinity, best, chosen = sums / 50
            print(
                f"step {training.step} minute {training.spent / 60:.1f} mask {mask:.3f} iou {iou:.4f} "
                f"affinity {affinity:.3f} IoU best {best:.3f} chosen {chosen:.3f}",
                flush=True,
            )
            sums[:] = 0
        if training.spent - saved > _SAVE_EVERY:
            saved = training.spent
            save(training, checkpoint, out)
    save(training, checkpoint, out)


def main(args: argparse.Namespace) -> int:
    """Trains."""
    torch.set_num_threads(1)
    training = Training(sam_data.drawn(args.scratch, SCENES), 60 * args.minutes)
    checkpoint = args.scratch / "checkpoint.pt"
    if checkpoint.exists():
        training.restore(torch.load(checkpoint))
    train(training, checkpoint, args.out)
    print(f"wrote {args.out / 'sam.safetensors'}, {training.step} steps; next: python -m pocket.measure_sam")
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m pocket.train_sam`."""
    flags = parser(__doc__ or "", config=False, stopped="the same command goes on from its last checkpoint")
    flags.add_argument(
        "--out", type=Path, default=Path("pocket/weights"), help="folder of sam.json and sam.safetensors"
    )
    flags.add_argument("--minutes", type=float, default=22.0, help="of processor time on one core (22)")
    scratch = Path(tempfile.gettempdir(), "pocket_sam")
    flags.add_argument("--scratch", type=Path, default=scratch, help=f"scenes and checkpoint ({scratch})")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
