"""What the compiled step moves between devices, read from its HLO: gradients and the gathered sample, no features."""

import functools
import math
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmbseg_jax.runs.head import make_head
from fmbseg_jax.runs.settings import HeadConfig, LossConfig
from fmbseg_jax.training.batch import FedBatch, StoredBatch
from fmbseg_jax.training.mesh import over_data, replicated, state_shardings
from fmbseg_jax.training.step import Objective, Teacher, adamw, compile_train_step, init_state
from tests.worlds.stepping import SUPCON, mesh_of
from tests.worlds.synthetic import CLASSES, ONTOLOGY

WIDTH, TEXT_WIDTH, BATCH, GRID, DEVICES = 96, 80, 16, 12, 4
SMALL_BYTES = 4096
LINEAR, BLOCK = HeadConfig(0, 4, 0, "float32"), HeadConfig(1, 4, 48, "bfloat16")
CE = LossConfig("prototype_ce", True, 0.5, 0.1, False, 64, 256, 1.0)
CONTRAST = SUPCON.__class__(**{**vars(SUPCON), "patches_per_photo": 64, "supcon_samples": 256})
ALL_PATCHES = CE.__class__(**{**vars(CE), "patches_per_photo": 0})
COLLECTIVE = re.compile(
    r"= (?P<result>\(.*?\)|\S+) (?P<kind>all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all|"
    r"collective-broadcast|ragged-all-to-all)(-start)?\("
)
ARRAY = re.compile(r"(?P<type>[a-z]+\d*)\[(?P<shape>[\d,]*)\]")


