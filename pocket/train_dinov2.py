"""Trains the pocket DINOv2: what a patch's region looks like, from several drawings of a layout; no classes."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocket.dino_data import DRAWINGS, GRID, NONE, PATCH_PX, SILHOUETTES, TEXTURES, Twins, open_twins
from pocket.dino_model import WIDTH, build, features, normalise, save, whiten_patch_embedding

LAYOUTS = 1200
STAGES = ((0.5, 12, 24), (0.75, 16, 14), (1.0, GRID, 6))
"""(until this share of the time, patches a side of a crop, pictures a step); the last one is fed whole photos."""
MUON_RATE, ADAMW_RATE, WEIGHT_DECAY = 4e-3, 1.5e-3, 0.02
WARM_UP = 0.02  # share of the time
SILHOUETTE_WEIGHT = 0.5
EMA = 0.995
SAVE_EVERY_S = 90.0


class Learner(nn.Module):
    """The network and the two linear heads that name the clusters of a patch's region."""

    def __init__(self) -> None:
        super().__init__()
        self.network = build()
        self.heads = nn.Linear(WIDTH, TEXTURES + SILHOUETTES)

    def forward(self, pixels: Tensor, corner_yx: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
        """Logits [B, h, w, TEXTURES], [B, h, w, SILHOUETTES]."""
        texture, silhouette = self.heads(features(self.network, pixels, corner_yx)).float().split(
            [TEXTURES, SILHOUETTES], -1
        )
        return texture, silhouette


def targets(shares: Tensor, clusters: Tensor, count: int) -> Tensor:
    """Shares of the clusters in each patch, float32 [B, h, w, count], from those of regions [B, R, h, w] and their
    cluster ids [B, R]; a region of no cluster counts for nothing."""
    onehot = F.one_hot(clusters.clamp(min=0), count) * (clusters != NONE)[..., None]
    return torch.einsum("brhw,brk->bhwk", shares, onehot.float())


def soft_cross_entropy(logits: Tensor, shares: Tensor) -> Tensor:
    """Mean over what is labelled of -sum shares log softmax(logits)."""
    return -(shares * logits.log_softmax(-1)).sum() / shares.sum().clamp(min=1)


def batch(twins: Twins, rng: np.random.Generator, side: int, count: int) -> tuple[Any, ...]:
    """(photos uint8 [B, H, W, 3], shares float32 [B, R, h, w], layouts [B], corner_yx | None), left and right swapped
    in half of the batches."""
    if side == GRID:
        like = rng.integers(len(twins.grids))
        pool = np.flatnonzero((twins.grids == twins.grids[like]).all(1))
        corner, (h, w) = None, twins.grids[like]
        top = left = 0
    else:
        top, left = corner = tuple(int(n) for n in rng.integers(0, GRID - side + 1, 2))
        pool = np.flatnonzero((twins.grids >= np.array(corner) + side).all(1))
        h = w = side
    layouts = rng.choice(pool, count)
    rows, columns = (slice(PATCH_PX * a, PATCH_PX * (a + n)) for a, n in ((top, h), (left, w)))
    photos = twins.photos[layouts, rng.integers(DRAWINGS, size=count), rows, columns]
    shares = twins.shares[layouts, :, top : top + h, left : left + w].astype(np.float32)
    if rng.random() < 0.5:
        photos, shares = photos[:, :, ::-1], shares[..., ::-1].copy()
    return photos, torch.from_numpy(shares), torch.from_numpy(layouts), corner


def optimizers(learner: Learner) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the rest."""
    matrices = [p for p in learner.network.blocks.parameters() if p.ndim == 2]
    rest = [p for name, p in learner.named_parameters() if not (p.ndim == 2 and ".blocks." in name)]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=ADAMW_RATE, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98)),
    ]


def rate(progress: float) -> float:
    """Factor of the learning rates: warm-up, then a cosine to zero."""
    return min(1.0, progress / WARM_UP) * 0.5 * (1 + np.cos(np.pi * min(progress, 1.0)))


def loss_of(learner: Learner, twins: Twins, rng: np.random.Generator, progress: float) -> Tensor:
    _, side, count = next(stage for stage in STAGES if progress <= stage[0] or stage[0] == 1.0)
    photos, shares, layouts, corner = batch(twins, rng, side, count)
    with torch.autocast("cpu", torch.bfloat16):
        texture, silhouette = learner(normalise(learner.network, photos), corner)
    look = targets(shares, torch.from_numpy(twins.texture)[layouts], TEXTURES)
    shape = targets(shares, torch.from_numpy(twins.silhouette)[layouts], SILHOUETTES)
    return soft_cross_entropy(texture, look) + SILHOUETTE_WEIGHT * soft_cross_entropy(silhouette, shape)


def train(twins: Twins, minutes: float, scratch: Path, out: Path) -> None:
    torch.manual_seed(0)
    learner, average = Learner(), Learner()
    whiten_patch_embedding(learner.network, twins.photos[:400, 0], np.random.default_rng(1))
    average.load_state_dict(learner.state_dict())
    steppers = optimizers(learner)
    initial = [[group["lr"] for group in stepper.param_groups] for stepper in steppers]
    checkpoint = scratch / "dinov2.pt"
    step, spent, losses = 0, 0.0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        learner.load_state_dict(state["learner"])
        average.load_state_dict(state["average"])
        for stepper, kept in zip(steppers, state["steppers"], strict=True):
            stepper.load_state_dict(kept)
        step, spent = state["step"], state["spent"]
    started, saved = time.process_time() - spent, spent
    while spent < 60 * minutes:
        progress = spent / (60 * minutes)
        for stepper, rates in zip(steppers, initial, strict=True):
            for group, top in zip(stepper.param_groups, rates, strict=True):
                group["lr"] = top * rate(progress)
        loss = loss_of(learner, twins, np.random.default_rng([7, step]), progress)
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        with torch.no_grad():
            for kept, new in zip(average.parameters(), learner.parameters(), strict=True):
                kept.lerp_(new, 1 - min(EMA, step / (step + 10)))
        step, spent = step + 1, time.process_time() - started
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"step {step} minute {spent / 60:.1f} loss {np.mean(losses[-50:]):.3f}", flush=True)
        if spent - saved > SAVE_EVERY_S or spent >= 60 * minutes:
            saved = spent
            save(average.network, out)
            state = {"learner": learner.state_dict(), "average": average.state_dict(), "step": step, "spent": spent}
            torch.save(state | {"steppers": [s.state_dict() for s in steppers]}, checkpoint.with_suffix(".tmp"))
            os.replace(checkpoint.with_suffix(".tmp"), checkpoint)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains the pocket DINOv2.")
    parser.add_argument("--out", type=Path, default=Path("pocket/weights"))
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir(), "pocket-dinov2"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train(open_twins(arguments.scratch, LAYOUTS), arguments.minutes, arguments.scratch, arguments.out)


if __name__ == "__main__":
    main()
