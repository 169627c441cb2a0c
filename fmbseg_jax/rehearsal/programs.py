"""Settings and the shape of a DATA to the programs of a run, compiled for a topology: no array is ever made.

    topology = open_topology("v5e:16x16")                # after topologies.prepare, before jax does anything
    readings = rehearse(settings, Shape.parse("D=1024,grid=37x37,E=768,classes=21"), topology)
    readings[FED].optimized.collectives

`plan` has the programs before they are compiled, `readings` compiles one.
"""

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from jax.typing import DTypeLike

from fmbseg_jax.inference.embedder import embedding
from fmbseg_jax.rehearsal.optimized import Optimized, read
from fmbseg_jax.rehearsal.topologies import Topology
from fmbseg_jax.runs.head import Head, make_head
from fmbseg_jax.runs.settings import FeedConfig, TrainConfig, check_heads
from fmbseg_jax.training.batch import FedBatch, StoredBatch
from fmbseg_jax.training.costs import matmul_flops
from fmbseg_jax.training.device_batches import STEPS_AHEAD, rows_a_device
from fmbseg_jax.training.feed import Order, check_whole_shards, training_rows
from fmbseg_jax.training.mesh import Layout, lay_out, platform, replicated, state_shardings
from fmbseg_jax.training.step import (
    Objective,
    Teacher,
    adamw,
    compile_held_out,
    compile_train_step,
    init_state,
)
from labelgen.core.errors import UserError
from labelgen.data.dataset import Dataset

FED, RESIDENT, HELD_OUT = "train, fed", "train, resident", "held-out loss"
EVALUATE, PREDICT = "evaluate", "predict"
_FIELD = re.compile(r"(?P<name>\w+)=(?P<value>\d+|\d+x\d+)")
_EXAMPLE = "D=1024,grid=37x37,E=768,classes=21,photos=10582"


@dataclass(frozen=True)
class Shape:
    """What the programs depend on of a DATA."""

    feature_width: int
    """D."""
    grid_hw: tuple[int, int]
    text_width: int
    """E."""
    word_class: tuple[int, ...]
    """Class of each of the K words, ascending."""
    photos: int = 0
    """Of the split to train on; 0: not known, so whether it fits the devices is not either."""
    feature_dtype: str = "bfloat16"

    @classmethod
    def parse(cls, text: str, feature_dtype: str = "bfloat16") -> "Shape":
        """ "D=1024,grid=37x37,E=768,classes=21,photos=10582", the last one or not. UserError for anything else."""
        parts = [_FIELD.fullmatch(part.strip()) for part in text.split(",")]
        fields = {part["name"]: part["value"] for part in parts if part}
        grid = fields.pop("grid", "").split("x")
        needed = {"D", "E", "classes"} <= set(fields) <= {"D", "E", "classes", "photos"}
        if None in parts or not needed or len(grid) != 2 or "x" in "".join(fields.values()):
            raise UserError(f"--shape={text}: not the shape of a DATA; write it like {_EXAMPLE}")
        numbers = {name: int(value) for name, value in fields.items()}
        if not all([*numbers.values(), *map(int, grid)]):
            raise UserError(f"--shape={text}: nothing of it can be 0; write it like {_EXAMPLE}")
        classes = tuple(range(numbers["classes"]))
        hw = (int(grid[0]), int(grid[1]))
        return cls(numbers["D"], hw, numbers["E"], classes, numbers.get("photos", 0), feature_dtype)

    @classmethod
    def of(cls, data: Dataset, settings: TrainConfig, feature_dtype: str) -> "Shape":
        """That of a DATA, words and split as the settings name them. UserError for what DATA lacks."""
        ontology, _ = data.labels(settings.labels)
        photos = data.count(settings.feed.split)
        words = tuple(ontology.word_class)
        return cls(data.feature_width, data.grid_hw, data.text_width, words, photos, feature_dtype)

    @property
    def row_bytes(self) -> int:
        """Of a photo as a step reads it."""
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in _row(self).values())


class Program(NamedTuple):
    """A jitted function and the shapes that it is called with."""

    function: Any
    arguments: tuple[Any, ...]
    devices: int
    """That share its work."""
    stored_bytes: int = 0
    """Of the arguments, on each device: a split that lives there."""