class Moved(NamedTuple):
    """One array of a collective."""

    kind: str
    type: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * max(1, int(re.sub(r"\D", "", self.type) or 8) // 8)


def moved(text: str) -> list[Moved]:
    """The arrays above SMALL_BYTES that collectives of a compiled program give out."""
    found = []
    for line in text.splitlines():
        if collective := COLLECTIVE.search(line):
            for array in ARRAY.finditer(collective["result"]):
                shape = tuple(int(size) for size in array["shape"].split(",") if size)
                found.append(Moved(collective["kind"], array["type"], shape))
    return [array for array in found if array.bytes > SMALL_BYTES]


def traced(head: HeadConfig, loss: LossConfig, stored: bool = False, platform: str = "cpu") -> tuple[Any, Any]:
    """(the step traced for four devices, shapes of its parameters). Nothing is computed."""
    mesh = mesh_of(DEVICES, 1)
    module, optimiser = make_head(head, TEXT_WIDTH, platform), adamw(1e-2, 2, 20, 0.01, 1.0)
    make = functools.partial(init_state, module, loss, optimiser, WIDTH)
    shapes = jax.eval_shape(make, jax.random.key(0))
    state = placed(shapes, state_shardings(shapes, mesh))
    objective = Objective(module, loss, ONTOLOGY.word_class, mesh)
    words = len(ONTOLOGY.words)
    teacher = Teacher(jnp.zeros((words, TEXT_WIDTH)), jnp.zeros(CLASSES))
    teacher = placed(jax.eval_shape(lambda: teacher), jax.tree.map(lambda x: replicated(mesh), teacher))
    step: Any = compile_train_step(objective, optimiser, 0, state, mesh)
    make_batch = stored_batch if stored else batch
    return step.trace(state, make_batch(over_data(mesh)), teacher), shapes.params


def program(head: HeadConfig, loss: LossConfig, stored: bool = False) -> tuple[str, list[tuple[int, ...]]]:
    """(the step compiled for four devices, shapes of its parameters)."""
    step, parameters = traced(head, loss, stored)
    return step.lower().compile().as_text(), [leaf.shape for leaf in jax.tree.leaves(parameters)]


def placed(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def batch(sharding: Any) -> FedBatch:
    grid = (BATCH, GRID, GRID)
    like = {
        "features": ((*grid, WIDTH), jnp.bfloat16), "grid_hw": ((BATCH, 2), np.int32), "row": ((BATCH,), np.int32),
        "classes": ((*grid, 3), np.uint16), "shares": ((*grid, 3), np.uint8), "stop": ((BATCH,), np.float32),
    }  # fmt: skip
    shapes = {name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for name, (shape, dtype) in like.items()}
    return FedBatch(**shapes)


def stored_batch(sharding: Any) -> StoredBatch:
    """Of a split of 8 virtual shards with 5 rows each that lives on the devices."""

    def array(x: Any) -> Any:
        return jax.ShapeDtypeStruct((8, 5, *x.shape[1:]), x.dtype, sharding=sharding)

    rows = vars(batch(sharding))
    indices = jax.ShapeDtypeStruct((8, 4, BATCH // 8), np.int32, sharding=sharding)
    stored = {name: array(x) for name, x in rows.items() if name != "stop"}
    return StoredBatch(**stored, stop=rows["stop"], indices=indices)


@pytest.mark.parametrize(
    ("head", "loss", "stored"),
    [
        (LINEAR, CE, False),
        (LINEAR, CE, True),
        (LINEAR, CONTRAST, True),
        (BLOCK, ALL_PATCHES, False),
        (BLOCK, ALL_PATCHES, True),
        (BLOCK, CONTRAST, False),
    ],
)
def test_only_gradients_and_the_sample_move_between_devices(head: HeadConfig, loss: LossConfig, stored: bool) -> None:
    text, parameters = program(head, loss, stored)
    large = moved(text)
    sample = (loss.supcon_samples, TEXT_WIDTH)
    gradients = [array for array in large if array.kind == "all-reduce" and sizes(array.shape) != sizes(sample)]
    expected = [sizes(shape) for shape in parameters if 4 * math.prod(shape) > SMALL_BYTES]
    assert expected and sorted(sizes(array.shape) for array in gradients) == sorted(expected), "each gradient once"
    contrast = [(array.kind, math.prod(array.shape)) for array in large if array not in gradients]
    # The sampled vectors come to every device, the gradients to them go back to the one they came from.
    there_and_back = [("all-gather", math.prod(sample)), ("reduce-scatter", math.prod(sample) // DEVICES)]
    assert sorted(contrast) == (there_and_back if loss.loss == "t_supcon" else [])


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("loss", [ALL_PATCHES, CONTRAST], ids=["ce", "supcon"])
def test_devices_add_in_float32_whatever_the_head_computes_in(loss: LossConfig, platform: str) -> None:
    """Before any compiler: the CPU's would add bfloat16 in float32 by itself."""
    step, _ = traced(BLOCK, loss, platform=platform)
    text = step.lower(lowering_platforms=(platform,)).as_text()
    added = re.findall(r"stablehlo\.(?:all_reduce|reduce_scatter).*?\}\) : \((.*?)\)", text, re.DOTALL)
    kinds = {kind for operands in added for kind in re.findall(r"tensor<(?:\d+x)*(\w+)>", operands)}
    assert kinds == {"f32"} and "bf16" in text


def test_a_tpu_never_keeps_the_scores_of_all_pairs_of_patches() -> None:
    pairs = f"{GRID**2}x{GRID**2}x"
    kept = {}
    for platform in ("cpu", "tpu"):
        step, _ = traced(BLOCK, ALL_PATCHES, platform=platform)
        text = step.lower(lowering_platforms=(platform,)).as_text()
        kept[platform] = (pairs in text, "tpu_custom_call" in text)
    assert kept == {"cpu": (True, False), "tpu": (False, True)}


def sizes(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The compiler turns arrays around as it likes."""
    return tuple(sorted(shape))


def test_collectives_are_read_from_the_text_as_they_are_written() -> None:
    text = """
  %all-reduce.7 = (f32[128]{0}, f32[128,256]{1,0}, /*index=2*/f32[]) all-reduce(%a, %b, %c), channel_id=2
  %all-gather = bf16[16,4,80]{2,1,0} all-gather(%x), channel_id=1, dimensions={0}
  ROOT %permute = f32[64,64]{1,0} collective-permute-start(%y)
  %add = f32[999,999]{1,0} add(%all-reduce.7, %b)
"""
    assert [(array.kind, array.shape, array.bytes) for array in moved(text)] == [
        ("all-reduce", (128, 256), 131072),
        ("all-gather", (16, 4, 80), 10240),
        ("collective-permute", (64, 64), 16384),
    ]
