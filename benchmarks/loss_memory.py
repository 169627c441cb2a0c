"""What the losses cost in memory, in chunks and by the formula over all patches at once: compiled, never run.

    python -m benchmarks.loss_memory [--out=FILE]

Compiles the training step of a linear head (D=1024, E=768, 37 x 37 patches a photo) for 21, 171 and 847 classes and
batches of 8, 32 and 128 photos on one CPU device, for both losses, with all patches and with 128 a photo. Shapes only:
nothing is allocated. "before" is the formula as it reads, which keeps scores, targets and logits of all patches; the
compiler does what it can for both. Bytes are the compiler's own count; operations are those of the matrix products in
its program, each as often as its loop goes round (its own count takes a loop for one round).
"""

import argparse
import json
import math
import re
import sys
from itertools import product
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fmbseg_jax.runs.head import make_head, take_patches
from fmbseg_jax.runs.settings import HeadConfig, LossConfig
from fmbseg_jax.training.batch import Batch, FedBatch
from fmbseg_jax.training.drawing import draw_patches, lots
from fmbseg_jax.training.losses import class_scores, dense_targets
from fmbseg_jax.training.mesh import make_mesh
from fmbseg_jax.training.step import (
    Objective,
    Outcome,
    Teacher,
    adamw,
    compile_train_step,
    init_state,
)
from labelgen.core.command import command, parser

FEATURE_WIDTH, TEXT_WIDTH, GRID_HW, SAMPLES = 1024, 768, (37, 37), 1024
CLASSES, BATCHES, PATCHES, LOSSES = (21, 171, 847), (8, 32, 128), (0, 128), ("prototype_ce", "t_supcon")
MIB = 1 << 20


