"""Batches as a pure function of (seed, step), read by threads ahead of the step.

Rows are spread over V virtual shards (row mod V). A step takes B/V rows of each, in a permutation keyed by (seed,
virtual shard, pass), so place j of every batch belongs to virtual shard j // (B/V), and a host, whose devices hold the
places of whole virtual shards, reads its own rows only. The batches are the same on any number of hosts; the whole
position of the feed is the number of batches taken.
"""

import functools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from numpy.typing import NDArray

from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.settings import FeedConfig
from labelgen.core.errors import UserError
from labelgen.core.geometry import HW
from labelgen.data.dataset import Dataset, DirectReader
from labelgen.data.records import FeatureRow, LabelRow, check_same_photo
from labelgen.labels.free_labels import patch_targets
from labelgen.labels.scores import TruthReader

Rows = NDArray[np.int64]
Example = dict[str, NDArray[Any]]
Target = tuple[str, NDArray[np.uint16], NDArray[np.uint8]]
"""(photo_id, classes [h, w, 3], shares [h, w, 3]) of a row, as labelgen.data.records has them."""
Targets = Callable[[int], Target]
"""Row -> its target."""
_THREADS = 2
_READ_AHEAD = 4  # batches
_MEMORY_BYTES = 1 << 30
_TARGET_BYTES = 9  # a patch: three classes, three shares
_ALIGNED = 64  # bytes; memory that begins at a multiple of them jax takes over as it is, other memory it copies


def free_labels(data: Dataset, labels: str, split: str) -> Targets:
    """The targets of labels/NAME."""
    reader = data.label_reader(labels, split)
    return lambda row: LabelRow.decode_targets(reader[row])


def oracle_truth(data: Dataset, split: str, names: Sequence[str], rules: Mapping[str, str]) -> Targets:
    """The targets of truth/, for the comparison that `train.targets = truth` makes; nothing else here opens it.

    names: the classes; rules: eval.truth. Kept in memory once made: a label map takes longer to decode than a step.
    """
    truth, features = TruthReader(data, split, names, rules), data.reader("features", split)
    if said := truth.said():
        print(said, file=hosts.errors())

    @functools.cache
    def target(row: int) -> Target:
        known = truth[row]
        return known.photo_id, *patch_targets(known.label_map, FeatureRow.decode(features[row]).grid_hw, data.grid_hw)

    return target


def class_mass(targets: Targets, rows: Rows, classes: int) -> NDArray[np.float64]:
    """float64 [C]: labelled patches of each class over `rows`, parts of patches counted as such.

    Each host counts its share of the rows; whole numbers are summed, so that their number changes nothing.
    """
    mass = np.zeros(classes)
    for row in rows[hosts.index() :: hosts.count()]:
        _, index, shares = targets(int(row))
        mass += np.bincount(index.ravel(), shares.ravel(), classes)[:classes]
    return hosts.total(mass) / 255


class Examples:
    """Random access to what a step reads of a row: features, grid_hw, classes, shares, row (fmbseg_jax.training.batch).

    Features are read anew each time: from the system's page cache that is no slower than from memory of our own.
    Targets stay in memory once read, up to 1 GiB of them: decoding them takes longer.
    """

    def __init__(self, data: Dataset, split: str, targets: Targets):
        self._features = data.reader("features", split)
        self._direct = DirectReader(self._features)
        self._split, self._shape = split, (*data.grid_hw, data.feature_width)
        self._folder = data.path
        fits = _TARGET_BYTES * math.prod(data.grid_hw) * len(self._features) <= _MEMORY_BYTES
        self._small_of = functools.cache(self._small) if fits else self._small
        self._targets = targets

    def __len__(self) -> int:
        return len(self._features)

    def __getitem__(self, row: int) -> Example:
        """UserError when the row is damaged, another photo in each family, or of another shape than DATA says."""
        view = FeatureRow.decode(self._features[row])
        return {"features": view.features, **self._small_of(row, view.photo_id, view.grid_hw, view.features.shape)}

    def read_into(self, row: int, places: Example) -> None:
        """`[row]` into arrays of the same shapes and types, the features without a copy on the way."""
        read = self._direct.read_into(row, places["features"])
        _fill(places, self._small_of(row, *read, self._shape) if read else self[row])

    def not_finite(self, rows: Iterable[int]) -> list[str]:
        """Which photos of the rows have a feature that is not a finite number, by name."""
        views = (FeatureRow.decode(self._features[row]) for row in rows)
        return [view.photo_id for view in views if not view.finite]

    def _small(self, row: int, photo_id: str, grid_hw: HW, shape: tuple[int, ...]) -> Example:
        """What there is besides the features [shape] of a row."""
        labelled, classes, shares = self._targets(row)
        check_same_photo(self._split, row, photo_id, labelled)
        if shape != self._shape or classes.shape[:2] != self._shape[:2]:
            raise UserError(
                f"{self._folder}: row {row} of split {self._split!r} has features {list(shape)} and "
                f"targets {list(classes.shape)}, dataset.json says {list(self._shape)}; "
                "write DATA anew with labelgen.run"
            )
        small: Example = {"grid_hw": np.array(grid_hw, np.int32), "row": np.array(row, np.int32)}
        return {**small, "classes": classes, "shares": shares}


