"""The same training in plain PyTorch, as the other side of benchmarks.train_vs_torch; it knows nothing of JAX.

    python -m benchmarks.torch_trainer '{"data": ..., "steps": 60, ...}'     # Settings as JSON

Same records by the same readers, same head, prototype cross-entropy, AdamW with warm-up, cosine and clipping. What a
PyTorch engineer would do is done: a Dataset that keeps a small split in memory, DataLoader workers, patches drawn where
they are read so that a batch is 128 patches a photo and not all, targets kept as three classes a patch, fused AdamW,
torch.compile; each a setting, since what helps differs from machine to machine.
"""

import argparse
import functools
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from labelgen.core.command import command, parser
from labelgen.data.dataset import Dataset as Data
from labelgen.data.records import FeatureRow, LabelRow

Example = dict[str, Tensor]


@dataclass(frozen=True)
class Settings:
    """One run."""

    data: str
    parameters: str
    """.npz of the first parameters, in flax's names and layouts, and `class_weights`."""
    rows: list[int]
    """The batch on which both sides are compared before the first step."""
    steps: int
    every: int
    """Steps between two readings of the clock."""
    threads: int
    batch_size: int
    patches_per_photo: int
    blocks: int
    heads: int
    temperature: float
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    workers: int = 0
    draw_in_loader: bool = True
    compile: bool = False
    memory_bytes: int = 1 << 30

    @property
    def device(self) -> str:
        """cuda where there is one."""
        return "cuda" if torch.cuda.is_available() else "cpu"


class Photos(Dataset[Example]):
    """A photo: features [n, D] bfloat16, classes int64 and shares uint8 [n, 3], valid bool [n]; n is N or drawn."""

    def __init__(self, data: Data, draw: int, memory_bytes: int):
        self._features, self._labels = data.reader("features", "train"), data.label_reader("default", "train")
        self._draw = draw
        size = 2 * math.prod(data.grid_hw) * data.feature_width * len(self._features)
        self._photo = functools.cache(self._read) if size <= memory_bytes else self._read

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, row: int) -> Example:
        photo = self._photo(row)
        if not self._draw:
            return photo
        take = draw_patches(photo["shares"][None], self._draw)[0]
        return {name: value[take] for name, value in photo.items()}

    def _read(self, row: int) -> Example:
        view = FeatureRow.decode(self._features[row])
        _, classes, shares = LabelRow.decode_targets(self._labels[row])
        valid = np.zeros(view.features.shape[:2], bool)
        valid[: view.grid_hw[0], : view.grid_hw[1]] = True
        bits = view.features.reshape(valid.size, -1).view(np.int16)
        return {
            "features": torch.from_numpy(bits.copy()).view(torch.bfloat16),
            "classes": torch.from_numpy(classes.reshape(-1, 3).astype(np.int64)),
            "shares": torch.from_numpy(shares.reshape(-1, 3).copy()),
            "valid": torch.from_numpy(valid.reshape(-1)),
        }


def draw_patches(shares: Tensor, count: int) -> Tensor:
    """int64 [B, count] of shares [B, N, 3]: random patches, labelled ones first."""
    order = torch.rand(shares.shape[:2], device=shares.device) + (shares > 0).any(-1)
    return order.topk(count, sorted=False).indices


class Block(nn.Module):
    """fmbseg_jax.runs.head.Block."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_0, self.norm_1 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x [B, N, D], valid bool [B, N]."""
        q, k, v = self.qkv(self.norm_0(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=valid[:, None, None, :])
        x = x + self.out(y.transpose(1, 2).flatten(2))
        out: Tensor = x + self.down(F.gelu(self.up(self.norm_1(x)), approximate="tanh"))
        return out


class Head(nn.Module):
    """fmbseg_jax.runs.head.Head without a hidden layer."""

    def __init__(self, width: int, text_width: int, blocks: int, heads: int):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width, eps=1e-6) if blocks else nn.Identity()
        self.project = nn.Linear(width, text_width)

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """[B, n, D], bool [B, n] -> unit rows [B, n, E]."""
        x = features.float()
        for block in self.blocks:
            x = block(x, valid)
        z: Tensor = F.normalize(self.project(self.norm(x)), dim=-1)
        return z

    def load(self, values: dict[str, np.ndarray[Any, Any]]) -> None:
        """Takes parameters in flax's names: kernels are [in, ..., out] there, qkv's [D, 3, heads, D / heads]."""
        names = {"norm_0": "LayerNorm_0", "norm_1": "LayerNorm_1"}
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                *path, kind = name.replace("blocks.", "block_").split(".")
                path = [names.get(part, part) for part in path]
                kind = kind if kind == "bias" else "scale" if "orm" in path[-1] else "kernel"
                value = torch.from_numpy(values["/".join([*path, kind])])
                if kind == "kernel":
                    width = parameter.shape[1]
                    value = value.reshape(width, -1).T
                parameter.copy_(value.reshape(parameter.shape))


