"""The training step and the held-out loss: pure functions of state, batch and teacher, jitted over the mesh."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Float32, Int32, Key, Shaped, UInt8

from fmbseg_jax.runs.head import Head, State, take_patches
from fmbseg_jax.runs.settings import LossConfig
from fmbseg_jax.training.batch import Batch, Photos
from fmbseg_jax.training.drawing import draw_patches, lots, step_key
from fmbseg_jax.training.losses import (
    Contrast,
    Patches,
    chunk_bytes,
    class_scores,
    contrast_set,
    dense_targets,
    hits,
    in_chunks,
    prototype_ce,
    t_supcon,
)
from fmbseg_jax.training.mesh import over_data, platform, replicated, state_shardings

T = TypeVar("T")
Metrics = Float32[Array, "5"]
"""The figures of a step in one array, see `named`: METRICS."""
METRICS = ("loss", "agreement", "gradient_norm", "temperature", "stop")
_MIN_TEMPERATURE = 0.01  # as CLIP bounds its own: below, the softmax is a maximum and learns nothing


def schedule(learning_rate: float, warmup_steps: int, steps: int) -> optax.Schedule:
    """Learning rate of a step: 0 up to `learning_rate` over the warm-up, then down a cosine to 0 at `steps`."""
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, steps)


def adamw(
    learning_rate: float, warmup_steps: int, steps: int, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """The whole update: gradients clipped by their global norm, AdamW on `schedule`.

    Matrices decay; biases, norms and the temperature do not.
    """
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(schedule(learning_rate, warmup_steps, steps), weight_decay=weight_decay, mask=_matrices),
    )


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim > 1, params)


@flax.struct.dataclass
class Teacher:
    """What supervises."""

    prototypes: Float32[Array, "K E"]
    """Unit rows."""
    class_weights: Float32[Array, "C"]


def init_state(
    head: Head, loss: LossConfig, optimiser: optax.GradientTransformation, feature_width: int, key: Key[Array, ""]
) -> State:
    """The state before the first step; a function of the key. Trace it to know shapes without making them."""
    features = jnp.zeros((1, 1, feature_width))
    params = {"head": head.init(key, features, jnp.ones((1, 1), bool))["params"]}
    if loss.learn_temperature:
        params["log_temperature"] = jnp.log(jnp.float32(loss.temperature))
    return State(jnp.int32(0), params, optimiser.init(params))


def born_sharded(make: Callable[[Key[Array, ""]], State], seed: int, mesh: Mesh) -> State:
    """The state of `make`, each leaf made where mesh.RULES wants it: no device ever holds more."""
    key = jax.random.key(seed)
    shardings = state_shardings(jax.eval_shape(make, key), mesh)
    state: State = jax.jit(make, out_shardings=shardings)(key)
    return state


class Outcome(NamedTuple):
    """Sums over a batch: the loss is total / weight, the agreement with the targets hits / mass."""

    total: Float32[Array, ""]
    weight: Float32[Array, ""]
    hits: Float32[Array, ""]
    mass: Float32[Array, ""]


class Supervision(NamedTuple):
    """What every patch meets: whole on every device."""

    teacher: Teacher
    temperature: Float32[Array, ""]
    contrast: Contrast | None
    """t_supcon's."""


