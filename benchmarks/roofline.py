"""The training step's floating-point operations a second beside a plain matrix product's, for the shipped configs.

    python -m benchmarks.roofline [configs/voc.py ...] [--blocks=1] [--batch=8] [--repeats=15] [--out=FILE.json]

The batch lies on the device: no feed. FLOPs are those of the matrix products that the step asks for (2 M N K each);
the plain product is jnp's of the same shape and type as the head's largest one: [photos x patches in it, D] by [D, E],
or by [D, 4 D] with blocks. Beside it, the same product with the gradient by its kernel, which is all that a linear head
must do: the step's distance from that is what drawing, loss and optimiser add. All are timed in turns after a warm-up.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from benchmarks.programs import Program, program
from benchmarks.setting import Shape, median, publish, spread, table
from fmbseg_jax.runs.settings import train_config
from fmbseg_jax.training.costs import matmul_flops
from labelgen.core.command import command, parser
from labelgen.core.config import load_config
from labelgen.core.errors import UserError
from labelgen.core.ontology import parse_words
from labelgen.core.shipped import HOME

CONFIGS = ("configs/pocket.py", "configs/voc.py", "configs/coco_stuff.py", "configs/context.py")
ENCODERS = {"vit_large_patch14_dinov2.lvd142m": (1024, 14)}
"""Name -> (D, patch in px)."""
TEXT_WIDTHS = {"ViT-L-14": 768, "ViT-B-16": 512}
"""CLIP's name -> E."""


def main(args: argparse.Namespace) -> int:
    """Measure each config."""
    rows = [measured(path, args) for path in args.configs or CONFIGS]
    publish(args, {"rows": rows, "device": jax.devices()[0].device_kind}, text(rows))
    return 0


def shape_of(config: ConfigDict, args: argparse.Namespace) -> Shape:
    """Sizes of a config's features, text and step. UserError for an encoder without a known width."""
    if config.encoder.name.endswith(".json"):
        folder = Path(HOME, config.weights_dir)
        encoder = json.loads((folder / config.encoder.name).read_text())["model_args"]
        width, patch = encoder["embed_dim"], encoder["patch_size"]
        text_width = json.loads((folder / config.clip.name).read_text())["embed_dim"]
    elif config.encoder.name not in ENCODERS or config.clip.name not in TEXT_WIDTHS:
        raise UserError(f"{config.encoder.name} or {config.clip.name}: no known width; add it to {__file__}")
    else:
        (width, patch), text_width = ENCODERS[config.encoder.name], TEXT_WIDTHS[config.clip.name]
    words = parse_words(Path(HOME, config.ontology).read_text().splitlines(), config.ontology)
    height = config.encoder.height_px or config.encoder.size_px
    return Shape(
        feature_width=width,
        text_width=text_width,
        grid_hw=(height // patch, config.encoder.size_px // patch),
        classes=len(words.names),
        batch_size=args.batch or config.train.batch_size,
        patches_per_photo=config.train.patches_per_photo,
        blocks=args.blocks,
    )


def measured(path: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds a step and a product, and what they do."""
    config = load_config(path)
    shape = shape_of(config, args)
    settings = train_config(config)
    train_step = program(shape, dataclasses.replace(settings.head, blocks=args.blocks), settings.loss)
    product, product_flops = plain_product(shape, settings.head.dtype)
    gradient = with_gradient(shape, settings.head.dtype)
    step = stepping(train_step)
    ways = {"step": step, "product": product, "product and gradient": gradient}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(args.repeats + 3):
        for name, run in ways.items():
            spent = timed(run)
            if turn >= 3:
                times[name].append(spent)
    cost = train_step.compiled.cost_analysis()
    flops = matmul_flops(train_step.jaxpr)
    return {
        "config": path,
        "shape": dataclasses.asdict(shape),
        "flops": {"step": flops, "product": product_flops, "product and gradient": 2 * product_flops},
        "compiler's flops": cost["flops"],
        "compiler's bytes": cost["bytes accessed"],
        "seconds": times,
    }


def stepping(train_step: Program) -> Callable[[], Any]:
    """A function that takes one step each time; the state is handed on, as it is donated."""
    state = train_step.state

    def step() -> Any:
        nonlocal state
        state, metrics = train_step.compiled(state, train_step.batch, train_step.teacher)
        return metrics

    return step


def operands(shape: Shape, dtype: str) -> tuple[jax.Array, jax.Array]:
    """Of the head's largest product."""
    patches = shape.grid_hw[0] * shape.grid_hw[1]
    rows = shape.batch_size * (patches if shape.blocks else min(shape.patches_per_photo or patches, patches))
    columns = 4 * shape.feature_width if shape.blocks else shape.text_width
    key = jax.random.key(0)
    kind = jnp.dtype(dtype)
    return jax.random.normal(key, (rows, shape.feature_width), kind), jax.random.normal(
        key, (shape.feature_width, columns), kind
    )


def plain_product(shape: Shape, dtype: str) -> tuple[Callable[[], jax.Array], int]:
    """The product, and its FLOPs."""
    x, kernel = operands(shape, dtype)
    multiply = jax.jit(jnp.matmul)
    return lambda: multiply(x, kernel), 2 * x.size * kernel.shape[1]


def with_gradient(shape: Shape, dtype: str) -> Callable[[], jax.Array]:
    """Forward and the gradient by the kernel, as a linear head needs them."""
    x, kernel = operands(shape, dtype)
    gradient = jax.jit(jax.grad(lambda kernel, x: jnp.square(jnp.matmul(x, kernel)).sum()))
    return lambda: gradient(kernel, x)


def timed(run: Callable[[], Any]) -> tuple[float, float]:
    """(seconds, processor seconds of all threads) until the result is there."""
    start, work = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())  # type: ignore[no-untyped-call]
    return time.perf_counter() - start, time.process_time() - work


def text(rows: list[dict[str, Any]]) -> str:
    """The README's rows."""
    lines = []
    for row in rows:
        rates, worked = (
            {name: [row["flops"][name] / spent[i] / 1e9 for spent in turns] for name, turns in row["seconds"].items()}
            for i in range(2)
        )
        share = [a / b for a, b in zip(rates["step"], rates["product"], strict=True)]
        lines.append(
            [
                Path(row["config"]).stem,
                "D={feature_width}, E={text_width}, C={classes}, batch {batch_size}, blocks {blocks}".format(
                    **row["shape"]
                ),
                f"{row['flops']['step'] / 1e9:.1f}",
                spread([1e3 * clock for clock, _ in row["seconds"]["step"]]),
                *(spread(rates[name]) for name in ("step", "product", "product and gradient")),
                f"**{median(share):.2f}** ({min(share):.2f} .. {max(share):.2f})",
                f"{median(worked['step']) / median(worked['product']):.2f}",
            ]
        )
    heads = ["config", "shape", "GFLOP a step", "ms a step", "step, GFLOP/s", "product, GFLOP/s", "and gradient"]
    return table([*heads, "step / product", "by processor time"], lines)


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("configs", nargs="*", metavar="CONFIG", help=f"default: {' '.join(CONFIGS)}")
    flags.add_argument("--blocks", type=int, default=0, help="transformer blocks of the head")
    flags.add_argument("--batch", type=int, default=0, help="photos a step instead of the config's")
    flags.add_argument("--repeats", type=int, default=15, help="turns")
    flags.add_argument("--out", metavar="FILE", help="the figures as JSON")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
