"""Training steps a second, feed included, beside the same training in plain PyTorch (benchmarks.torch_trainer).

    python -m benchmarks.train_vs_torch [--pocket] [--blocks=1] [--batch=8] [--cores=1] [--out=FILE.json]

Makes a DATA of random features, takes the fastest of several settings of the PyTorch side in short trials, then runs
`fmbseg_jax.train` and it in turns, each in a fresh process on the same cores, --repeats times. Before their first step
both must have the same loss and gradient norm on the same photos and parameters. A run's steps a second are the median
over the stretches between two readings of the clock after the warm-up, as the trainer's own log has it; "least
disturbed" is the fastest stretch of all runs. Processor time counts all processes of a side; on one core it is what
the clock would say on a machine of one's own, and chooses PyTorch's setting. Start and compilation are left out,
checkpoints too. Where CUDA is there, both use it.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from benchmarks.setting import POCKET, REAL, Shape, fresh_process, median, publish, scratch_data, spread, table
from fmbseg_jax.runs.head import make_head
from fmbseg_jax.runs.settings import TrainConfig, train_config
from fmbseg_jax.training.batch import FedBatch
from fmbseg_jax.training.step import Objective, Teacher, init_state
from fmbseg_jax.training.task import open_task
from labelgen.core.command import command, parser
from labelgen.core.config import load_config
from labelgen.core.errors import UserError
from labelgen.data.dataset import Dataset

COMPARED = 2
"""Photos on which both sides are compared."""
TOLERANCE = 1e-3
CLOCK, PROCESSOR = "clock", "processor"
Used = list[tuple[float, float]]
VARIANTS: tuple[dict[str, Any], ...] = (
    {"workers": 0, "draw_in_loader": True},
    {"workers": 1, "draw_in_loader": True},
    {"workers": 0, "draw_in_loader": False},
    {"workers": 1, "draw_in_loader": False},
)


def main(args: argparse.Namespace) -> int:
    """Trials, then turns."""
    shape = dataclasses.replace(POCKET if args.pocket else REAL, blocks=args.blocks, batch_size=args.batch)
    with scratch_data(shape, args.scratch) as data:
        settings = train_config(load_config("configs/default.py", overrides(shape, args)))
        torch_fields = {**torch_settings(settings, shape, args), "data": str(data)}
        torch_fields |= {"parameters": str(data.parent / "parameters.npz"), "rows": list(range(COMPARED))}
        ours = first_figures(settings, Path(torch_fields["data"]), Path(torch_fields["parameters"]))
        trials = tried(torch_fields, args)
        best = min(trials, key=lambda trial: trial[PROCESSOR if args.cores == 1 else CLOCK])
        torch_fields |= best["setting"]
        turns = []
        for turn in range(args.repeats):
            theirs, their_use = torch_run(torch_fields, args.cores)
            check_same(ours, theirs)
            turns.append(
                {
                    "ours": seconds_a_step(*our_run(data, shape, args, turn), args),
                    "torch": seconds_a_step(theirs["at"], their_use, args),
                }
            )
            print(json.dumps(turns[-1]), file=sys.stderr, flush=True)
    result = {"shape": dataclasses.asdict(shape), "cores": args.cores, "trials": trials, "turns": turns}
    result |= {"first": {"ours": ours, "torch": {name: theirs[name] for name in ours}}}
    publish(args, result, text(result, best["setting"]))
    return 0


def overrides(shape: Shape, args: argparse.Namespace) -> list[str]:
    """The trainer's fields: defaults but for the shape, and how often it logs."""
    return [
        *shape.overrides,
        f"train.steps={args.steps}",
        f"train.warmup_steps={args.steps // 4}",
        f"train.log_every={args.every}",
        f"train.save_every={args.steps}",
    ]


def torch_settings(settings: TrainConfig, shape: Shape, args: argparse.Namespace) -> dict[str, Any]:
    """Fields of torch_trainer.Settings from the trainer's own."""
    optimiser = vars(settings.optim)
    return {
        **optimiser,
        "every": args.every,
        "threads": args.cores,
        "batch_size": shape.batch_size,
        "patches_per_photo": shape.patches_per_photo,
        "blocks": shape.blocks,
        "heads": settings.head.heads,
        "temperature": settings.loss.temperature,
    }


def first_figures(settings: TrainConfig, path: Path, parameters: Path) -> dict[str, float]:
    """Loss and gradient norm of all patches of the first rows; writes the parameters that they are of."""
    data = Dataset.open(path)
    task = open_task(data, settings)
    head = make_head(settings.head, data.text_width, jax.default_backend())
    params = init_state(head, settings.loss, optax.sgd(0.1), data.feature_width, jax.random.key(0)).params
    named = jax.tree_util.tree_flatten_with_path(params["head"])[0]
    arrays = {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(value) for path, value in named}
    np.savez(parameters, allow_pickle=False, class_weights=task.class_weights, **arrays)
    examples = [task.examples[row] for row in range(COMPARED)]
    batch = FedBatch(**{name: jnp.stack([example[name] for example in examples]) for name in examples[0]})
    objective = Objective(head, settings.loss, task.ontology.word_class, one_device()).on_all_patches()
    teacher = Teacher(jnp.asarray(task.prototypes), jnp.asarray(task.class_weights))

    @jax.jit
    @jax.value_and_grad
    def loss(params: Any) -> jax.Array:
        outcome = objective(params, batch, teacher, jax.random.key(0))
        return outcome.total / outcome.weight

    value, gradient = loss(params)
    return {"loss": float(value), "gradient_norm": float(optax.tree.norm(gradient))}


def one_device() -> Mesh:
    """The trainer's mesh on the first device."""
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model"))


