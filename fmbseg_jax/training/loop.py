"""The loop of a training: next batch, step, figures of the step before; now and then the held-out loss, and a save.

What it works with is a `Loop`, which does not change. What changes is the state and its step, in `Loop.run`, and inside
each part what is that part's alone: the position of the batches, the compiled program, the step of the last figures.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import jax

from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.checkpoint import Checkpoints
from fmbseg_jax.runs.head import State
from fmbseg_jax.runs.settings import TrainConfig
from fmbseg_jax.training.batch import Batch
from fmbseg_jax.training.costs import Cost, cost
from fmbseg_jax.training.device_batches import Batches, place_flags
from fmbseg_jax.training.feed import rows_of_batch
from fmbseg_jax.training.finite import finite, no_longer_finite
from fmbseg_jax.training.logs import MetricsLog, NoLog
from fmbseg_jax.training.mesh import Layout
from fmbseg_jax.training.step import Metrics, Teacher, named
from fmbseg_jax.training.task import HeldOut, Task
from labelgen.core.errors import UserError
from labelgen.core.progress import Progress, StageTimes

_IN_THE_LOOP = ("wait for data", "steps", "held-out loss", "save")


class Step:
    """A jitted step, compiled with its first batch."""

    def __init__(self, jitted: Any, teacher: Teacher):
        """jitted: state, batch, teacher -> state, metrics."""
        self._program, self._teacher = jitted, teacher
        self.cost: Cost | None = None
        """Of a step, once it is compiled."""

    def compile(self, state: State, batch: Batch) -> Cost:
        """Compiles the step for states and batches like these; returns what it costs."""
        arguments = state, batch, self._teacher
        compiled = self._program.lower(*arguments).compile()
        self.cost = cost(self._program, compiled, arguments, jax.device_count())
        self._program = compiled
        return self.cost

    def __call__(self, state: State, batch: Batch) -> tuple[State, Metrics]:
        """The state after the batch; the one before is donated."""
        stepped: tuple[State, Metrics] = self._program(state, batch, self._teacher)
        return stepped


class Figures:
    """The log of a training: every few steps their metrics, and where the time since the last line went."""

    def __init__(self, log: MetricsLog | NoLog, every: int, times: StageTimes, step: int):
        """step: the last one that is in the log already."""
        self._log, self._every, self._times, self._step = log, every, times, step

    def write_step(self, step: int, figures: dict[str, float], price: Cost | None) -> None:
        """Figures of a step that is done, where it is one to log."""
        if step % self._every == 0:
            self._log.write(step, figures | self._speed(step, price))

    def _speed(self, step: int, price: Cost | None) -> dict[str, float]:
        """Seconds by stage, and how near the steps come to what the device could do."""
        seconds = self._times.taken()
        figures = {f"seconds/{stage}": taken for stage, taken in seconds.items() if stage in _IN_THE_LOOP}
        steps, self._step = step - self._step, step
        if price and steps > 0 and seconds.get("steps"):
            figures["share_of_peak"] = price.least_seconds * steps / (seconds["steps"] + seconds["wait for data"])
        return figures

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Figures of another kind."""
        self._log.write(step, figures)

    def close(self) -> None:
        """Returns when the log is on disk."""
        self._log.close()


@dataclass(frozen=True)
class Loop:
    """The parts of a training, ready to begin."""

    settings: TrainConfig
    layout: Layout
    task: Task
    batches: Batches
    step: Step
    held_out: HeldOut
    checkpoints: Checkpoints
    figures: Figures
    times: StageTimes

    def run(self, state: State, start: int, preempted: Callable[[], bool]) -> int:
        """Steps from `start` to the end, or until any host is preempted; returns the step reached, which is saved."""
        steps, save_every = self.settings.optim.steps, self.settings.save_every
        flags = place_flags(self.layout)
        progress = Progress(steps - start, "steps", "train", hosts.errors())
        step, stop = start, hosts.any_of(preempted())
        in_flight: tuple[int, Metrics] | None = None
        # Nothing may go to or from a device unasked: it would stop the steps from overlapping.
        with jax.transfer_guard("disallow"):
            while step < steps and not stop:
                with self.times("wait for data"):
                    batch = replace(next(self.batches), stop=flags[preempted()])
                if step == start:
                    self._compile(state, batch)
                with self.times("steps"):
                    state, metrics = self.step(state, batch)
                    stop = self._finish(in_flight)
                step, in_flight = step + 1, (step + 1, metrics)
                if step % save_every == 0 or step == steps:
                    stop |= self._finish(in_flight)
                    in_flight = None
                    self._evaluate_and_save(step, state)
                progress.add()
        if in_flight:
            self._finish(in_flight)
            self.checkpoints.save(step, state, self.batches.position, None)
        progress.close()
        return step

    def _compile(self, state: State, batch: Batch) -> None:
        with self.times("compile"), jax.transfer_guard("allow"):
            price = self.step.compile(state, batch)
        print(price, file=hosts.errors())

    def _finish(self, in_flight: tuple[int, Metrics] | None) -> bool:
        """Waits for a step and logs it, while the next one is at work: never more than two are in flight.

        Returns whether the hosts agreed in it to stop.
        """
        if not in_flight:
            return False
        step, metrics = in_flight
        jax.block_until_ready(metrics)  # type: ignore[no-untyped-call]
        figures = named(metrics)
        stop = figures.pop("stop") > 0
        if not finite(figures):
            rows = rows_of_batch(self.task.train_rows, self.settings.feed, step - 1, self.layout.places)
            raise self._no_longer_finite(step, figures, rows)
        self.figures.write_step(step, figures, self.step.cost)
        return stop

    def _evaluate_and_save(self, step: int, state: State) -> None:
        with self.times("held-out loss"):
            figures = self.held_out(state)
            if not finite(figures):
                raise self._no_longer_finite(step, figures, self.task.held_out_rows)
            if figures:
                self.figures.write(step, figures)
        # Orbax moves arrays in ways of its own.
        with self.times("save"), jax.transfer_guard("allow"):
            self.checkpoints.save(step, state, self.batches.position, figures.get("held_out_loss"))

    def _no_longer_finite(self, step: int, figures: dict[str, float], rows: Iterable[int]) -> UserError:
        """What is wrong, once all that is good is on disk."""
        kept = self.checkpoints.newest()
        self.close()
        return no_longer_finite(step, figures, self.task.examples, rows, kept)

    def close(self) -> None:
        """Returns when checkpoints and logs are on disk."""
        with self.times("save"):
            self.checkpoints.close()
        self.figures.close()
