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
from dataclasses import dataclass
from typing import Any

import jax
from ml_collections import ConfigDict

from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.checkpoint import Checkpoints
from fmbseg_jax.runs.dense_map import fit_dense_map
from fmbseg_jax.runs.head import State, make_head
from fmbseg_jax.runs.hosts import preemption
from fmbseg_jax.runs.run_folder import Run, keep_compiled, open_run
from fmbseg_jax.runs.settings import TrainConfig, train_config
from fmbseg_jax.training.costs import Cost, cost
from fmbseg_jax.training.device_batches import Batches, open_batches, place_flags
from fmbseg_jax.training.feed import check_whole_shards
from fmbseg_jax.training.logs import MetricsLog, NoLog, open_log
from fmbseg_jax.training.mesh import batch_sharding, make_mesh, own_places, replicated
from fmbseg_jax.training.step import (
    Batch,
    Metrics,
    Objective,
    Teacher,
    adamw,
    born_sharded,
    compile_held_out,
    compile_train_step,
    init_state,
)
from fmbseg_jax.training.task import HeldOut, keep_config, open_task, run_facts, stage_rows
from labelgen.core.command import INTERRUPTED, command, parser, same_config
from labelgen.core.config import load_config
from labelgen.core.files import write_json
from labelgen.core.progress import Progress, StageTimes
from labelgen.data.staging import open_data

_IN_THE_LOOP = ("wait for data", "steps", "held-out loss", "save")


def main(args: argparse.Namespace) -> int:
    """Trains; whatever stage it is in, SIGTERM or Ctrl-C makes it save and say so."""
    with preemption() as received:
        code = train(args, lambda: bool(received))
    # Over several hosts all end with the same code, whichever of them was told.
    by_hand = code == hosts.PREEMPTED and signal.SIGINT in received and hosts.count() == 1
    return INTERRUPTED if by_hand else code


def train(args: argparse.Namespace, preempted: Callable[[], bool]) -> int:
    """Config, hosts, mesh, feed, state, restore, step, loop, close."""
    times = StageTimes()
    config = load_config(args.config, args.overrides)
    settings = train_config(config)
    steps, seed = settings.optim.steps, settings.feed.seed

    with times("hosts"):
        hosts.start(**vars(settings.hosts))

    mesh = make_mesh(settings.mesh_data, settings.mesh_model)
    over_data = batch_sharding(mesh, settings.feed.batch_size)
    places = own_places(over_data, settings.feed.batch_size)
    check_whole_shards(places, settings.feed)

    with times("open"):
        run = open_run(args.workdir)
        keep_compiled(run, settings.compile_cache)
        data = open_data(args.data, config.data_cache)
    with times("stage"):
        if not stage_rows(data, settings, places, preempted):
            return hosts.PREEMPTED
    with times("open"):
        task = open_task(data, settings)
        facts = run_facts(config, settings, data, task)
        keep_config(run, facts)

    with times("state"):
        head = make_head(settings.head, data.text_width)
        optimiser = adamw(**vars(settings.optim))
        fresh = born_sharded(
            lambda key: init_state(head, settings.loss, optimiser, data.feature_width, key), seed, mesh
        )

    with times("dense map"):
        dense_map = fit_dense_map(data, settings.feed.split, config.labels.variant)

    with times("restore"):
        checkpoints = Checkpoints(run, task.prototypes, facts, dense_map)
        start, state, position = checkpoints.restore(fresh, facts["identity"])
    if start == steps:
        checkpoints.close()
        hosts.say(f"{run.name} is trained already, to step {steps}; {next_command(args, config)}")
        return 0
    if start:
        print(f"going on from step {start}", file=hosts.errors())

    with times("load"):
        feed = open_batches(
            task.examples, task.train_rows, settings.feed, steps, places, over_data, position["next_index"]
        )

    objective = Objective(head, settings.loss, task.ontology.word_class, mesh)
    teacher = Teacher(*jax.device_put((task.prototypes, task.class_weights), replicated(mesh)))
    loop = Loop(
        settings=settings,
        feed=feed,
        step=compile_train_step(objective, optimiser, seed, state, mesh),
        held_out=HeldOut(task, compile_held_out(objective, seed, state, mesh), teacher, over_data, places),
        teacher=teacher,
        flags=place_flags(places, over_data),
        checkpoints=checkpoints,
        log=open_log(run, start),
        times=times,
        logged=start,
    )
    reached = loop.run(state, start, preempted)
    loop.close()
    return finish(args, config, run, loop, reached)


