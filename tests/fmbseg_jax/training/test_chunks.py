"""Chunks change neither the losses nor their gradients, on one device or many, only the memory."""

import re
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmbseg_jax.runs.head import make_head
from fmbseg_jax.runs.settings import HeadConfig, LossConfig
from fmbseg_jax.training import losses, step
from fmbseg_jax.training.losses import Contrast, Patches
from fmbseg_jax.training.step import Objective, Supervision, Teacher
from tests.worlds import reference
from tests.worlds.stepping import BLOCK, CE, LINEAR, SUPCON, Bench, mesh_of

PATCHES, SAMPLED, WIDTH = 10, 4, 6
TEMPERATURE = 0.2
COLLECTIVE = re.compile(r"= (\S+) (all-\w+|reduce-scatter|collective-\w+)\(")


@pytest.fixture
def chunk_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], None]]:
    """Sets how many patches a chunk may have when there are so many columns."""

    def limit(patches: int, columns: int) -> None:
        monkeypatch.setattr(step, "chunk_bytes", lambda platform: 4 * columns * patches)

    return limit


class Case:
    """Patches [P] of one photo, their stored targets, and the loss in float64 by loops."""

    def __init__(self, loss: LossConfig, word_class: tuple[int, ...], labelled: bool = True):
        rng = np.random.default_rng(0)
        self.loss, self.word_class, self.count = loss, word_class, word_class[-1] + 1
        self.z, self.prototypes = self._unit(rng, PATCHES), self._unit(rng, len(word_class))
        self.weights = rng.uniform(0.5, 2, self.count)
        self.classes = np.array([rng.permutation(max(3, self.count))[:3] for _ in range(PATCHES)])
        self.shares = np.sort(rng.integers(1, 85, (PATCHES, 3)))[:, ::-1] * (self.classes < self.count) * labelled
        self.shares[7:9] = 0  # unlabelled
        order = np.lexsort((self.classes, -self.shares))  # largest share first
        self.classes, self.shares = (np.take_along_axis(x, order, 1) for x in (self.classes, self.shares))
        self.classes = np.where(self.shares > 0, self.classes, 0)
        self.targets = np.zeros((PATCHES, self.count))
        np.add.at(self.targets, (np.arange(PATCHES)[:, None], self.classes), self.shares / 255)
        self.sample = rng.permutation(PATCHES)[:SAMPLED]
        self.columns = len(word_class) + (SAMPLED if loss.loss == "t_supcon" else 0)

    @staticmethod
    def _unit(rng: np.random.Generator, count: int) -> np.ndarray:
        rows = rng.normal(size=(count, WIDTH))
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    def expected(self, z: np.ndarray, temperature: float) -> float:
        t = self.targets
        scores = reference.class_scores(z, self.prototypes, self.word_class)
        if self.loss.loss == "prototype_ce":
            return reference.cross_entropy(scores, t, self.weights, temperature)[0]
        sample, v = self.sample[None], self.loss.supcon_prototype_weight
        return reference.supcon(z[None], scores[None], t[None], self.weights, sample, v, temperature)[0]

    def expected_gradients(self) -> tuple[np.ndarray, float]:
        """By central differences."""
        step, by_z = 1e-5, np.zeros_like(self.z)
        for at in np.ndindex(self.z.shape):
            moved = np.zeros_like(self.z)
            moved[at] = step
            by_z[at] = self.expected(self.z + moved, TEMPERATURE) - self.expected(self.z - moved, TEMPERATURE)
        by_temperature = self.expected(self.z, TEMPERATURE + step) - self.expected(self.z, TEMPERATURE - step)
        return by_z / (2 * step), by_temperature / (2 * step)

    def found(self) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """(total, gradients by z and temperature) of in_chunks."""
        objective = Objective(make_head(LINEAR, WIDTH, "cpu"), self.loss, self.word_class, mesh_of(1, 1))
        teacher = Teacher(jnp.float32(self.prototypes), jnp.float32(self.weights))
        classes, shares = jnp.asarray(self.classes, jnp.uint16), jnp.asarray(self.shares, jnp.uint8)
        label = jnp.asarray(np.where(self.targets.any(1), self.targets.argmax(1), -1))
        ids = jnp.arange(PATCHES)

        def total(z: jax.Array, temperature: jax.Array) -> jax.Array:
            contrast = Contrast(z[self.sample], label[self.sample], ids[self.sample])
            given = Supervision(teacher, temperature, contrast if self.loss.loss == "t_supcon" else None)
            return losses.in_chunks(
                objective.sums, Patches(z, classes, shares, ids), given, self.columns, step.chunk_bytes("cpu")
            )[0]

        return jax.jit(jax.value_and_grad(total, (0, 1)))(jnp.float32(self.z), jnp.float32(TEMPERATURE))


