"""The compiled training step of a shape without DATA: what the roofline and the scaling benchmarks look at."""

import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding
from ml_dtypes import bfloat16
from numpy.typing import NDArray

from benchmarks.setting import Shape
from fmbseg_jax.runs.head import State, make_head
from fmbseg_jax.runs.settings import HeadConfig, LossConfig, TrainConfig, train_config
from fmbseg_jax.training.batch import FedBatch
from fmbseg_jax.training.mesh import make_mesh, over_data, platform, replicated
from fmbseg_jax.training.step import Objective, Teacher, adamw, born_sharded, compile_train_step, init_state
from labelgen.core.config import load_config

LARGE = 1 << 16
"""Bytes of an array above which a collective counts as one that matters; below are sums and norms."""


def settings_of(shape: Shape, *fields: str) -> TrainConfig:
    """The default settings with this shape and with fields "train.loss=..."."""
    return train_config(load_config("configs/default.py", [*shape.overrides, *fields]))


@dataclass(frozen=True)
class Program:
    """A training step over all devices, its state in place."""

    compiled: Any
    jaxpr: Any
    state: State
    batch: FedBatch
    teacher: Teacher
    compile_s: float


def program(shape: Shape, head: HeadConfig, loss: LossConfig, seed: int = 0) -> Program:
    """Compiles the step for a random batch; one word a class."""
    mesh = make_mesh(-1, 1)
    module, optimiser = make_head(head, shape.text_width, platform(mesh)), adamw(1e-3, 1, 100, 0.01, 1.0)
    state = born_sharded(lambda key: init_state(module, loss, optimiser, shape.feature_width, key), seed, mesh)
    objective = Objective(module, loss, tuple(range(shape.classes)), mesh)
    step: Any = compile_train_step(objective, optimiser, seed, state, mesh)
    batch, teacher = inputs(shape, over_data(mesh), replicated(mesh))
    traced = step.trace(state, batch, teacher)
    start = time.perf_counter()
    compiled = traced.lower().compile()
    return Program(compiled, traced.jaxpr, state, batch, teacher, time.perf_counter() - start)


def inputs(shape: Shape, over: NamedSharding, whole: NamedSharding) -> tuple[FedBatch, Teacher]:
    """A random batch and teacher on the devices."""
    rng, (b, h, w) = np.random.default_rng(0), (shape.batch_size, *shape.grid_hw)
    prototypes = rng.normal(size=(shape.classes, shape.text_width)).astype(np.float32)
    batch = {
        "features": rng.standard_normal((b, h, w, shape.feature_width), np.float32).astype(bfloat16),
        "grid_hw": np.full((b, 2), shape.grid_hw, np.int32),
        "classes": rng.integers(shape.classes, size=(b, h, w, 3)).astype(np.uint16),
        "shares": np.broadcast_to(np.array([204, 51, 0], np.uint8), (b, h, w, 3)),
        "row": np.arange(b, dtype=np.int32),
        "stop": np.zeros(b, np.float32),
    }
    unit = prototypes / np.linalg.norm(prototypes, axis=1)[:, None]
    teacher = Teacher(placed(unit, whole), placed(np.ones(shape.classes, np.float32), whole))
    return FedBatch(**{name: placed(x, over) for name, x in batch.items()}), teacher


def placed(value: NDArray[Any], sharding: NamedSharding) -> jax.Array:
    """The same on every process: each takes what is its devices' own."""
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