@dataclass
class Loop:
    """All that a training loop holds on to."""

    settings: TrainConfig
    feed: Batches
    step: Any
    """State, batch, teacher -> state, metrics: jitted, compiled with the first batch."""
    held_out: HeldOut
    teacher: Teacher
    flags: tuple[Batch, Batch]
    checkpoints: Checkpoints
    log: MetricsLog | NoLog
    times: StageTimes
    loss: float | None = None
    """The last one on held-out rows."""
    cost: Cost | None = None
    """Of a step, once it is compiled."""
    logged: int = 0
    """The step of the last line of figures."""

    def run(self, state: State, start: int, preempted: Callable[[], bool]) -> int:
        """Steps from `start` to the end, or until any host is preempted; returns the step reached, which is saved."""
        steps, save_every = self.settings.optim.steps, self.settings.save_every
        progress = Progress(steps - start, "steps", "train", hosts.errors())
        step, stop = start, hosts.any_of(preempted())
        pending: tuple[int, Metrics] | None = None
        # Nothing may go to or from a device unasked: it would stop the steps from overlapping.
        with jax.transfer_guard("disallow"):
            while step < steps and not stop:
                with self.times("wait for data"):
                    batch = {**next(self.feed), **self.flags[preempted()]}
                if step == start:
                    self._compile(state, batch)
                with self.times("steps"):
                    state, metrics = self.step(state, batch, self.teacher)
                    stop = self._finish(pending)
                step, pending = step + 1, (step + 1, metrics)
                if step % save_every == 0 or step == steps:
                    stop |= self._finish(pending)
                    pending = None
                    self._evaluate_and_save(step, state)
                progress.add()
        if pending:
            self._finish(pending)
            self.checkpoints.save(step, state, self.feed.position, None)
        progress.close()
        return step

    def _compile(self, state: State, batch: Batch) -> None:
        with self.times("compile"), jax.transfer_guard("allow"):
            arguments = state, batch, self.teacher
            compiled = self.step.lower(*arguments).compile()
            self.cost = cost(self.step, compiled, arguments, jax.device_count())
            self.step = compiled
        print(self.cost, file=hosts.errors())

    def _finish(self, pending: tuple[int, Metrics] | None) -> bool:
        """Waits for a step and logs it, while the next one is at work: never more than two are in flight.

        Returns whether the hosts agreed in it to stop.
        """
        if not pending:
            return False
        step, metrics = pending
        jax.block_until_ready(metrics)  # type: ignore[no-untyped-call]
        if step % self.settings.log_every == 0:
            figures = {name: float(value) for name, value in jax.device_get(metrics).items() if name != "stop"}
            self.log.write(step, figures | self._speed(step))
        return bool(jax.device_get(metrics["stop"]))

    def _speed(self, step: int) -> dict[str, float]:
        """Where the time since the last line went, and how near the steps come to what the device could do."""
        seconds = self.times.taken()
        figures = {f"seconds/{stage}": taken for stage, taken in seconds.items() if stage in _IN_THE_LOOP}
        done, self.logged = step - self.logged, step
        if self.cost and done > 0 and seconds.get("steps"):
            figures["share_of_peak"] = self.cost.least_seconds * done / (seconds["steps"] + seconds["wait for data"])
        return figures

    def _evaluate_and_save(self, step: int, state: State) -> None:
        with self.times("held-out loss"):
            figures = self.held_out(state, self.settings.feed.batch_size)
            self.loss = figures.get("held_out_loss")
            if figures:
                self.log.write(step, figures)
        # Orbax moves arrays in ways of its own.
        with self.times("save"), jax.transfer_guard("allow"):
            self.checkpoints.save(step, state, self.feed.position, self.loss)

    def close(self) -> None:
        """Returns when checkpoints and logs are on disk."""
        with self.times("save"):
            self.checkpoints.close()
        self.log.close()


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
    if config.eval.splits:
        return f"next: python -m fmbseg_jax.evaluate {same_config(args)} --data={args.data} --workdir={args.workdir}"
    return f"next: python -m fmbseg_jax.predict --workdir={args.workdir} --data={args.data} --out=MASKS"


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m fmbseg_jax.train`."""
    flags = parser(__doc__ or "", stopped="the same command goes on from the last step that was saved")
    flags.add_argument("--data", required=True, metavar="DATA", help="folder or url that labelgen.run wrote")
    flags.add_argument("--workdir", required=True, metavar="RUN", help="folder or url for checkpoints and logs")
    return flags


if __name__ == "__main__":
    hosts.leave(command(main, arguments()))
