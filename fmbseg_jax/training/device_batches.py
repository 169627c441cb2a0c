"""Training batches on the devices: out of a split that lives there, or fed and put there one ahead. The same batches.

A split that fits is read once, then every batch is a gather of rows that are there already. They are laid out by
virtual shard, over 'data' as the batches are, so that each device gathers its own places of a batch from its own rows:
no byte of a feature travels after the start.
"""

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import NamedSharding
from numpy.typing import NDArray

from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.settings import FeedConfig
from fmbseg_jax.training.batch import Batch, FedBatch, StoredBatch
from fmbseg_jax.training.feed import Example, Examples, Feed, Order, Rows
from fmbseg_jax.training.mesh import Layout
from labelgen.core.progress import Progress

_THREADS = 8
STEPS_AHEAD = 64
"""S, steps whose rows are put on the devices at once: a step of a few ms would wait for its own alone."""
Arrays = dict[str, jax.Array]


class Batches(Protocol):
    """Training batches on the devices, from some step on."""

    def __next__(self) -> Batch:
        """What a step reads, but for `stop`."""

    @property
    def position(self) -> dict[str, int]:
        """{"next_index": batches taken}, the same on every host: what a checkpoint keeps."""


def open_batches(
    examples: Examples, rows: Rows, config: FeedConfig, steps: int, layout: Layout, position: Mapping[str, int]
) -> Batches:
    """Batches from `position` on: of a split that is loaded now where it fits, else read as the steps go.

    Either way they are the same ones. All hosts must call it.
    """
    order, step = Order(rows, config, steps), position["next_index"]
    share = config.resident_share
    if share and not hosts.any_of(not fits(examples, order, layout.over_data, share)):
        progress = Progress(len(rows) // hosts.count(), "photos", "load", hosts.errors())
        return Resident(examples, order, layout.over_data, progress, step)
    return Placed(Feed(examples, rows, config, steps, layout.places, step), layout.over_data)


class Resident:
    """Training batches from any step on, of a split on the devices; `position` is what a checkpoint keeps.

    next(): the split's arrays, rows of virtual shard v first to last, and which of them stand in the batches of S
    steps, this one among them.
    """

    def __init__(self, examples: Examples, order: Order, over_data: NamedSharding, progress: Progress, step: int = 0):
        self._order, self._over_data, self._step = order, over_data, step
        self._arrays = _load(examples, order, over_data, progress)
        self._places = list(_places(order, over_data))
        self._indices = self._ahead()

    def __next__(self) -> StoredBatch:
        if self._step % STEPS_AHEAD == 0:
            self._indices = self._ahead()
        self._step += 1
        return StoredBatch(**self._arrays, indices=self._indices)

    def _ahead(self) -> jax.Array:
        """int32 [V, S, B / V] over 'data': which rows of each virtual shard stand in the batches of S steps."""
        start = self._step // STEPS_AHEAD * STEPS_AHEAD
        steps = range(start, start + STEPS_AHEAD)
        pieces = [
            jax.device_put(np.stack([self._order.within(steps, shard) for shard in shards]), device)
            for device, shards in self._places
        ]
        shape = (self._order.shards, *pieces[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, self._over_data, pieces)

    @property
    def position(self) -> dict[str, int]:
        """{"next_index": batches taken}, the same on every host."""
        return {"next_index": self._step}


def fits(examples: Examples, order: Order, over_data: NamedSharding, share: float) -> bool:
    """Whether the split takes at most `share` of a device's memory, and whole virtual shards fall to each device."""
    rows = rows_a_device(order, over_data)
    if rows is None:
        return False
    _, own = next(_places(order, over_data))
    first = order.rows(own[0])[0]
    row_bytes = sum(value.nbytes for value in examples[int(first)].values())
    return bool(rows * row_bytes <= share * memory_bytes())


def rows_a_device(order: Order, over_data: NamedSharding) -> int | None:
    """Rows of a split that a device keeps, padding of its virtual shards included; None where it has no whole ones."""
    shards, rest = divmod(order.shards, over_data.mesh.shape["data"])
    return None if rest else shards * order.longest


def memory_bytes() -> int:
    """Of the first device of this process; the machine's share of it where the device is the machine."""
    device = jax.local_devices()[0]
    stats: Mapping[str, int] = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()


def _load(examples: Examples, order: Order, over_data: NamedSharding, progress: Progress) -> Arrays:
    """Each device's virtual shards, one device at a time: the host never holds more than that."""
    parts: dict[Any, Example] = {}
    arrays: dict[str, list[jax.Array]] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for device, shards in _places(order, over_data):
            if shards not in parts:  # 'model' has several devices with the same rows
                parts = {shards: _read(examples, order, shards, pool, progress)}
            for name, value in parts[shards].items():
                arrays.setdefault(name, []).append(jax.device_put(value, device))
    progress.close()
    shape = (order.shards, order.longest)
    whole = jax.make_array_from_single_device_arrays
    return {name: whole((*shape, *pieces[0].shape[2:]), over_data, pieces) for name, pieces in arrays.items()}


def _read(
    examples: Examples, order: Order, shards: range, pool: ThreadPoolExecutor, progress: Progress
) -> dict[str, NDArray[Any]]:
    """{name: [len(shards), R, ...]}, zeros after a virtual shard's last row."""
    blank = examples[int(order.rows(shards[0])[0])]
    out = {name: np.zeros((len(shards), order.longest, *value.shape), value.dtype) for name, value in blank.items()}

    def fill(place: tuple[int, int, int]) -> None:
        i, j, row = place
        examples.read_into(row, {name: value[i, j, ...] for name, value in out.items()})

    places = [(i, j, int(row)) for i, shard in enumerate(shards) for j, row in enumerate(order.rows(shard))]
    for _ in pool.map(fill, places):
        progress.add()
    return out


def _places(order: Order, over_data: NamedSharding) -> Iterator[tuple[jax.Device, range]]:
    """(device of this process, its virtual shards)."""
    for device, index in over_data.addressable_devices_indices_map((order.shards,)).items():
        yield device, range(order.shards)[index[0]] if index else range(order.shards)


class Placed:
    """The batches of a Feed, put on the devices while the step before is at work."""

    def __init__(self, feed: Feed, over_data: NamedSharding) -> None:
        self._feed, self._over_data = feed, over_data
        self._position = feed.position
        self._worker = ThreadPoolExecutor(1)
        self._next = self._ahead()

    def __next__(self) -> FedBatch:
        batch, self._position = self._next.result()
        self._next = self._ahead()
        return batch

    def _ahead(self) -> Future[tuple[FedBatch, dict[str, int]]]:
        return self._worker.submit(lambda: (place(next(self._feed), self._over_data), self._feed.position))

    @property
    def position(self) -> dict[str, int]:
        return self._position


def place(batch: Example, sharding: NamedSharding) -> FedBatch:
    """The batch on the devices; each process gives the rows that are its own."""
    return FedBatch(**{name: _placed(value, sharding) for name, value in batch.items()})


def _placed(value: NDArray[Any], sharding: NamedSharding) -> jax.Array:
    with jax.transfer_guard_host_to_device("allow"):  # over processes it does not count as asked for
        placed: jax.Array = jax.make_array_from_process_local_data(sharding, value)  # type: ignore[no-untyped-call]
    return placed


def place_flags(layout: Layout) -> tuple[jax.Array, jax.Array]:
    """`stop` of a batch while this host may go on, and once it is to stop.

    All hosts learn of it in the step, where they wait for each other anyway: it rides in the gradients' all-reduce.
    """
    count, over_data = len(layout.places), layout.over_data
    go, stop = (_placed(np.full(count, flag, np.float32), over_data) for flag in (0, 1))
    return go, stop
