"""Trains the head on the free labels of a DATA; the same command again goes on where it was stopped.

    python -m fmbseg_jax.train --config=configs/my_photos.py --data=DATA --workdir=RUN

Over several hosts: the same command on each, with --config.distributed (configs/default.py). DATA and RUN lie where all
can reach them: on a shared disk, or at urls (s3://, gs://, whatever fsspec knows). A signal to one is enough; they save
the same step.

Writes RUN/checkpoints (the latest and the best by the loss on held-out free labels), config.json, metrics.jsonl,
TensorBoard events and summary.json. Exit code 0: trained to train.steps; 75: stopped by SIGTERM, saved, run it again;
130: the same after Ctrl-C (a second one ends it at once); 2: something to fix. Truth is never read, except by the
oracle that train.targets=truth asks for.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import signal
from collections.abc import Callable

import jax
import optax
from ml_collections import ConfigDict

from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.checkpoint import Checkpoints
from fmbseg_jax.runs.dense_map import fit_dense_map
from fmbseg_jax.runs.head import Head, State, make_head
from fmbseg_jax.runs.hosts import preemption
from fmbseg_jax.runs.run_folder import Run, claimed, keep_compiled, open_run
from fmbseg_jax.runs.settings import TrainConfig, train_config
from fmbseg_jax.training.device_batches import open_batches
from fmbseg_jax.training.feed import check_whole_shards
from fmbseg_jax.training.logs import open_log
from fmbseg_jax.training.loop import Figures, Loop, Step
from fmbseg_jax.training.mesh import Layout, lay_out, platform, replicated
from fmbseg_jax.training.step import (
    Objective,
    Teacher,
    adamw,
    born_sharded,
    compile_held_out,
    compile_train_step,
    init_state,
)
from fmbseg_jax.training.task import HeldOut, Task, keep_config, open_task, run_facts, stage_rows
from labelgen.core.command import INTERRUPTED, command, command_line, config_flags, parser
from labelgen.core.config import load_config
from labelgen.core.files import write_json
from labelgen.core.progress import StageTimes
from labelgen.data.dataset import Dataset
from labelgen.data.staging import open_data


def main(args: argparse.Namespace) -> int:
    """Trains; whatever stage it is in, SIGTERM or Ctrl-C makes it save and say so."""
    with preemption() as received:
        code = train(args, lambda: bool(received))
    # Over several hosts all end with the same code, whichever of them was told.
    by_hand = code == hosts.PREEMPTED and signal.SIGINT in received and hosts.count() == 1
    return INTERRUPTED if by_hand else code


def train(args: argparse.Namespace, preempted: Callable[[], bool]) -> int:
    """Config, hosts, mesh, then `train_in` a RUN that is this training's alone; returns the exit code."""
    times, config = StageTimes(), load_config(args.config, args.overrides)
    settings = train_config(config)
    with times("hosts"):
        hosts.start(**vars(settings.hosts))
    layout = lay_out(settings.mesh_data, settings.mesh_model, settings.feed.batch_size)
    check_whole_shards(layout.places, settings.feed)
    with times("open"):
        run = open_run(args.workdir)
        keep_compiled(run, settings.compile_cache, args.trust_compiled)
        data = open_data(args.data, config.data_cache)
    with claimed(run):
        return train_in(run, data, args, config, settings, layout, times, preempted)


def train_in(
    run: Run,
    data: Dataset,
    args: argparse.Namespace,
    config: ConfigDict,
    settings: TrainConfig,
    layout: Layout,
    times: StageTimes,
    preempted: Callable[[], bool],
) -> int:
    """Feed, state, restore, step, loop, close; returns the exit code."""
    with times("stage"):
        if not stage_rows(data, settings, layout.places, preempted):
            return hosts.PREEMPTED
    with times("open"):
        task = open_task(data, settings)
        facts = run_facts(config, settings, data, task)
        keep_config(run, facts)
    with times("state"):
        head = head_on(layout, settings, data)
        optimiser = adamw(**vars(settings.optim))
        fresh = fresh_state(settings, data, layout, head, optimiser)
    with times("restore"):
        checkpoints = Checkpoints(run, task.prototypes, facts)
        start, state, position = checkpoints.restore(fresh, facts["identity"])
    if start == settings.optim.steps:
        return trained_already(args, config, run, checkpoints, start)
    if start:
        print(f"going on from step {start}", file=hosts.errors())
    with times("dense map"):
        checkpoints.settle_dense_map(lambda: fit_dense_map(data, settings.feed.split, config.labels.variant))
    with times("load"):
        batches = open_batches(task.examples, task.train_rows, settings.feed, settings.optim.steps, layout, position)
    step, held_out = programs(settings, task, layout, head, optimiser, state)
    figures = Figures(open_log(run, start), settings.log_every, times, start)
    loop = Loop(settings, layout, task, batches, step, held_out, checkpoints, figures, times)
    reached = loop.run(state, start, preempted)
    loop.close()
    return finish(args, config, run, loop, reached)


