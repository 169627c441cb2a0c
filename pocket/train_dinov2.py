"""Trains the pocket DINOv2: timm's DINOv2 ViT in miniature, self-supervised on scenes of the pocket world.

    python -m pocket.train_dinov2 [--out=pocket/weights] [--steps=1100] [--scratch=FOLDER]

Every patch predicts, linearly from its feature, the texture cluster and the silhouette cluster of the region it lies in
(pocket.regions: k-means over hand-made statistics that twins and rotations do not change). Region ids of the generator
are used, class ids never. Crops of 128 px first, whole photos for the last fifth, as the encoder sees them later.
"""

import argparse
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pocket.dino_data import NONE, PATCH_PX, SILHOUETTES, TEXTURES, Twins, open_twins
from pocket.dino_model import WIDTH, build, features, normalise, save, whiten_patch_embedding

LAYOUTS, SEED = 1200, 404
CROP, CROPS, PHOTOS = 16, 24, 8  # patches a side of a crop; crops, or whole photos, a step
WHOLE_FROM = 0.8  # share of the steps after which whole photos are seen
LEARNING_RATE, MATRIX_LEARNING_RATE, WEIGHT_DECAY, WARMUP = 1e-3, 2e-3, 0.05, 40
EMA = 0.995
SAVE_EVERY_S = 180.0


class Batch(NamedTuple):
    """photos uint8 [B, H, W, 3]; texture and silhouette float32 [B, h, w, clusters], shares of the patch; corner_yx of
    a crop in patches, None for whole photos."""

    photos: np.ndarray[Any, Any]
    texture: Tensor
    silhouette: Tensor
    corner_yx: tuple[int, int] | None


def crops(twins: Twins, step: int) -> Batch:
    """CROPS crops from one corner of the patch grid: a pure function of the step."""
    rng = np.random.default_rng([SEED, step])
    first = twins.grids[rng.integers(len(twins.grids))]
    top, left = (int(n) for n in rng.integers(0, first - CROP + 1))
    fits = np.flatnonzero((twins.grids >= (top + CROP, left + CROP)).all(1))
    chosen = rng.choice(fits, CROPS)
    return _gather(twins, rng, chosen, (slice(top, top + CROP), slice(left, left + CROP)), (top, left))


def whole(twins: Twins, step: int) -> Batch:
    """PHOTOS whole photos of one grid: a pure function of the step."""
    rng = np.random.default_rng([SEED, step])
    h, w = twins.grids[rng.integers(len(twins.grids))]
    alike = np.flatnonzero((twins.grids == (h, w)).all(1))
    return _gather(twins, rng, rng.choice(alike, PHOTOS), (slice(0, int(h)), slice(0, int(w))), None)


def _gather(
    twins: Twins,
    rng: np.random.Generator,
    chosen: np.ndarray[Any, Any],
    patches: tuple[slice, slice],
    corner_yx: tuple[int, int] | None,
) -> Batch:
    """The chosen layouts, one drawing each, cut to these patches and flipped at random."""
    rows, columns = (slice(p.start * PATCH_PX, p.stop * PATCH_PX) for p in patches)
    drawing = rng.integers(0, twins.photos.shape[1], len(chosen))
    photos = np.stack([twins.photos[i, k, rows, columns] for i, k in zip(chosen, drawing, strict=True)])
    shares = twins.shares[chosen][:, :, patches[0], patches[1]].astype(np.float32)
    if rng.random() < 0.5:
        photos, shares = photos[:, :, ::-1], shares[..., ::-1]
    targets = [
        _spread(shares, of[chosen], count) for of, count in ((twins.texture, TEXTURES), (twins.silhouette, SILHOUETTES))
    ]
    return Batch(np.ascontiguousarray(photos), targets[0], targets[1], corner_yx)


