"""The processes of one run: how they find each other, who is first, what they tell each other outside of a step, and
the signals that stop them.

Alone (`config.distributed` off) everything here is at hand: no process waits for another. Sums are made in numpy, in
the order of the processes, so that integers and float64 come out the same to the last digit on every host.
"""

import functools
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, TextIO, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from numpy.typing import NDArray

from labelgen.core.errors import UserError

OFF, AUTO = "off", "auto"
PREEMPTED = 75
START_S, SILENT_S = 300, 60
_LAST_WORDS_S = 2  # when the first is gone jax ends the others, who may have the same to say
_EXPLICIT = re.compile(r"(?P<address>\S+:\d+),(?P<count>\d+),(?P<index>\d+)")
_FIXES = (
    "name a free port of the machine that ID 0 runs on, as ADDRESS:PORT,COUNT,ID",
    "outside of a TPU pod, Slurm or MPI, name ADDRESS:PORT,COUNT,ID, or set it to off",
)
T = TypeVar("T", bound=np.generic)
_joined = threading.Event()


def check(distributed: str) -> None:
    """UserError unless it is off, auto or ADDRESS:PORT,COUNT,ID with ID below COUNT."""
    _arguments(distributed)


def start(distributed: str, distributed_start_s: int = START_S, distributed_silent_s: int = SILENT_S) -> None:
    """Joins the other processes of the run; before any other use of jax.

    distributed_start_s: seconds to wait until all are there; distributed_silent_s: seconds after which one that says
    nothing counts as dead and the others end. UserError, naming the field, when there is no cluster to be found or not
    all arrive. SIGTERM stays with this program.
    """
    if distributed == OFF:
        return
    arguments = _arguments(distributed)
    # jax's own service would take SIGTERM; it also misses one that comes before a resumed run's first step.
    jax.config.update("jax_enable_preemption_service", False)  # type: ignore[no-untyped-call]
    errors: list[Exception] = []

    def join() -> None:
        try:
            # jax ends the process when its own time is over: ours comes first.
            jax.distributed.initialize(
                **arguments,
                initialization_timeout=distributed_start_s + 60,
                heartbeat_timeout_seconds=distributed_silent_s,
                shutdown_timeout_seconds=distributed_silent_s,
            )
        except Exception as error:
            errors.append(error)

    waiting = threading.Thread(target=join, daemon=True)
    waiting.start()
    waiting.join(distributed_start_s)
    if waiting.is_alive():
        raise UserError(
            f"distributed={distributed}: not all processes of the run were there after {distributed_start_s} s; start "
            "one with each ID below COUNT, let them reach the address of ID 0, or set distributed_start_s higher"
        )
    if errors:
        raise UserError(f"distributed={distributed}: {errors[0]}; {_FIXES[distributed == AUTO]}") from errors[0]
    _joined.set()


def leave(code: int) -> NoReturn:
    """Ends the process: with the others after success or preemption, at once after an error.

    jax would wait for processes that wait for this one, then end it with a code of its own.
    """
    if code in (0, PREEMPTED) or not _joined.is_set():
        sys.exit(code)
    if is_first():
        time.sleep(_LAST_WORDS_S)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _arguments(distributed: str) -> dict[str, Any]:
    if distributed in (OFF, AUTO):
        return {}
    parts = _EXPLICIT.fullmatch(distributed)
    if not parts or int(parts["index"]) >= int(parts["count"]):
        raise UserError(
            f"distributed={distributed!r} is none of off, auto, ADDRESS:PORT,COUNT,ID; with two processes write "
            "10.0.0.1:1234,2,0 for the first and 10.0.0.1:1234,2,1 for the other"
        )
    return {
        "coordinator_address": parts["address"],
        "num_processes": int(parts["count"]),
        "process_id": int(parts["index"]),
        "cluster_detection_method": "deactivate",
    }


def count() -> int:
    """Processes in the run."""
    return int(jax.process_count())


def index() -> int:
    """Which of them this is, from 0."""
    return int(jax.process_index())


def own_rows(rows: int) -> range:
    """Which of `rows` rows are this process's, where each is done by one: index(), index() + count(), ..."""
    return range(index(), rows, count())


def is_first() -> bool:
    """Whether this is the one that writes and speaks for all."""
    return index() == 0


def say(text: str) -> None:
    """Prints a line, once for all processes."""
    if is_first():
        print(text)


def errors() -> TextIO:
    """stderr on the first process, as it is now; what the others write there is nobody's."""
    return sys.stderr if is_first() else _nowhere()


@functools.cache
def _nowhere() -> TextIO:
    return open(os.devnull, "w")


def barrier(name: str) -> None:
    """Returns when all processes are at the barrier of this name."""
    if count() > 1:
        multihost_utils.sync_global_devices(name)


def any_of(flag: bool) -> bool:
    """Whether the flag is set on any process. All must call it."""
    return bool(total(np.array([flag], np.int32))[0])


def total(x: NDArray[T]) -> NDArray[T]:
    """The sum of every process's x, of one shape and dtype, exactly as numpy adds them up. All must call it."""
    if count() == 1:
        return x
    # As bytes: jax would make 64 bits 32.
    parts = _gather_bytes(np.ascontiguousarray(x).view(np.uint8).ravel())
    summed: NDArray[T] = parts.view(x.dtype).reshape(count(), *x.shape).sum(0, dtype=x.dtype)
    return summed


def gather(value: Any) -> list[Any]:
    """Every process's JSON-able value, in their order. All must call it."""
    if count() == 1:
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = _gather_bytes(np.array([len(data)], np.int64).view(np.uint8)).view(np.int64).ravel()
    rows = _gather_bytes(np.pad(data, (0, sizes.max() - len(data))))
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def check_same(value: Any, message: str) -> None:
    """UserError(message) on all processes unless all have the same JSON-able value. All must call it."""
    values = gather(json.dumps(value, sort_keys=True))
    if any(other != values[0] for other in values):
        raise UserError(message)


def whole(tree: Any) -> Any:
    """The tree in numpy, the parts of its arrays that lie with other processes included. All must call it."""
    return jax.device_get(tree) if count() == 1 else multihost_utils.process_allgather(tree, tiled=True)


def _gather_bytes(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 [processes, n] of each one's [n]."""
    with jax.transfer_guard("allow"):
        return np.ascontiguousarray(multihost_utils.process_allgather(data))


@contextmanager
def preemption() -> Iterator[list[int]]:
    """Within it, SIGTERM and a first Ctrl-C end nothing; they are added to the list that is given.

    What is ignored, as Ctrl-C is in a shell's background, stays ignored.
    """
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        if number in received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        if number == signal.SIGINT:
            os.write(2, b"\nstopping after this step, to save it; Ctrl-C again ends at once\n")  # as a handler may

    heard = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, receive) for number in heard}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