class Training:
    """Head, optimiser and the step."""

    def __init__(self, settings: Settings, data: Data):
        self._settings = settings
        values = dict(np.load(settings.parameters))
        self.head = Head(data.feature_width, data.text_width, settings.blocks, settings.heads)
        self.head.load(values)
        self.head.to(settings.device)
        self._prototypes = torch.from_numpy(data.labels("default").prototypes).to(settings.device)
        self._class_weights = torch.from_numpy(values["class_weights"]).to(settings.device)
        matrices = [p for p in self.head.parameters() if p.ndim > 1]
        others = [p for p in self.head.parameters() if p.ndim == 1]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        self._optimiser = torch.optim.AdamW(
            groups, settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, self._rate)
        self._losses = torch.compile(self.losses) if settings.compile else self.losses

    def _rate(self, step: int) -> float:
        warmup, steps = self._settings.warmup_steps, self._settings.steps
        if step < warmup:
            return step / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    def losses(self, batch: Example, draw: int) -> tuple[Tensor, Tensor]:
        """(loss, agreement with the targets) of a batch, of `draw` patches a photo (0: of all that there are)."""
        features, valid, classes = batch["features"], batch["valid"], batch["classes"]
        shares = batch["shares"].float() / 255
        take = draw_patches(shares, draw) if draw else None
        if self._settings.blocks:
            z = taken(self.head(features, valid), take)
        else:
            z = self.head(taken(features, take), taken(valid, take))
        classes, shares = taken(classes, take), taken(shares, take)
        scores = z @ self._prototypes.T
        log_p = F.log_softmax(scores / self._settings.temperature, -1)
        weighted = shares * self._class_weights[classes]
        loss = -(weighted * log_p.gather(-1, classes)).sum() / weighted.sum().clamp(min=1e-6)
        with torch.no_grad():
            largest = classes.gather(-1, shares.argmax(-1, keepdim=True))[..., 0]
            mass = shares.sum(-1)
            agreement = (mass * (scores.argmax(-1) == largest)).sum() / mass.sum().clamp(min=1e-6)
        return loss, agreement

    def step(self, batch: Example, draw: int) -> tuple[Tensor, Tensor]:
        """One update."""
        self._optimiser.zero_grad(set_to_none=True)
        loss, agreement = self._losses(batch, draw)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.head.parameters(), self._settings.clip_norm)
        self._optimiser.step()
        self._schedule.step()
        return loss.detach(), agreement


def taken(x: Tensor, index: Tensor | None) -> Tensor:
    """x [B, N, ...] at index [B, n]; all of it where there is none."""
    return x if index is None else x[torch.arange(len(x), device=x.device)[:, None], index]


def compared(training: Training, photos: Photos, settings: Settings) -> dict[str, float]:
    """Loss and gradient norm of all patches of the given rows, before the first step."""
    batch = {name: torch.stack([photos[row][name] for row in settings.rows]).to(settings.device) for name in photos[0]}
    loss, _ = training.losses(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in training.head.parameters() if p.grad is not None))
    training.head.zero_grad()
    return {"loss": loss.item(), "gradient_norm": norm}


def batches(photos: Photos, settings: Settings) -> Iterator[Example]:
    """Shuffled batches without end, on the device."""
    cuda = settings.device == "cuda"
    sampler = RandomSampler(photos, num_samples=settings.steps * settings.batch_size)
    loader = DataLoader(
        photos,
        settings.batch_size,
        sampler=sampler,
        num_workers=settings.workers,
        pin_memory=cuda,
        prefetch_factor=4 if settings.workers else None,
    )
    for batch in loader:
        yield {name: value.to(settings.device, non_blocking=True) for name, value in batch.items()}


def train(settings: Settings) -> dict[str, Any]:
    """{"loss", "gradient_norm" at the start, "at": seconds of the clock every `every` steps, "last_loss"}."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    data = Data.open(settings.data)
    training = Training(settings, data)
    result: dict[str, Any] = compared(training, Photos(data, 0, 0), settings)
    in_loader = settings.draw_in_loader and not settings.blocks
    photos = Photos(data, settings.patches_per_photo if in_loader else 0, settings.memory_bytes)
    draw = 0 if in_loader else settings.patches_per_photo
    result["at"] = []
    for step, batch in enumerate(batches(photos, settings), 1):
        loss, agreement = training.step(batch, draw)
        if step % settings.every == 0:
            result |= {"last_loss": loss.item(), "last_agreement": agreement.item()}  # waits for the device
            result["at"].append(time.time())
    return result


def main(args: argparse.Namespace) -> int:
    """Trains; prints what it measured as one line of JSON, which benchmarks.train_vs_torch reads."""
    text = args.settings
    given = json.loads(Path(text).read_text() if text.endswith(".json") else text)
    print(json.dumps(train(Settings(**given))))
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("settings", metavar="SETTINGS", help="the fields of Settings, as JSON or as a file *.json")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