class Objective:
    """The loss of a batch, as sums. Only static settings in it: calls are pure."""

    def __init__(self, head: Head, loss: LossConfig, word_class: tuple[int, ...], mesh: Mesh):
        self._head, self._loss, self._word_class = head, loss, word_class
        self._classes = word_class[-1] + 1
        self._mesh = mesh

    def temperature(self, params: Any) -> Float32[Array, ""]:
        """The softmax temperature in use."""
        if not self._loss.learn_temperature:
            return jnp.asarray(self._loss.temperature, jnp.float32)
        return jnp.asarray(jnp.maximum(jnp.exp(params["log_temperature"]), _MIN_TEMPERATURE))

    def on_all_patches(self) -> "Objective":
        """The same without drawing patches: what checkpoints are compared by."""
        loss = dataclasses.replace(self._loss, patches_per_photo=0)
        return Objective(self._head, loss, self._word_class, self._mesh)

    def __call__(
        self, params: Any, batch: Batch, teacher: Teacher, key: Key[Array, ""], step: Int32[Array, ""] | int = 0
    ) -> Outcome:
        """Sums over the batch; hits is the labelled mass whose best class is the target's largest.

        step: which of its steps a stored batch is asked for.
        """

        def on_device(params: Any, batch: Batch, teacher: Teacher, key: Key[Array, ""], step: Array) -> Array:
            return added_over_data(self._own(params, batch, teacher, key, step), self._mesh)

        return Outcome(*self._on_devices(on_device)(params, batch, teacher, key, jnp.int32(step)))

    def with_gradient(
        self, params: Any, batch: Batch, teacher: Teacher, key: Key[Array, ""], step: Int32[Array, ""]
    ) -> tuple[Outcome, Any, Float32[Array, ""]]:
        """The sums, the gradient of the loss by the parameters, and the sum of `stop` over the batch.

        Each device takes the gradient of its own sum; what all exchange is added once, in the parameters' float32.
        """

        def on_device(
            params: Any, batch: Batch, teacher: Teacher, key: Key[Array, ""], step: Array
        ) -> tuple[Array, Any]:
            def total(params: Any) -> tuple[Float32[Array, ""], Array]:
                sums = self._own(params, batch, teacher, key, step)
                return sums[0], sums

            (_, sums), gradient = jax.value_and_grad(total, has_aux=True)(params)
            return added_over_data((jnp.append(sums, stops(batch)), gradient), self._mesh)

        (*sums, stop), gradient = self._on_devices(on_device)(params, batch, teacher, key, step)
        outcome = Outcome(*sums)
        return outcome, jax.tree.map(lambda x: x / _at_least_some(outcome.weight), gradient), stop

    def _on_devices(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function of (params, batch, teacher, key, step) on each device's part of the batch, its result whole.

        Over 'model' the compiler splits what is inside.
        """
        over, whole = over_data(self._mesh).spec, replicated(self._mesh).spec
        specs = (whole, over, whole, whole, whole)
        return jax.shard_map(
            function, mesh=self._mesh, in_specs=specs, out_specs=whole, axis_names={"data"}, check_vma=False
        )

    def _own(
        self, params: Any, batch: Batch, teacher: Teacher, key: Key[Array, ""], step: Int32[Array, ""]
    ) -> Float32[Array, "4"]:
        """The sums of this device's photos, in an Outcome's order."""
        photos = batch.photos(step)
        lot = lots(key, photos.row, math.prod(photos.classes.shape[1:3]))
        patches = self._project(params, photos, lot)
        contrast = self._contrast(patches, lot) if self._loss.loss == "t_supcon" else None
        supervision = Supervision(teacher, self.temperature(params), contrast)
        columns = len(self._word_class) + (len(contrast.z) if contrast else 0)
        patches = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), patches)
        total, others = in_chunks(self.sums, patches, supervision, columns, chunk_bytes(platform(self._mesh)))
        return jnp.append(total, others)

    def sums(self, patches: Patches, supervision: Supervision) -> tuple[Float32[Array, ""], Float32[Array, "3"]]:
        """(total, the rest of Outcome) of patches [P]. Each meets the supervision only, none of the others."""
        loss, (teacher, temperature, contrast) = self._loss, supervision
        scores = class_scores(patches.z, teacher.prototypes, self._word_class)
        targets = dense_targets(patches.classes, patches.shares, self._classes, loss.soft_targets)
        if contrast is None:
            total, weight = prototype_ce(scores, targets, teacher.class_weights, temperature)
        else:
            total, weight = t_supcon(
                patches.z,
                scores,
                targets,
                teacher.class_weights,
                temperature,
                patches.ids,
                contrast,
                loss.supcon_prototype_weight,
            )
        sums = jnp.stack([total, weight, hits(scores, targets), targets.mass]).sum(-1)  # one reduction for all four
        return sums[0], sums[1:]

    def _contrast(self, patches: Patches, lot: Float32[Array, "B N"]) -> Contrast:
        """The global contrast set: the same number of patches of each photo, supcon_samples at most.

        Patches that were drawn come in an order that is random too: the first ones are drawn among them.
        """
        photos, count, _ = patches.z.shape
        each = min(count, self._loss.supcon_samples // (photos * jax.lax.axis_size("data")))
        if count == lot.shape[1]:
            sample = draw_patches(lot, patches.shares.sum(-1), each)
            own = jax.tree.map(lambda x: take_patches(x, sample), patches)
        else:
            own = jax.tree.map(lambda x: x[:, :each], patches)
        return contrast_set(own)

    def _project(self, params: Any, photos: Photos, lot: Float32[Array, "B N"]) -> Patches:
        """The patches [B, n] in this step's loss. Without blocks they need no others: then no others are read."""
        h, w = photos.classes.shape[1:3]
        classes, shares = (x.reshape(-1, h * w, 3) for x in (photos.classes, photos.shares))
        valid = valid_patches(photos.grid_hw, h, w).reshape(-1, h * w)
        drawn = self._draw_step(lot, shares)

        def take(x: Shaped[Array, "B N *rest"]) -> Shaped[Array, "B n *rest"]:
            return x if drawn is None else take_patches(x, drawn)

        if self._head.blocks:
            z = self._apply(params, photos.features(None), valid, drawn)
        else:
            z = self._apply(params, photos.features(drawn), take(valid), None)
        first = jax.lax.axis_index("data") * (z.shape[0] * z.shape[1])
        ids = first + jnp.arange(z.shape[0] * z.shape[1]).reshape(z.shape[:2])
        return Patches(z, take(classes), take(shares), ids)

    def _draw_step(self, lot: Float32[Array, "B N"], shares: UInt8[Array, "B N 3"]) -> Int32[Array, "B n"] | None:
        """The patches_per_photo drawn for this step; None where all are in its loss."""
        count = self._loss.patches_per_photo
        return draw_patches(lot, shares.sum(-1), count) if 0 < count < shares.shape[1] else None

    def _apply(
        self,
        params: Any,
        features: Float[Array, "B N D"],
        valid: Bool[Array, "B N"],
        drawn: Int32[Array, "B n"] | None,
    ) -> Float32[Array, "B m E"]:
        return jnp.asarray(self._head.apply({"params": params["head"]}, features, valid, drawn))


def added_over_data(tree: T, mesh: Mesh) -> T:
    """The sums over the devices of 'data', in one exchange."""
    if mesh.shape["data"] == 1:  # XLA cannot split a sum of one over 'model'
        return tree
    if platform(mesh) == "gpu" and mesh.shape["model"] == 1:
        # A TPU adds up several arrays at once. For a GPU XLA joins them, as far as 30 MB, and copies them apart again.
        joined, apart = ravel_pytree(tree)
        together: T = apart(_psum(joined))
        return together
    return _psum(tree)


def _psum(tree: T) -> T:
    added: T = jax.lax.psum(tree, "data")  # type: ignore[no-untyped-call]
    return added


def stops(batch: Batch) -> Float32[Array, ""]:
    """How many rows' hosts are to stop. ValueError without `stop`."""
    if batch.stop is None:
        raise ValueError("a batch to train on says whose host is to stop")
    return batch.stop.sum()


def valid_patches(grid_hw: Int32[Array, "B 2"], h: int, w: int) -> Bool[Array, "B {h} {w}"]:
    """The top-left grid_hw patches of each row."""
    rows = jnp.arange(h)[None, :] < grid_hw[:, :1]
    columns = jnp.arange(w)[None, :] < grid_hw[:, 1:]
    return rows[:, :, None] & columns[:, None, :]


def train_step(
    objective: Objective,
    optimiser: optax.GradientTransformation,
    seed: int,
    state: State,
    batch: Batch,
    teacher: Teacher,
) -> tuple[State, Metrics]:
    """One update. What is drawn of a photo depends on (seed, step, row) alone.

    The metrics are METRICS; `stop` is above 0 where any host is to stop: the same on all of them, at the same step.
    """
    key = step_key(seed, state.step)
    outcome, gradients, stop = objective.with_gradient(state.params, batch, teacher, key, state.step)
    updates, moments = optimiser.update(gradients, state.moments, state.params)
    metrics = jnp.stack(
        [
            outcome.total / _at_least_some(outcome.weight),
            outcome.hits / _at_least_some(outcome.mass),
            optax.tree.norm(gradients),
            objective.temperature(state.params),
            stop,
        ]
    )
    return State(state.step + 1, optax.apply_updates(state.params, updates), moments), metrics


def named(metrics: Metrics) -> dict[str, float]:
    """Metrics by name, fetched from the device."""
    return dict(zip(METRICS, map(float, jax.device_get(metrics)), strict=True))


def _at_least_some(weight: Float32[Array, ""]) -> Float32[Array, ""]:
    """A sum to divide by: nothing labelled is a loss of 0."""
    return jnp.maximum(weight, 1e-6)


def compile_train_step(
    objective: Objective, optimiser: optax.GradientTransformation, seed: int, state: State, mesh: Mesh
) -> Callable[[State, Batch, Teacher], tuple[State, Metrics]]:
    """The jitted step for states laid out as `state`: the batch over 'data', the state donated."""

    def step(state: State, batch: Batch, teacher: Teacher) -> tuple[State, Metrics]:
        return train_step(objective, optimiser, seed, state, batch, teacher)

    where = state_shardings(state, mesh)
    return jax.jit(
        step,
        in_shardings=(where, over_data(mesh), replicated(mesh)),
        out_shardings=(where, replicated(mesh)),
        donate_argnums=0,
    )


def compile_held_out(
    objective: Objective, seed: int, state: State, mesh: Mesh
) -> Callable[[Any, Batch, Teacher], Outcome]:
    """The jitted sums of a batch that is not trained on, over all its patches."""
    whole = objective.on_all_patches()

    def held_out(params: Any, batch: Batch, teacher: Teacher) -> Outcome:
        return whole(params, batch, teacher, jax.random.key(seed))

    return jax.jit(
        held_out,
        in_shardings=(state_shardings(state.params, mesh), over_data(mesh), replicated(mesh)),
        out_shardings=replicated(mesh),
    )
