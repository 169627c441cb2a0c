"""A compiled training step on a mesh of virtual devices, with state, teacher and batches at hand."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from fmbseg_jax.runs.head import make_head
from fmbseg_jax.runs.settings import HeadConfig, LossConfig
from fmbseg_jax.training import step
from fmbseg_jax.training.batch import FedBatch
from fmbseg_jax.training.mesh import batch_sharding, replicated
from fmbseg_jax.training.step import (
    Objective,
    Teacher,
    born_sharded,
    compile_held_out,
    compile_train_step,
    init_state,
    valid_patches,
)
from tests.worlds.synthetic import CLASSES, ONTOLOGY, unit_rows

LINEAR = HeadConfig(0, 4, 0, "float32")
BLOCK = HeadConfig(1, 4, 16, "float32")
CE = LossConfig("prototype_ce", True, 0.5, 0.1, False, 6, 16, 1.0)
SUPCON = LossConfig("t_supcon", True, 0.5, 0.1, True, 6, 16, 4.0)
WIDTH, TEXT_WIDTH, BATCH = 16, 8, 8


def mesh_of(data: int, model: int) -> Mesh:
    devices = jax.devices()[: data * model]
    return jax.make_mesh((data, model), ("data", "model"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    grid_hw = rng.integers(2, 4, (BATCH, 2)).astype(np.int32)
    valid = np.asarray(valid_patches(jnp.asarray(grid_hw), 3, 3))
    several = [rng.random((BATCH, 3, 3, count)).argsort(-1)[..., :3] for count in (80, CLASSES)]  # no number twice
    shares = np.ascontiguousarray(np.sort(several[0] * valid[..., None])[..., ::-1]).astype(np.uint8)
    classes = several[1].astype(np.uint16)
    features = rng.normal(size=(BATCH, 3, 3, WIDTH)).astype(np.float32)
    row, stop = np.arange(BATCH, dtype=np.int32), np.zeros(BATCH, np.float32)
    return {"features": features, "grid_hw": grid_hw, "classes": classes, "shares": shares, "row": row, "stop": stop}


class Bench:
    """A compiled step on a mesh, with its state and teacher."""

    def __init__(self, mesh: Mesh, head: HeadConfig = LINEAR, loss: LossConfig = CE, seed: int = 0, steps: int = 20):
        module = make_head(head, TEXT_WIDTH, "cpu")
        optimiser = step.adamw(2e-2, 2, steps, 0.01, 1.0)
        self.mesh = mesh
        self.state = born_sharded(lambda key: init_state(module, loss, optimiser, WIDTH, key), 0, mesh)
        self.objective = Objective(module, loss, ONTOLOGY.word_class, mesh)
        self.step = compile_train_step(self.objective, optimiser, seed, self.state, mesh)
        self.held_out = compile_held_out(self.objective, seed, self.state, mesh)
        prototypes = unit_rows(np.random.default_rng(1), len(ONTOLOGY.words), TEXT_WIDTH)
        weights = np.linspace(0.5, 1.5, CLASSES).astype(np.float32)
        self.teacher = Teacher(*jax.device_put((prototypes, weights), replicated(mesh)))

    def batch(self, seed: int = 0) -> FedBatch:
        return FedBatch(**jax.device_put(arrays(seed), batch_sharding(self.mesh, BATCH)))

    def gradients(self) -> tuple[float, list[np.ndarray]]:
        """Loss and gradients of one batch."""

        def loss(params: object, batch: FedBatch, teacher: Teacher) -> jax.Array:
            outcome = self.objective(params, batch, teacher, jax.random.key(3))
            return outcome.total / outcome.weight

        value, gradient = jax.jit(jax.value_and_grad(loss))(self.state.params, self.batch(), self.teacher)
        return float(value), [np.asarray(leaf) for leaf in jax.tree.leaves(gradient)]
