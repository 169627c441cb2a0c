"""Stages that overlap: work of several items at a time in threads, results in their order, never far ahead.

Used by labelgen.stages.encoding (photos read, rows written) and labelgen.models.teachers (photos through the models).
"""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Any, Protocol, TypeVar

SPANS = 1000
"""Blocks that Busy keeps before it adds them up."""

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    items: Iterable[T],
    work: Callable[[T], R],
    threads: int,
    depth: int,
    begin: Callable[[], None] = lambda: None,
) -> Generator[R, None, None]:
    """What `work` makes of each item, in the items' order; at most `depth` of them are begun and not taken yet.

    An exception of `work` is raised when its item's turn comes. Items are drawn in the caller's thread; `begin` runs
    first in each thread. Closed early, it drops what is not begun and waits for the rest.
    """
    pool = ThreadPoolExecutor(threads, initializer=begin)
    begun: deque[Future[R]] = deque()
    try:
        for item in items:
            begun.append(pool.submit(work, item))
            if len(begun) == depth:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class Later:
    """One thread that does jobs in the order they were given, at most `depth` of them waiting."""

    def __init__(self, depth: int) -> None:
        self._pool, self._depth, self._failed = ThreadPoolExecutor(1), depth, False
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> "Later":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """All jobs are done; after an exception those not begun are dropped."""
        try:
            while kind is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def do(self, job: Callable[[], None]) -> None:
        """Waits while too many wait. Raises what an earlier job raised; no job after that one begins."""
        while len(self._waiting) >= self._depth or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._run, job))

    def _run(self, job: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            job()
        except BaseException:
            self._failed = True
            raise


class Mark(Protocol):
    """A moment, maybe one that a device has not reached yet."""

    def seconds_to(self, later: Any, /) -> float:
        """From this moment to another one of its kind."""


class Moment:
    """Now, by the clock."""

    def __init__(self) -> None:
        self.at = time.perf_counter()

    def seconds_to(self, later: "Moment", /) -> float:
        """From this moment to another one."""
        return later.at - self.at


class Busy:
    """The share of the time, since the first `with busy():`, in which at least one such block ran, of any thread.

    mark: makes a moment; a device's own, where blocks only hand work to it.
    """

    def __init__(self, mark: Callable[[], Mark] = Moment) -> None:
        self._mark, self._lock = mark, Lock()
        self._first: Mark | None = None
        self._open: list[tuple[Mark, Mark]] = []
        self._covered = self._until = 0.0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        start = self._mark()
        with self._lock:
            self._first = self._first or start
        try:
            yield
        finally:
            end = self._mark()
            with self._lock:
                self._open.append((start, end))
                if len(self._open) == SPANS:
                    self._settle(self._first)

    def share(self) -> float | None:
        """0..1 until now; None before the first block. Waits for the device."""
        with self._lock:
            if self._first is None:
                return None
            self._settle(self._first)
            return min(1.0, self._covered / max(1e-9, self._first.seconds_to(self._mark())))

    def _settle(self, first: Mark) -> None:
        """Adds up the blocks that have ended since the last time."""
        for start, end in sorted((first.seconds_to(start), first.seconds_to(end)) for start, end in self._open):
            self._covered += max(0.0, end - max(start, self._until))
            self._until = max(self._until, end)
        self._open = []