def _fill(places: Example, example: Example) -> None:
    for name, value in example.items():
        places[name][...] = value


def split_rows(count: int, holdout: float) -> tuple[Rows, Rows]:
    """(rows to train on, rows held out), both ascending: a fixed draw, the same for every seed of training.

    At least one row is held out when holdout > 0 and there are two; at least one is trained on.
    """
    held = min(count - 1, max(1, round(holdout * count))) if holdout else 0
    order = np.random.default_rng(0).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def training_rows(count: int, config: FeedConfig) -> tuple[Rows, Rows]:
    """`split_rows`, of those to train on only `config.photos`: the first of a permutation that the seed draws.

    So of one seed fewer rows are among more rows, and the rows held out stay the same.
    """
    rows, held_out = split_rows(count, config.holdout)
    return _fewer(rows, config), held_out


def _fewer(rows: Rows, config: FeedConfig) -> Rows:
    if not config.photos:
        return rows
    return np.sort(np.random.default_rng([config.seed, 1]).permutation(rows)[: config.photos])


def rows_by_labels(targets: Targets, count: int, config: FeedConfig) -> tuple[Rows, Rows, int]:
    """(rows to train on, rows held out, photos with labels), for a split of which few photos have labels: the draw of
    `split_rows` among these alone, and none held out where there is but one.

    Each host looks at its share of the rows. All must call it.
    """
    own = [row for row in hosts.own_rows(count) if targets(row)[2].any()]
    labelled = np.array(sorted(row for part in hosts.gather(own) for row in part), np.int64)
    held_out = labelled[split_rows(len(labelled), config.holdout)[1]] if len(labelled) > 1 else labelled[:0]
    rows = np.setdiff1d(np.arange(count), held_out)
    return _fewer(rows, config), held_out, len(labelled)