@dataclass(frozen=True)
class Readings:
    """What the compiler says of a program; sizes and operations are those of one device."""

    devices: int
    compile_s: float
    argument_bytes: int = 0
    output_bytes: int = 0
    reused_bytes: int = 0
    """Of the outputs, those in the memory of donated arguments."""
    temp_bytes: int = 0
    stored_bytes: int = 0
    """Of the arguments: a split that lives on the device."""
    flops: int = 0
    """Of the matrix products that are asked for."""
    optimized: Optimized | None = None
    text: str = ""
    """The optimized program."""
    refused: str = ""
    """Why there is none, in the compiler's words."""

    @property
    def memory_bytes(self) -> int:
        """What the device must have."""
        return self.argument_bytes + self.output_bytes - self.reused_bytes + self.temp_bytes

    @property
    def moved_bytes(self) -> int:
        """At least: every argument but the split and every temporary once there, every output once back."""
        return self.argument_bytes - self.stored_bytes + self.output_bytes + self.temp_bytes


class Split(NamedTuple):
    """A split on the devices; bytes are those of one."""

    bytes: int | None
    """None where a device would have no whole virtual shards."""
    allowed: int
    """Bytes that train.resident_share lets it take."""

    @property
    def fits(self) -> bool:
        """Whether it lives there."""
        return self.bytes is not None and self.bytes <= self.allowed


def rehearse(
    settings: TrainConfig,
    shape: Shape,
    topology: Topology,
    eval_batch: int = 8,
    only: Sequence[str] = (),
    say: Callable[[str], None] = lambda name: None,
) -> dict[str, Readings]:
    """Program -> what the compiler says of it: of all, or of those named in `only`.

    say: told each program before it is compiled. UserError where `train` would give it on these devices.
    """
    found = {}
    for name, program in plan(settings, shape, topology, eval_batch).items():
        if not only or name in only:
            say(name)
            found[name] = readings(program)
    return found


def check(settings: TrainConfig, shape: Shape, topology: Topology) -> Layout:
    """Where a batch lies. UserError, train's own, for settings that cannot work on these devices."""
    layout = lay_out(settings.mesh_data, settings.mesh_model, settings.feed.batch_size, topology.devices)
    check_whole_shards(layout.places, settings.feed)
    check_heads(settings.head, shape.feature_width)
    return layout


def plan(settings: TrainConfig, shape: Shape, topology: Topology, eval_batch: int = 8) -> dict[str, Program]:
    """The programs, none compiled. The split's is among them where it fits."""
    layout = check(settings, shape, topology)
    seed, mesh, count = settings.feed.seed, layout.mesh, len(topology.devices)
    head = make_head(settings.head, shape.text_width, platform(mesh))
    optimiser = adamw(**vars(settings.optim))

    def fresh() -> Any:
        return init_state(head, settings.loss, optimiser, shape.feature_width, jax.random.key(seed))

    state = jax.eval_shape(fresh)
    state = jax.tree.map(_like, state, state_shardings(state, mesh))
    objective = Objective(head, settings.loss, shape.word_class, mesh)
    step = compile_train_step(objective, optimiser, seed, state, mesh)
    held_out = compile_held_out(objective, seed, state, mesh)
    whole, (k, e) = replicated(mesh), (len(shape.word_class), shape.text_width)
    teacher = Teacher(
        _array((k, e), jnp.float32, whole),
        _array((shape.word_class[-1] + 1,), jnp.float32, whole),
    )
    programs = {FED: Program(step, (state, fed_batch(shape, settings.feed, layout, True), teacher), count)}
    split = split_on(settings, shape, layout, topology)
    if split and split.fits and split.bytes:
        stored = stored_batch(shape, settings.feed, layout)
        programs[RESIDENT] = Program(step, (state, stored, teacher), count, split.bytes)
    fed = fed_batch(shape, settings.feed, layout, False)
    programs[HELD_OUT] = Program(held_out, (state.params, fed, teacher), count)
    for name, batch in ((EVALUATE, eval_batch), (PREDICT, 1)):
        programs[name] = embedding_program(head, state.params["head"], shape, batch, topology.devices[0])
    return programs