class AtOnce(Objective):
    """The losses as their formulas read, over all patches at once."""

    def _own(self, params: Any, batch: Batch, teacher: Teacher, key: jax.Array, step: Any) -> jax.Array:
        """Sums over a device's photos; it is the only one."""
        photos = batch.photos(step)
        lot = lots(key, photos.row, math.prod(photos.classes.shape[1:3]))
        patches, temperature = self._project(params, photos, lot), self.temperature(params)
        scores = class_scores(patches.z, teacher.prototypes, self._word_class)
        targets = dense_targets(patches.classes, patches.shares, self._classes, self._loss.soft_targets).shares
        label, mass = targets.argmax(-1), targets.sum(-1)
        hits = jnp.sum(jnp.where(scores.argmax(-1) == label, mass, 0))
        if self._loss.loss == "prototype_ce":
            weighted = targets * teacher.class_weights[None, None]
            total = -jnp.sum(weighted * jax.nn.log_softmax(scores / temperature))
            return jnp.stack(Outcome(total, weighted.sum(), hits, mass.sum()))

        count = min(patches.z.shape[1], self._loss.supcon_samples // len(patches.z))
        if patches.z.shape[1] == lot.shape[1]:
            sample = draw_patches(lot, patches.shares.sum(-1), count)
        else:
            sample = jnp.broadcast_to(jnp.arange(count), (len(lot), count))
        drawn = [take_patches(x, sample) for x in (patches.z, mass, patches.ids, label)]
        z, sample_mass, ids, labels = (x.reshape(1, -1, *x.shape[2:]) for x in drawn)
        others = jnp.einsum("bne,se->bns", patches.z, z[0]) / temperature
        contrasted = (sample_mass[:, None] > 0) & (ids[:, None] != patches.ids[..., None])
        positive = contrasted & (labels[:, None] == label[..., None])
        logits = jnp.concatenate([scores / temperature, jnp.where(contrasted, others, -jnp.inf)], -1)
        own = jnp.take_along_axis(scores, label[..., None], -1)[..., 0] / temperature
        inner = self._loss.supcon_prototype_weight * own + jnp.where(positive, others, 0).sum(-1)
        positives = positive.sum(-1, dtype=jnp.float32) + self._loss.supcon_prototype_weight
        weight = mass * teacher.class_weights[label]
        total = -jnp.sum(weight * (inner / positives - jax.nn.logsumexp(logits, -1)))
        return jnp.stack(Outcome(total, weight.sum(), hits, mass.sum()))


def main(args: argparse.Namespace) -> int:
    """Compile them all; print the table."""
    rows = []
    for loss, patches, classes, photos in product(LOSSES, PATCHES, CLASSES, BATCHES):
        shape = {"loss": loss, "patches_per_photo": patches, "classes": classes, "batch": photos}
        before, after = (cost(kind, loss, patches, classes, photos) for kind in (AtOnce, Objective))
        rows.append({**shape, "before": before, "after": after})
        print(line(rows[-1]), file=sys.stderr, flush=True)
    print(table(rows))
    if args.out:
        Path(args.out).write_text(json.dumps({"jax": jax.__version__, "rows": rows}, indent=1) + "\n")
        print(f"\nwrote {args.out}")
    return 0


def cost(kind: type[Objective], loss: str, patches_per_photo: int, classes: int, batch: int) -> dict[str, int]:
    """Bytes and operations of one training step."""
    settings = LossConfig(loss, True, 0.5, 0.1, True, patches_per_photo, SAMPLES, 1.0)
    head = make_head(HeadConfig(0, 1, 0, "float32"), TEXT_WIDTH, "cpu")
    optimiser, mesh = adamw(1e-3, 1, 10, 0.01, 1.0), make_mesh(-1, 1)
    state = jax.eval_shape(lambda key: init_state(head, settings, optimiser, FEATURE_WIDTH, key), jax.random.key(0))
    objective = kind(head, settings, tuple(range(classes)), mesh)
    step: Any = compile_train_step(objective, optimiser, 0, state, mesh)
    compiled = step.lower(state, *inputs(batch, classes)).compile()
    memory = compiled.memory_analysis()
    return {
        "temp_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "matmul_flops": hlo_flops(compiled.as_text()),
    }


def inputs(photos: int, classes: int) -> tuple[FedBatch, Teacher]:
    """Shapes of a batch and a teacher."""

    def array(kind: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, kind)  # type: ignore[no-untyped-call]

    batch = {
        "features": array(jnp.bfloat16, photos, *GRID_HW, FEATURE_WIDTH),
        "grid_hw": array(jnp.int32, photos, 2),
        "row": array(jnp.int32, photos),
        "stop": array(jnp.float32, photos),
        "classes": array(jnp.uint16, photos, *GRID_HW, 3),
        "shares": array(jnp.uint8, photos, *GRID_HW, 3),
    }
    return FedBatch(**batch), Teacher(array(jnp.float32, classes, TEXT_WIDTH), array(jnp.float32, classes))


def hlo_flops(text: str) -> int:
    """Floating-point operations of the matrix products in a program of XLA's CPU compiler, loops counted in full."""
    shapes = {name: [int(n) for n in dims.split(",") if n] for name, dims in SHAPE.findall(text)}
    parts = {part[1]: part[0] for part in PART.finditer(text)}

    def flops(name: str) -> int:
        own = sum(
            2 * math.prod(shapes[out]) * math.prod(shapes[left][int(axis)] for axis in axes.split(","))
            for out, left, axes in DOT.findall(parts[name])
        )
        loops = sum(int(rounds) * flops(body) for body, rounds in LOOP.findall(parts[name]))
        return own + loops + sum(flops(part) for part in CALL.findall(parts[name]))

    return flops(re.findall(r"^ENTRY %([\w.-]+)", text, re.M)[0])


SHAPE = re.compile(r"%([\w.-]+) = \w+\[([\d,]*)\]")
PART = re.compile(r"^(?:ENTRY )?%([\w.-]+) \(.*?^}", re.M | re.S)
DOT = re.compile(r"%([\w.-]+) = \S+ dot\(%([\w.-]+), .*?lhs_contracting_dims={([\d,]+)}")
LOOP = re.compile(r' while\(.*?body=%([\w.-]+).*?"known_trip_count":{"n":"(\d+)"')
CALL = re.compile(r"(?:calls|to_apply)=%([\w.-]+)")


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: MiB of temporaries before and after, MiB of arguments, GFLOP of the matrix products."""
    head = "| loss | patches a photo | C | batch | temp before | temp after | after / before | arguments | GFLOP |"
    return "\n".join([head, "|---" * 9 + "|", *map(line, rows)])


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    before, after = row["before"], row["after"]
    flops = [f"{cost['matmul_flops'] / 1e9:.1f}" for cost in (before, after)]
    cells = [
        row["loss"],
        row["patches_per_photo"] or "all",
        row["classes"],
        row["batch"],
        f"{before['temp_bytes'] / MIB:.0f} MiB",
        f"{after['temp_bytes'] / MIB:.0f} MiB",
        f"{after['temp_bytes'] / before['temp_bytes']:.2f}",
        f"{after['argument_bytes'] / MIB:.0f} MiB",
        flops[1] if flops[0] == flops[1] else f"{flops[0]} → {flops[1]}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--out", metavar="FILE", help="also write the figures there as JSON")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
