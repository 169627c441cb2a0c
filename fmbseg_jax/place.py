"""Batches on the devices: each process gives what is its own, read ahead by the feed or there since the start."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import jax
import numpy as np
from jax.sharding import NamedSharding

from fmbseg_jax.feed import Example, Examples, Feed, Order, Rows
from fmbseg_jax.gather import Batch
from fmbseg_jax.resident import Resident, fits
from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.settings import FeedConfig
from labelgen.core.progress import Progress


class Batches(Protocol):
    """Training batches on the devices, from some step on."""

    def __next__(self) -> Batch:
        """What a step reads, but for `stop`."""

    @property
    def position(self) -> dict[str, int]:
        """{"next_index": batches taken}, the same on every host: what a checkpoint keeps."""


def place(batch: Example, sharding: NamedSharding) -> Batch:
    """The batch on the devices; each process gives the rows that are its own."""
    give = jax.make_array_from_process_local_data
    with jax.transfer_guard_host_to_device("allow"):  # over processes it does not count as asked for
        return {name: give(sharding, value) for name, value in batch.items()}  # type: ignore[no-untyped-call]


def place_flags(places: Rows, sharding: NamedSharding) -> tuple[Batch, Batch]:
    """What to add to a batch while this host may go on, and once it is to stop.

    All hosts learn of it in the step, where they wait for each other anyway: it rides in the gradients' all-reduce.
    """
    go, stop = (place({"stop": np.full(len(places), flag, np.float32)}, sharding) for flag in (0, 1))
    return go, stop


class Placed:
    """The batches of a Feed, put on the devices while the step before is at work."""

    def __init__(self, feed: Feed, over_data: NamedSharding) -> None:
        self._feed, self._over_data = feed, over_data
        self._position = feed.position
        self._worker = ThreadPoolExecutor(1)
        self._next = self._ahead()

    def __next__(self) -> Batch:
        batch, self._position = self._next.result()
        self._next = self._ahead()
        return batch

    def _ahead(self) -> Future[tuple[Batch, dict[str, int]]]:
        return self._worker.submit(lambda: (place(next(self._feed), self._over_data), self._feed.position))

    @property
    def position(self) -> dict[str, int]:
        return self._position


def open_batches(
    examples: Examples, rows: Rows, config: FeedConfig, steps: int, places: Rows, over_data: NamedSharding, step: int
) -> Batches:
    """Batches from `step` on: of a split that is loaded now where it fits, else read as the steps go. The same ones."""
    order = Order(rows, config, steps)
    share = config.resident_share
    if share and not hosts.any_of(not fits(examples, order, over_data, share)):
        progress = Progress(len(rows) // hosts.count(), "photos", "load", hosts.errors())
        return Resident(examples, order, over_data, progress, step)
    return Placed(Feed(examples, rows, config, steps, places, step), over_data)