def readings(program: Program) -> Readings:
    """Compiles it. One that the compiler refuses for want of memory has `refused` alone."""
    traced = program.function.trace(*program.arguments)
    flops = matmul_flops(traced.jaxpr) // program.devices
    start = time.perf_counter()
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        seconds, why = time.perf_counter() - start, str(error).splitlines()[0].partition(": ")[2]
        return Readings(program.devices, seconds, flops=flops, stored_bytes=program.stored_bytes, refused=why)
    seconds = time.perf_counter() - start
    memory, text = compiled.memory_analysis(), compiled.as_text()
    return Readings(
        devices=program.devices,
        compile_s=seconds,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        reused_bytes=memory.alias_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        stored_bytes=program.stored_bytes,
        flops=flops,
        optimized=read(text),
        text=text,
    )


def split_on(settings: TrainConfig, shape: Shape, layout: Layout, topology: Topology) -> Split | None:
    """The split on these devices, by the rule of training.device_batches.fits; None where its size is not known."""
    if not shape.photos:
        return None
    rows = rows_a_device(_order(shape, settings.feed), layout.over_data)
    allowed = int(settings.feed.resident_share * topology.chip.usable)
    return Split(None if rows is None else rows * shape.row_bytes, allowed)


def fed_batch(shape: Shape, feed: FeedConfig, layout: Layout, stops: bool) -> FedBatch:
    """Shapes of a batch that was fed; stops: of one to train on."""
    rows = _rows(shape, (feed.batch_size,), layout.over_data)
    stop = _array((feed.batch_size,), jnp.float32, layout.over_data) if stops else None
    return FedBatch(**rows, stop=stop)


def stored_batch(shape: Shape, feed: FeedConfig, layout: Layout) -> StoredBatch:
    """Shapes of a split on the devices, and of what says which rows a step takes."""
    order, over = _order(shape, feed), layout.over_data
    rows = _rows(shape, (order.shards, order.longest), over)
    indices = _array((order.shards, STEPS_AHEAD, feed.batch_size // order.shards), jnp.int32, over)
    return StoredBatch(**rows, indices=indices, stop=_array((feed.batch_size,), jnp.float32, over))


def embedding_program(head: Head, params: Any, shape: Shape, batch: int, device: jax.Device) -> Program:
    """The head on photos; evaluation and prediction give each process's first device a batch at a time."""
    alone = SingleDeviceSharding(device)
    here = jax.tree.map(lambda leaf: _like(leaf, alone), params)
    grid = (batch, *shape.grid_hw)
    features = _array((*grid, shape.feature_width), jnp.dtype(shape.feature_dtype), alone)
    return Program(embedding(head), (here, features, _array(grid, jnp.bool_, alone)), 1)


def _order(shape: Shape, feed: FeedConfig) -> Order:
    rows, _ = training_rows(shape.photos, feed)
    return Order(rows, feed, steps=1)


def _row(shape: Shape) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Name -> shape and type of what a step reads of a photo (training.feed.Examples)."""
    patches = (*shape.grid_hw, 3)
    return {
        "classes": (patches, np.dtype(np.uint16)),
        "features": ((*shape.grid_hw, shape.feature_width), jnp.dtype(shape.feature_dtype)),
        "grid_hw": ((2,), np.dtype(np.int32)),
        "row": ((), np.dtype(np.int32)),
        "shares": (patches, np.dtype(np.uint8)),
    }


def _rows(shape: Shape, before: tuple[int, ...], sharding: Sharding) -> dict[str, Any]:
    return {name: _array((*before, *each), kind, sharding) for name, (each, kind) in _row(shape).items()}


def _array(shape: tuple[int, ...], kind: DTypeLike, where: Sharding) -> Any:
    """An array's shape, type and place, as far as a program asks."""
    return jax.ShapeDtypeStruct(shape, kind, sharding=where)  # type: ignore[no-untyped-call]


def _like(leaf: Any, where: Sharding) -> Any:
    return _array(leaf.shape, leaf.dtype, where)