@pytest.mark.parametrize("loss", [CE, SUPCON], ids=["ce", "supcon"])
@pytest.mark.parametrize("word_class", [(0, 1, 2, 3), (0,), (0, 0, 1, 1, 1, 1, 2, 3)], ids=["plain", "one", "words"])
def test_every_chunk_size_gives_the_loss_and_gradients_of_the_loop(
    chunk_of: Callable[[int, int], None], loss: LossConfig, word_class: tuple[int, ...]
) -> None:
    case = Case(loss, word_class)
    by_z, by_temperature = case.expected_gradients()
    for patches in (PATCHES, 6, 3, 1):  # 1, 2, 4 and 16 chunks; the last two are filled up
        chunk_of(patches, case.columns)
        total, gradients = case.found()
        assert float(total) == pytest.approx(case.expected(case.z, TEMPERATURE), rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(gradients[0], by_z, atol=2e-4)
        assert float(gradients[1]) == pytest.approx(by_temperature, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("loss", [CE, SUPCON], ids=["ce", "supcon"])
def test_chunks_of_nothing_labelled_are_zero_with_zero_gradients(
    chunk_of: Callable[[int, int], None], loss: LossConfig
) -> None:
    case = Case(loss, (0, 1, 2), labelled=False)
    chunk_of(3, case.columns)
    total, gradients = case.found()
    assert total == 0 and not any(np.asarray(gradient).any() for gradient in gradients)


@pytest.mark.parametrize(("head", "loss", "data"), [(LINEAR, CE, 1), (LINEAR, SUPCON, 4), (BLOCK, SUPCON, 2)])
def test_a_step_in_chunks_is_the_step_in_one_piece_on_any_mesh(
    chunk_of: Callable[[int, int], None], head: HeadConfig, loss: LossConfig, data: int
) -> None:
    value, gradients = Bench(mesh_of(1, 1), head, loss).gradients()
    chunk_of(3, 23)
    model = 2 if head.blocks else 1
    chunked_value, chunked = Bench(mesh_of(data, model), head, loss).gradients()
    assert value == pytest.approx(chunked_value, rel=1e-5)
    for leaf, other in zip(gradients, chunked, strict=True):
        np.testing.assert_allclose(leaf, other, atol=1e-5)


def test_chunks_exchange_nothing_between_devices(chunk_of: Callable[[int, int], None]) -> None:
    exchanged = []
    for patches in (1000, 3):
        chunk_of(patches, 23)
        bench = Bench(mesh_of(4, 1), LINEAR, SUPCON)
        text = bench.step.lower(bench.state, bench.batch(), bench.teacher).compile().as_text()
        bodies = set(re.findall(r"body=%?([\w.-]+)", text))
        parts = re.split(r"\n(?=%|ENTRY)", text)
        inside = [part for part in parts if part.split(" ")[0].lstrip("%") in bodies]
        assert not any(COLLECTIVE.search(part) for part in inside)
        exchanged.append((len(inside), sorted(COLLECTIVE.findall(text))))
    assert exchanged[1][0] > exchanged[0][0], "nothing was in chunks"
    assert exchanged[1][1] == exchanged[0][1] != []


def test_memory_does_not_grow_with_patches_times_classes(chunk_of: Callable[[int, int], None]) -> None:
    count, words = 4096, 1024
    objective = Objective(make_head(LINEAR, WIDTH, "cpu"), CE, tuple(range(words)), mesh_of(1, 1))
    kinds = (((WIDTH,), jnp.float32), ((3,), jnp.uint16), ((3,), jnp.uint8), ((), jnp.int32))
    patches = Patches(*(jax.ShapeDtypeStruct((count, *shape), kind) for shape, kind in kinds))
    prototypes, weights, temperature = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((words, WIDTH), (words,), ()))
    given = Supervision(Teacher(prototypes, weights), temperature, None)

    def gradient(patches: Patches, given: Supervision) -> jax.Array:
        def total(z: jax.Array) -> jax.Array:
            return losses.in_chunks(objective.sums, patches._replace(z=z), given, words, step.chunk_bytes("cpu"))[0]

        return jax.grad(total)(patches.z)

    temp_bytes = []
    for size in (count, count // 64):
        chunk_of(size, words)
        compiled = jax.jit(lambda *given: gradient(*given)).lower(patches, given).compile()  # traced anew
        temp_bytes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert temp_bytes[0] > 4 * count * words > 8 * temp_bytes[1]
