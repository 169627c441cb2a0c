"""Signals that stop a training: they are noted, and the loop ends when its step does."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


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
