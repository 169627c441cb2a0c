"""Which worker does which shard: each shard once, again where its worker died, by a second one where it takes long."""

import statistics
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from labelgen.core.errors import UserError

SLOW = 3.0
"""A shard that takes so many times the median is given to an idle worker too …"""
LEAST_S = 5.0
"""… but not before."""
DEATHS = 5
"""Workers that may die at one shard before it is blamed."""


class Running(NamedTuple):
    """A shard in work."""

    shard: int
    since: float


class Board:
    """The shards of a stage by their places 0 … count - 1, and the workers at them, by any number of their own."""

    def __init__(self, count: int, clock: Callable[[], float] = time.monotonic):
        self._waiting = deque(range(count))
        self._left = set(range(count))
        self._running: dict[int, Running] = {}
        self._seconds: list[float] = []
        self._deaths: Counter[int] = Counter()
        self._clock = clock

    @property
    def left(self) -> int:
        """Shards that are not finished."""
        return len(self._left)

    def idle(self, workers: Iterable[int]) -> list[int]:
        """Those that have no shard."""
        return [worker for worker in workers if worker not in self._running]

    def at(self, worker: int) -> int:
        """The shard of a worker that has one."""
        return self._running[worker].shard

    def give(self, worker: int) -> int | None:
        """The next shard for an idle worker: one that waits, else a straggler; None when there is neither."""
        shard = self._waiting.popleft() if self._waiting else self._straggler()
        if shard is not None:
            self._running[worker] = Running(shard, self._clock())
        return shard

    def finished(self, worker: int) -> int:
        """The shard of `worker` is finished, by it or by another; which one that is."""
        shard, since = self._running.pop(worker)
        self._left.discard(shard)
        self._seconds.append(self._clock() - since)
        return shard

    def lost(self, worker: int) -> None:
        """The worker is gone: its shard waits again, first of all, unless another one has it."""
        if (gone := self._running.pop(worker, None)) is None or gone.shard not in self._left:
            return
        self._deaths[gone.shard] += 1
        if self._deaths[gone.shard] == DEATHS:
            raise UserError(
                f"{DEATHS} workers died, one after the other, at one shard; see Ray's logs for why (often memory: "
                "set clip.batch_size and sam.batch_size); the same command goes on from here"
            )
        if gone.shard not in {other.shard for other in self._running.values()}:
            self._waiting.appendleft(gone.shard)

    def _straggler(self) -> int | None:
        """The shard that one worker alone has had longest, if that is far longer than the others took."""
        workers = Counter(run.shard for run in self._running.values())
        alone = [run for run in self._running.values() if workers[run.shard] == 1 and run.shard in self._left]
        oldest = min(alone, key=lambda run: run.since, default=None)
        if oldest is None or not self._seconds:
            return None
        late = self._clock() - oldest.since > max(SLOW * statistics.median(self._seconds), LEAST_S)
        return oldest.shard if late else None
