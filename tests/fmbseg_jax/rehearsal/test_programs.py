"""The programs, compiled for the CPU's virtual devices as a topology; test_rehearse.py has the real compilers."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from fmbseg_jax.rehearsal import findings, programs
from fmbseg_jax.rehearsal.optimized import Collective, Optimized
from fmbseg_jax.rehearsal.programs import (
    EVALUATE,
    FED,
    HELD_OUT,
    PREDICT,
    RESIDENT,
    Readings,
    Shape,
    plan,
    readings,
    rehearse,
)
from fmbseg_jax.rehearsal.topologies import Topology
from fmbseg_jax.runs.settings import TrainConfig, train_config
from fmbseg_jax.training.chips import Chip
from fmbseg_jax.training.device_batches import fits, open_batches
from fmbseg_jax.training.feed import Examples, Order, free_labels, split_rows
from fmbseg_jax.training.mesh import lay_out
from labelgen.core.config import load_config
from labelgen.core.errors import UserError
from labelgen.data.dataset import Dataset
from tests.worlds.paths import ROOT
from tests.worlds.synthetic import write_data

SHAPE = Shape(16, (5, 4), 8, (0, 1, 1, 2), photos=30)
CHIP = Chip(1e12, 1e11, 1e10, 0, 1e9, per_host=4, capacity=1 << 30, usable=1 << 29)
FIELDS = ["train.batch_size=8", "train.virtual_shards=4", "train.patches_per_photo=7", "head.heads=4"]


def settings(*fields: str) -> TrainConfig:
    return train_config(load_config(str(ROOT / "configs/default.py"), [*FIELDS, *fields]))


@pytest.fixture(scope="module")
def here() -> Topology:
    return Topology("here", jax.devices(), CHIP)


@pytest.fixture(scope="module")
def found(here: Topology) -> dict[str, Readings]:
    return rehearse(settings(), SHAPE, here)


def test_every_program_is_compiled_for_all_devices(found: dict[str, Readings]) -> None:
    devices = {name: reading.devices for name, reading in found.items()}
    assert devices == {FED: 4, RESIDENT: 4, HELD_OUT: 4, EVALUATE: 1, PREDICT: 1}
    assert all(reading.compile_s > 0 and reading.text.startswith("HloModule") for reading in found.values())


def test_the_step_exchanges_the_gradient_and_gives_back_its_state(found: dict[str, Readings]) -> None:
    for name in (FED, RESIDENT):
        inside = found[name].optimized
        assert inside and inside.host_calls == ()
        weights = 4 * (16 * 8 + 8)
        assert weights <= sum(inside.by_kind()["all-reduce"]) <= weights + 64
        assert inside.reused == 9 and found[name].reused_bytes >= 3 * weights
    held_out = found[HELD_OUT].optimized
    assert held_out and held_out.by_kind() == {"all-reduce": [16]} and not held_out.reused
    alone = found[PREDICT].optimized
    assert alone and alone.collectives == ()


def test_no_array_is_made(here: Topology) -> None:
    leaves = [leaf for program in plan(settings(), SHAPE, here).values() for leaf in jax.tree.leaves(program.arguments)]
    assert leaves and {type(leaf) for leaf in leaves} == {jax.ShapeDtypeStruct}


def test_the_arguments_are_those_of_a_training(here: Topology, tmp_path: Path) -> None:
    data = Dataset.open(write_data(tmp_path / "data"))
    config = settings()
    shape = Shape.of(data, dataclasses.replace(config, labels="default"), "bfloat16")
    examples = Examples(data, "train", free_labels(data, "default", "train"))
    rows, _ = split_rows(len(examples), config.feed.holdout)
    layout = lay_out(-1, 1, 8)
    for share, name in ((0.5, RESIDENT), (0.0, FED)):
        feed = dataclasses.replace(config.feed, resident_share=share)
        batch: Any = next(open_batches(examples, rows, feed, 9, layout, {"next_index": 0}))
        planned = plan(config, shape, here)[name].arguments[1]
        for real, told in zip(
            jax.tree.leaves(batch), jax.tree.leaves(dataclasses.replace(planned, stop=None)), strict=True
        ):
            assert (real.shape, real.dtype, real.sharding) == (told.shape, told.dtype, told.sharding)
    row = sum(value.nbytes for value in examples[int(rows[0])].values())
    assert shape.row_bytes == row


@pytest.mark.parametrize("shards", [4, 8, 2])
def test_the_split_fits_where_train_finds_that_it_does(
    here: Topology, tmp_path: Path, shards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Dataset.open(write_data(tmp_path / "data"))
    config = settings(f"train.virtual_shards={shards}")
    shape = Shape.of(data, config, "bfloat16")
    examples = Examples(data, "train", free_labels(data, "default", "train"))
    rows, _ = split_rows(len(examples), config.feed.holdout)
    order, over = Order(rows, config.feed, 9), lay_out(-1, 1, 8).over_data
    layout = programs.check(config, shape, here)
    split = programs.split_on(config, shape, layout, here)
    assert split
    for usable in (2 * (split.bytes or 1), 2 * (split.bytes or 1) - 2):
        monkeypatch.setattr("fmbseg_jax.training.device_batches.memory_bytes", lambda usable=usable: usable)
        slice_ = dataclasses.replace(here, chip=dataclasses.replace(CHIP, usable=usable))
        again = programs.split_on(config, shape, layout, slice_)
        assert again and again.fits == fits(examples, order, over, 0.5) == (RESIDENT in plan(config, shape, slice_))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (["train.batch_size=6", "train.virtual_shards=6"], "train.batch_size=6 cannot be divided over 4 devices"),
        (["mesh.data=3"], "mesh.data=3 times mesh.model=1 is not the 4 devices there are"),
        (["mesh.model=4", "head.blocks=1", "head.heads=2"], "mesh.model=4 does not divide the 2 of "),
        (["head.blocks=1", "head.heads=3"], "head.heads=3 does not divide the features' width 16"),
    ],
)
def test_what_cannot_work_is_trains_error(here: Topology, fields: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        plan(settings(*fields), SHAPE, here)
    assert said in str(error.value)


def test_a_host_without_whole_virtual_shards_is_trains_error(here: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fmbseg_jax.training.mesh.own_places", lambda sharding, batch: np.arange(2))
    with pytest.raises(UserError, match="virtual_shards=2 cannot be divided over the hosts"):
        plan(settings("train.virtual_shards=2"), SHAPE, here)


def test_fields_that_would_work(here: Topology) -> None:
    wrong = settings("train.batch_size=6", "train.virtual_shards=6")
    assert findings.fix(wrong, SHAPE, here) == "--config.train.batch_size=8 --config.train.virtual_shards=4"
    assert findings.fix(settings(), SHAPE, here) == ""
    samples = settings("train.batch_size=6", "train.virtual_shards=3", "train.loss=t_supcon", "train.supcon_samples=7")
    assert findings.fitting(samples, here)["train.supcon_samples"] == 8


def test_what_the_compiler_has_no_memory_for_is_a_reading() -> None:
    class Refused:
        def trace(self, *arguments: Any) -> Any:
            return type("Traced", (), {"jaxpr": jax.make_jaxpr(lambda x: x)(1.0), "lower": self.lower})

        @staticmethod
        def lower() -> Any:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM, 20G of 15.75G.\nmore")

    found = readings(programs.Program(Refused(), (), 4))
    assert found.refused == "Ran out of memory on HBM, 20G of 15.75G." and not found.optimized


@pytest.mark.parametrize(
    "text",
    [
        "",
        "D=16",
        "D=16,grid=5,E=8,classes=3",
        "D=0,grid=5x4,E=8,classes=3",
        "D=16,grid=5x4,E=8,classes=3,x=1",
        "D=2x2,grid=5x4,E=8,classes=3",
    ],
)
def test_a_wrong_shape_is_a_line(text: str) -> None:
    with pytest.raises(UserError, match=r"write it like D=1024,grid=37x37,E=768,classes=21,photos=10582"):
        Shape.parse(text)


def test_a_shape_as_it_is_told() -> None:
    assert Shape.parse("D=16, grid=5x4,E=8,classes=3,photos=30") == Shape(16, (5, 4), 8, (0, 1, 2), 30)


def test_the_report_says_what_was_found(here: Topology, found: dict[str, Readings]) -> None:
    outcome = findings.find(settings(), SHAPE, here, found)
    text = findings.text(outcome)
    assert text.startswith("here: 4 x cpu in 1 hosts, mesh 4 x 1, 8 photos a step, 0 blocks, float32, prototype_ce\n")
    assert "lives on the chips" in text and "change: nothing must be" in text and "predict: nothing exchanged" in text
    told = findings.as_json(outcome)
    assert told["programs"][FED]["argument_bytes"] == found[FED].argument_bytes
    assert told["step"]["bound"] in ("compute", "memory", "exchange") and told["change"] == []
    assert told["step"]["photos_per_second"] == pytest.approx(8 / outcome.least_seconds())


def test_the_report_says_what_to_change(here: Topology, found: dict[str, Readings]) -> None:
    fed = {name: reading for name, reading in found.items() if name != RESIDENT}
    few = findings.find(settings("train.virtual_shards=2"), SHAPE, here, fed)
    assert few.changes() == ["train.virtual_shards=4, so that each chip has whole ones and the split can live there"]
    assert few.bound() == "feed"
    tight = dataclasses.replace(here, chip=dataclasses.replace(CHIP, usable=1000))
    said = findings.find(settings(), SHAPE, tight, fed).changes()
    assert said[0].startswith("train, fed: it needs ") and "set head.dtype=bfloat16 or train.batch_size=4" in said[0]
    assert said[-1].startswith("nothing: the split takes ")
    part = dataclasses.replace(here, chip=dataclasses.replace(CHIP, usable=100_000))
    narrow = findings.find(settings("train.resident_share=0.01"), SHAPE, part, fed)
    assert [change.partition("=")[0] for change in narrow.changes()] == ["train.resident_share"]
    refused = {**fed, FED: Readings(4, 1.0, refused="Ran out of memory on HBM, 20G of 15.75G.")}
    text = findings.text(findings.find(settings(), SHAPE, here, refused))
    assert "train, fed: refused: Ran out of memory" in text and "photos/s" not in text


def test_a_sum_is_sent_twice() -> None:
    exchanges = (Collective("all-reduce", {"f32": 40, "s32": 12}, 1), Collective("all-gather", {"f32": 16}, 2))
    assert findings.sent(Readings(4, 1.0, optimized=Optimized(exchanges, {}, (), 0, 0))) == 2 * 52 + 32
    assert findings.sent(Readings(4, 1.0, refused="no memory")) == 0