def _spread(shares: np.ndarray[Any, Any], cluster: np.ndarray[Any, Any], count: int) -> Tensor:
    """Shares of clusters [B, h, w, count] from shares of regions [B, 8, h, w] and their clusters [B, 8]."""
    belongs = (cluster[..., None] == np.arange(count)) & (cluster[..., None] != NONE)
    return torch.from_numpy(np.einsum("brhw,brk->bhwk", shares, belongs.astype(np.float32)))


def loss_fn(model: Any, heads: nn.ModuleDict, batch: Batch) -> Tensor:
    """Mean cross-entropy of both kinds of clusters over the patch area that has one."""
    with torch.autocast("cpu", torch.bfloat16):
        tokens = features(model, normalise(model, batch.photos), batch.corner_yx).float()
    losses = []
    for name, target in (("texture", batch.texture), ("silhouette", batch.silhouette)):
        log = F.log_softmax(heads[name](tokens), -1)
        losses.append(-(target * log).sum() / target.sum().clamp(min=1))
    return torch.stack(losses).sum()


def optimizers(model: nn.Module, heads: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the rest."""
    matrices = [p for n, p in model.named_parameters() if n.startswith("blocks") and p.ndim == 2]
    known = {id(p) for p in matrices}
    rest = [p for p in [*model.parameters(), *heads.parameters()] if id(p) not in known]
    return [
        torch.optim.Muon(matrices, lr=MATRIX_LEARNING_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98)),
    ]


def train(out: Path, steps: int, scratch: Path) -> None:
    """Trains from the scratch folder's checkpoint on, if there is one; writes usable weights every few minutes."""
    twins = open_twins(scratch, LAYOUTS)
    torch.manual_seed(SEED)
    model: Any = build()
    whiten_patch_embedding(model, twins.photos[:200, 0], np.random.default_rng(SEED))
    heads = nn.ModuleDict({"texture": nn.Linear(WIDTH, TEXTURES), "silhouette": nn.Linear(WIDTH, SILHOUETTES)})
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA))
    parts = {"model": model, "heads": heads, "average": average}
    parts |= {f"optimizer{i}": o for i, o in enumerate(optimizers(model, heads))}
    first = _resume(parts, scratch / "train.pt")
    saved = time.monotonic()
    for step in range(first, steps):
        loss = _step(parts, twins, step, steps)
        if step % 20 == 0:
            print(f"step {step}/{steps}  loss {loss:.4f}", flush=True)
        if time.monotonic() - saved > SAVE_EVERY_S or step == steps - 1:
            _checkpoint(parts, step + 1, scratch / "train.pt")
            save(average.module, out)
            saved = time.monotonic()
    print(f"wrote {out / 'dinov2.safetensors'}; next: python -m pocket.probe")


def _step(parts: dict[str, Any], twins: Twins, step: int, steps: int) -> float:
    batch = (whole if step >= WHOLE_FROM * steps else crops)(twins, step)
    factor = min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))
    loss = loss_fn(parts["model"], parts["heads"], batch)
    loss.backward()  # type: ignore[no-untyped-call]
    for name, optimizer in parts.items():
        if name.startswith("optimizer"):
            base = MATRIX_LEARNING_RATE if isinstance(optimizer, torch.optim.Muon) else LEARNING_RATE
            optimizer.param_groups[0]["lr"] = base * factor
            optimizer.step()
            optimizer.zero_grad()
    parts["average"].update_parameters(parts["model"])
    return float(loss.detach())


def _checkpoint(parts: dict[str, Any], step: int, path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save({"step": step} | {name: part.state_dict() for name, part in parts.items()}, partial)
    os.replace(partial, path)


def _resume(parts: dict[str, Any], path: Path) -> int:
    """The step to go on from."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    print(f"goes on from step {state['step']} of {path}")
    return int(state["step"])


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("pocket/weights"), help="folder of the weights")
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir(), "pocket-dinov2"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    train(args.out, args.steps, args.scratch)


if __name__ == "__main__":
    main()