class Order:
    """Which row stands at which place of which batch: len() and [step * B + place] -> row."""

    def __init__(self, rows: Rows, config: FeedConfig, steps: int):
        """rows: those to train on, at least one. With fewer rows than virtual shards, rows serve several of them."""
        self._batch, self._seed, self._steps = config.batch_size, config.seed, steps
        shards = config.virtual_shards
        self._each = config.batch_size // shards
        owned = [rows[rows % shards == shard] for shard in range(shards)]
        self._rows = [mine if len(mine) else rows[i % len(rows)][None] for i, mine in enumerate(owned)]
        # Read-ahead may straddle two passes; more than these are never in use.
        self._permutation = functools.lru_cache(maxsize=2 * shards)(self._permute)

    def __len__(self) -> int:
        return self._steps * self._batch

    @property
    def shards(self) -> int:
        """V, virtual shards."""
        return len(self._rows)

    @property
    def longest(self) -> int:
        """R, rows of the virtual shard that has most."""
        return max(map(len, self._rows))

    def rows(self, shard: int) -> Rows:
        """The rows of a virtual shard, ascending."""
        rows: Rows = self._rows[shard]
        return rows

    def within(self, steps: range, shard: int) -> NDArray[np.int32]:
        """Which of a virtual shard's rows stand in the batches of the steps: int32 [steps, B / V], places in rows."""
        count = len(self._rows[shard])
        turns, at = np.divmod(np.arange(steps.start * self._each, steps.stop * self._each), count)
        passes = np.stack([self._permutation(shard, turn) for turn in range(turns[0], turns[-1] + 1)])
        index: NDArray[np.int32] = passes[turns - turns[0], at].astype(np.int32).reshape(len(steps), self._each)
        return index

    def __getitem__(self, index: int) -> int:
        step, place = divmod(index, self._batch)
        shard, i = divmod(place, self._each)
        turn, at = divmod(step * self._each + i, len(self._rows[shard]))
        return int(self._rows[shard][self._permutation(shard, turn)[at]])

    def rows_at(self, places: Rows) -> list[Rows]:
        """The rows of each virtual shard that `places` of the batch belong to."""
        return [self._rows[shard] for shard in np.unique(places // self._each)]

    def _permute(self, shard: int, turn: int) -> Rows:
        return np.random.default_rng([self._seed, shard, turn]).permutation(len(self._rows[shard]))


def rows_of_batch(train_rows: Rows, config: FeedConfig, step: int, places: Rows) -> list[int]:
    """The rows that stand at `places` of the batch of a step, counted from 0."""
    order = Order(train_rows, config, steps=1)
    return [order[step * config.batch_size + place] for place in places.tolist()]


def rows_read(train_rows: Rows, held_out_rows: Rows, config: FeedConfig, places: Rows) -> Rows:
    """The rows, ascending, that a host with `places` of the batch trains on or holds out."""
    order = Order(train_rows, config, steps=1)
    held_out = held_out_rows[np.isin(np.arange(len(held_out_rows)) % config.batch_size, places)]
    return np.unique(np.concatenate([*order.rows_at(places), held_out]))


def check_whole_shards(places: Rows, config: FeedConfig) -> None:
    """UserError unless a host that holds `places` of the batch holds whole virtual shards."""
    each = config.batch_size // config.virtual_shards
    if len(np.unique(places // each)) * each != len(places):
        raise UserError(
            f"train.virtual_shards={config.virtual_shards} cannot be divided over the hosts, which hold {len(places)} "
            f"of train.batch_size={config.batch_size} places each; set it to a multiple of the number of hosts"
        )


class BatchMemory:
    """Arrays of the shapes and types of an example, with an axis of `count` before them. Threads may share it.

    Memory new to a process is filled with zeros first, page by page. So a batch's is taken again, once nothing refers
    to any of its arrays: neither to a view of one, nor to what jax made of one, whether that is the same memory or a
    copy still under way.
    """

    def __init__(self, example: Mapping[str, NDArray[Any]], count: int):
        self._places: dict[str, tuple[slice, np.dtype[Any], tuple[int, ...]]] = {}
        self._size = 0
        for name, value in example.items():
            shape, start = (count, *value.shape), self._size
            end = start + math.prod(shape) * value.itemsize
            self._places[name] = slice(start, end), value.dtype, shape
            self._size = -(-end // _ALIGNED) * _ALIGNED
        self._free: list[NDArray[np.uint8]] = []

    def take(self) -> dict[str, NDArray[Any]]:
        """A batch of arrays that nobody else holds, with anything in them."""
        try:
            block = self._free.pop()
        except IndexError:
            block = _aligned(self._size)
        # Every view of a view refers to the first one that is not of another array: to this one.
        owner = np.frombuffer(block.data, np.uint8)
        weakref.finalize(owner, self._free.append, block).atexit = False
        return {name: owner[at].view(dtype).reshape(shape) for name, (at, dtype, shape) in self._places.items()}


def _aligned(size: int) -> NDArray[np.uint8]:
    memory = np.empty(size + _ALIGNED, np.uint8)
    start = -memory.ctypes.data % _ALIGNED
    return memory[start : start + size]


class _HostBatches:
    """len() and [step] -> what a host has, `places`, of the batches of an order; row -1 is padding of zeros."""

    def __init__(self, examples: Examples, order: Order | list[int], batch_size: int, places: Rows):
        self._examples, self._order, self._batch, self._places = examples, order, batch_size, places

    def __len__(self) -> int:
        return len(self._order) // self._batch

    def __getitem__(self, step: int) -> Example:
        batch = self._memory.take()
        for i, place in enumerate(self._places):
            row = self._order[int(step) * self._batch + int(place)]
            places = {name: value[i, ...] for name, value in batch.items()}
            if row >= 0:
                self._examples.read_into(row, places)
            else:
                _fill(places, dict.fromkeys(places, np.zeros((), np.uint8)))
        return batch

    @functools.cached_property
    def _memory(self) -> BatchMemory:
        rows = (self._order[int(place)] for place in self._places)
        return BatchMemory(self._examples[next((row for row in rows if row >= 0), self._order[0])], len(self._places))


def _batches(examples: Examples, order: Order | list[int], batch_size: int, places: Rows) -> Any:
    source = grain.MapDataset.source(_HostBatches(examples, order, batch_size, places))
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_READ_AHEAD)
    return iter(source.to_iter_dataset(options))


class Feed:
    """This host's part of the training batches from any step on; `position` is what a checkpoint keeps.

    next() -> {name: array [b, ...]}, the `places` (ascending) of the batch of B.
    """

    def __init__(self, examples: Examples, rows: Rows, config: FeedConfig, steps: int, places: Rows, step: int = 0):
        self._iterator = _batches(examples, Order(rows, config, steps), config.batch_size, places)
        self._iterator.set_state({"next_index": step})

    def __next__(self) -> Example:
        batch: Example = next(self._iterator)
        return batch

    @property
    def position(self) -> dict[str, int]:
        """{"next_index": batches taken}, the same on every host."""
        state: dict[str, int] = self._iterator.get_state()
        return state


def held_out_batches(examples: Examples, rows: Rows, batch_size: int, places: Rows) -> Iterator[Example]:
    """This host's `places` of batches of all held-out rows, in order, the last one padded with rows of no shares."""
    padding = [-1] * (-len(rows) % batch_size)
    batches: Iterator[Example] = _batches(examples, [*rows.tolist(), *padding], batch_size, places)
    return batches
