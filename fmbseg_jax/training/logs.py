"""What a training run says of itself as it goes: RUN/metrics.jsonl and TensorBoard events."""

import json
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.run_folder import Run
from labelgen.core.files import naming, write_atomic


class MetricsLog:
    """Appends figures of steps to both files; what a killed run logged after `step` is taken back."""

    def __init__(self, workdir: Path, step: int):
        path = workdir / "metrics.jsonl"
        kept = [line for line in _lines(path) if _step(line) <= step]
        write_atomic(path, "".join(f"{line}\n" for line in kept).encode())
        self._path, self._lines = path, path.open("a")
        self._events = EventFileWriter(str(workdir))
        # Tells TensorBoard to forget what other files in RUN have from this step on.
        start = SessionLog(status=SessionLog.START)
        self._events.add_event(Event(wall_time=time.time(), step=step + 1, session_log=start))

    def write(self, step: int, figures: dict[str, float]) -> None:
        """One line and one event; both are on their way to the disk when this returns."""
        with naming(self._path):
            self._lines.write(json.dumps({"step": step, **figures}) + "\n")
            self._lines.flush()
        values = [Summary.Value(tag=name, simple_value=figure) for name, figure in figures.items()]
        self._events.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self._events.flush()

    def close(self) -> None:
        """Closes both files."""
        self._lines.close()
        self._events.close()


def open_log(run: Run, step: int) -> "MetricsLog | NoLog":
    """The log of a run that goes on after `step`, on the first process."""
    if not hosts.is_first():
        return NoLog()
    run.bring("metrics.jsonl")
    return MetricsLog(run.path, step)


class NoLog:
    """What hosts but the first have in place of a MetricsLog."""

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _step(line: str) -> float:
    """The step of a line; infinite where the line was cut off."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