def head_on(layout: Layout, settings: TrainConfig, data: Dataset) -> Head:
    """The head for these devices; says what its blocks attend by there."""
    head = make_head(settings.head, data.text_width, platform(layout.mesh))
    if head.blocks:
        print(f"the head attends over patches: {head.kernel(data.feature_width)}", file=hosts.errors())
    return head


def fresh_state(
    settings: TrainConfig, data: Dataset, layout: Layout, head: Head, optimiser: optax.GradientTransformation
) -> State:
    """The state before the first step, each leaf where it stays."""
    return born_sharded(
        lambda key: init_state(head, settings.loss, optimiser, data.feature_width, key),
        settings.feed.seed,
        layout.mesh,
    )


def programs(
    settings: TrainConfig,
    task: Task,
    layout: Layout,
    head: Head,
    optimiser: optax.GradientTransformation,
    state: State,
) -> tuple[Step, HeldOut]:
    """The step and the held-out loss for states laid out as `state`; compiled when they are first used."""
    seed, mesh = settings.feed.seed, layout.mesh
    objective = Objective(head, settings.loss, task.ontology.word_class, mesh)
    teacher = Teacher(*jax.device_put((task.prototypes, task.class_weights), replicated(mesh)))
    step = Step(compile_train_step(objective, optimiser, seed, state, mesh), teacher)
    sums = compile_held_out(objective, seed, state, mesh)
    return step, HeldOut(task, sums, teacher, layout, settings.feed.batch_size)


def trained_already(args: argparse.Namespace, config: ConfigDict, run: Run, checkpoints: Checkpoints, step: int) -> int:
    """Says so; the exit code."""
    checkpoints.close()
    hosts.say(f"{run.name} is trained already, to step {step}; {next_command(args, config)}")
    return 0


def finish(args: argparse.Namespace, config: ConfigDict, run: Run, loop: Loop, reached: int) -> int:
    """summary.json, the last lines and the exit code."""
    print(f"time: {loop.times.summary()}", file=hosts.errors())
    steps = loop.settings.optim.steps
    if reached < steps:
        hosts.say(f"stopped and saved at step {reached} of {steps}; run the same command again to go on")
        return hosts.PREEMPTED
    best = loop.checkpoints.best()
    if hosts.is_first():
        write_json(run.path / "summary.json", {"step": reached, **best})
        run.send()
    hosts.say(f"trained {reached} steps into {args.workdir} ({describe(best)}); {next_command(args, config)}")
    return 0


def describe(best: dict[str, float]) -> str:
    """The best checkpoint in words."""
    if not best:
        return "no rows held out: the last checkpoint counts"
    return f"best at step {best['best_step']}: held-out loss {best['best_held_out_loss']:.4f}"


def next_command(args: argparse.Namespace, config: ConfigDict) -> str:
    """What to run after training: figures where there is truth to compare with, else a look at masks."""
    data, run = f"--data={args.data}", f"--workdir={args.workdir}"
    if config.eval.splits:
        return f"next: {command_line('fmbseg_jax.evaluate', *config_flags(args), data, run)}"
    return f"next: {command_line('fmbseg_jax.predict', run, data, '--out=MASKS')}"


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m fmbseg_jax.train`."""
    flags = parser(__doc__ or "", stopped="the same command goes on from the last step that was saved")
    flags.add_argument("--data", required=True, metavar="DATA", help="folder or url that labelgen.run wrote")
    flags.add_argument("--workdir", required=True, metavar="RUN", help="folder or url for checkpoints and logs")
    flags.add_argument(
        "--trust_compiled",
        action="store_true",
        help="take the compiled functions of a RUN at a url: machine code, so only where nobody else can write",
    )
    return flags


if __name__ == "__main__":
    hosts.leave(command(main, arguments()))