def check_same(ours: dict[str, float], theirs: dict[str, Any]) -> None:
    """UserError unless both sides are at the same place of the same function."""
    for name, value in ours.items():
        if not abs(theirs[name] - value) <= TOLERANCE * abs(value):
            raise UserError(f"{name} of the first batch: {value} here, {theirs[name]} in PyTorch; they do not compare")


def tried(given: dict[str, Any], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds a step of the PyTorch side's settings: how it is fed, then whether to compile what is fed best."""
    short = {**given, "steps": args.every * 8, "warmup_steps": args.every}
    feeds = VARIANTS[2:] if given["blocks"] else VARIANTS
    trials = [trial(short, setting, args) for setting in feeds]
    fastest = min(trials, key=lambda one: one[PROCESSOR if args.cores == 1 else CLOCK])["setting"]
    return [*trials, trial(short, {**fastest, "compile": True}, args)]


def trial(given: dict[str, Any], setting: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """One of them."""
    result, used = torch_run({**given, **setting}, args.cores)
    one = {"setting": setting, **seconds_a_step(result["at"], used, args)}
    print(json.dumps(one), file=sys.stderr, flush=True)
    return one


def torch_run(given: dict[str, Any], cores: int) -> tuple[dict[str, Any], Used]:
    """What benchmarks.torch_trainer says, and Finished.used."""
    finished = fresh_process("benchmarks.torch_trainer", [json.dumps(given)], cores)
    return json.loads(finished.out), finished.used


def our_run(data: Path, shape: Shape, args: argparse.Namespace, turn: int) -> tuple[list[float], Used]:
    """Trains as a user would; the times of its log lines, and Finished.used."""
    workdir = data.parent / f"run-{turn}"
    fields = [f"--config.{field}" for field in overrides(shape, args)]
    finished = fresh_process(
        "fmbseg_jax.train",
        ["--config=configs/default.py", f"--data={data}", f"--workdir={workdir}", *fields],
        args.cores,
    )
    events = [event for file in workdir.glob("events.*") for event in EventFileLoader(str(file)).Load()]
    return [event.wall_time for event in events if event.HasField("summary")], finished.used


def seconds_a_step(at: list[float], used: Used, args: argparse.Namespace) -> dict[str, float]:
    """After the warm-up, the first quarter: "clock", "least disturbed" and "processor" seconds of a step.

    at: when the clock was read, each `every` steps.
    """
    kept = np.array(at[len(at) // 4 :])
    stretches = np.diff(kept) / args.every
    work = np.diff(np.interp(kept[[0, -1]], *np.transpose(used)))[0] / (len(stretches) * args.every)
    return {CLOCK: median(stretches), "least disturbed": float(stretches.min()), PROCESSOR: float(work)}


def text(result: dict[str, Any], setting: dict[str, Any]) -> str:
    """The README's rows."""
    turns, first, shape = result["turns"], result["first"], result["shape"]
    rates = [[1 / turn[side][CLOCK] for turn in turns] for side in ("ours", "torch")]
    best = [1 / min(turn[side]["least disturbed"] for turn in turns) for side in ("ours", "torch")]
    work = [[1e3 * turn[side][PROCESSOR] for turn in turns] for side in ("ours", "torch")]
    ratios = [mine / theirs for mine, theirs in zip(*rates, strict=True)]
    work_ratios = [theirs / mine for mine, theirs in zip(*work, strict=True)]
    row = [
        f"D={shape['feature_width']}, N={shape['grid_hw'][0]} x {shape['grid_hw'][1]}, blocks {shape['blocks']}",
        shape["batch_size"],
        *map(spread, rates),
        f"**{median(ratios):.2f}** ({min(ratios):.2f} .. {max(ratios):.2f})",
        f"{best[0]:.3g} / {best[1]:.3g} = {best[0] / best[1]:.2f}",
        f"{median(work[0]):.0f}, {median(work[1]):.0f}: {median(work_ratios):.2f} "
        f"({min(work_ratios):.2f} .. {max(work_ratios):.2f})",
        words(setting),
    ]
    heads = ["shape", "batch", "ours, steps/s", "PyTorch, steps/s", "ratio", "least disturbed"]
    heads += ["processor ms a step: ours, PyTorch's, ratio", "PyTorch's setting"]
    trials = [[words(t["setting"]), f"{t[CLOCK]:.3f}", f"{t[PROCESSOR]:.3f}"] for t in result["trials"]]
    loss, norm = ([side[name] for side in first.values()] for name in ("loss", "gradient_norm"))
    return (
        f"{table(heads, [row])}\n\nBefore the first step: loss {loss[0]:.6f} and {loss[1]:.6f}, "
        f"gradient norm {norm[0]:.6f} and {norm[1]:.6f}.\n\n"
        + table(["PyTorch setting tried", "s a step", "processor s a step"], trials)
    )


def words(setting: dict[str, Any]) -> str:
    """A setting on one line."""
    return ", ".join(f"{name} {value}" for name, value in setting.items())


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--pocket", action="store_true", help="the pocket world's shape instead of D=1024, 37 x 37")
    flags.add_argument("--blocks", type=int, default=0, help="transformer blocks of the head")
    flags.add_argument("--batch", type=int, default=32, help="photos a step")
    flags.add_argument("--cores", type=int, default=1, help="cores, and threads, of either side")
    flags.add_argument("--steps", type=int, default=80, help="of a run; its first quarter warms up")
    flags.add_argument("--every", type=int, default=10, help="steps between two readings of the clock")
    flags.add_argument("--repeats", type=int, default=5, help="turns")
    flags.add_argument("--scratch", default="", metavar="FOLDER", help="where the DATA is made for the time")
    flags.add_argument("--out", metavar="FILE", help="the figures as JSON")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
