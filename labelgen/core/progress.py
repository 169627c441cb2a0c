"""How far a command is, how long it will take, and where the time went. No colours, with or without NO_COLOR."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TextIO

_TERMINAL_S = 0.2
_LOG_S = 10.0
_BAR = 20


class Progress:
    """`label 12/300 photos, 3.1 photos/s, 1:33 left` on stderr: behind a moving bar on a terminal, else each 10 s."""

    def __init__(
        self,
        total: int,
        unit: str,
        label: str,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._unit, self._label = total, unit, label
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._moving = _moves(self._stream)
        self._start = self._shown = clock()
        self._done = 0
        self._first: tuple[int, float] | None = None
        """Units done at first, and when: compilation and the like are no part of the rate."""

    def add(self, count: int = 1) -> None:
        """`count` units more are done."""
        self._done += count
        now = self._clock()
        self._first = self._first or (self._done, now)
        if now - self._shown >= (_TERMINAL_S if self._moving else _LOG_S):
            self._shown = now
            self._show("" if self._moving else "\n")

    def skip(self, count: int) -> None:
        """`count` units need not be done: they were, before this run."""
        self._total -= count

    def note(self, text: str) -> None:
        """A line of its own, above the moving one."""
        say(text, self._stream)

    def line(self) -> str:
        """The state in words."""
        line = f"{self._label} {self._done}/{self._total} {self._unit}"
        before, since = self._first or (0, self._start)
        if self._done == before:
            before, since = 0, self._start
        spent = self._clock() - since
        if not self._done or spent <= 0:
            return line
        rate = (self._done - before) / spent
        return f"{line}, {rate:.3g} {self._unit}/s, {duration((self._total - self._done) / rate)} left"

    def close(self) -> None:
        """Ends the moving line."""
        if self._moving:
            self._show("\n")

    def _show(self, end: str) -> None:
        line = f"\r{self._bar()}\033[K" if self._moving else self.line()
        self._stream.write(line + end)
        self._stream.flush()

    def _bar(self) -> str:
        """`[####......] ` and the line, cut to the terminal's width: a line that wraps could not be written over."""
        full = min(_BAR, _BAR * self._done // max(1, self._total))
        return f"[{'#' * full:.<{_BAR}}] {self.line()}"[: shutil.get_terminal_size().columns - 1]


def _moves(stream: TextIO) -> bool:
    """Whether a line can be written over: on a terminal that knows how."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def say(text: str, stream: TextIO | None = None) -> None:
    """A line of its own on stderr, in place of a moving one that may be there."""
    stream = sys.stderr if stream is None else stream
    stream.write(f"\r\033[K{text}\n" if _moves(stream) else text + "\n")
    stream.flush()


def duration(seconds: float) -> str:
    """0:07, 12:34 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class StageTimes:
    """Adds up the seconds of named stages: `with times("read"): ...`; `summary()` is one line of them."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._reported: dict[str, float] = {}
        self._inside: dict[str, StageTimes] = {}
        self._shares: dict[str, Callable[[], float | None]] = {}
        self._lock = Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = self._clock()
        try:
            yield
        finally:
            spent = self._clock() - start
            with self._lock:
                self._seconds[stage] = self._seconds.get(stage, 0.0) + spent

    def total(self, stage: str) -> float:
        """Seconds of a stage so far."""
        return self._seconds.get(stage, 0.0)

    def inside(self, stage: str, parts: "StageTimes") -> None:
        """`parts` says where the time of `stage` went."""
        self._inside[stage] = parts

    def share(self, name: str, of: Callable[[], float | None]) -> None:
        """`of` says, when the summary is made, which share of the time something had; None: nothing to say."""
        self._shares[name] = of

    def taken(self) -> dict[str, float]:
        """Seconds of each stage since the last call."""
        since = {stage: seconds - self._reported.get(stage, 0.0) for stage, seconds in self._seconds.items()}
        self._reported = dict(self._seconds)
        return since

    def summary(self) -> str:
        """`load 1.2 s, encode 30.4 s (clip 20.0 s, sam 10.2 s, busy 98 %), write 0.8 s`, in the order of first use.

        Stages of several threads may add up to more than has passed.
        """
        parts = {stage: times.summary() for stage, times in self._inside.items()}
        stages = [
            f"{stage} {seconds:.1f} s" + (f" ({parts[stage]})" if parts.get(stage) else "")
            for stage, seconds in self._seconds.items()
        ]
        shares = [(name, of()) for name, of in self._shares.items()]
        return ", ".join([*stages, *(f"{name} {share:.0%}" for name, share in shares if share is not None)])
