"""The benchmarks measure what they say: the PyTorch side is the same training, the counts are right."""

import dataclasses
import json
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from benchmarks import feed, torch_trainer
from benchmarks.programs import program, settings_of
from benchmarks.setting import Shape, spread, table, write_data
from benchmarks.train_vs_torch import check_same, first_figures, overrides, torch_settings
from fmbseg_jax.rehearsal.optimized import read
from fmbseg_jax.runs.settings import train_config
from fmbseg_jax.training.chips import Chip, step_seconds
from fmbseg_jax.training.costs import matmul_flops
from fmbseg_jax.training.mesh import make_mesh
from labelgen.core.config import load_config
from labelgen.core.errors import UserError

TINY = Shape(feature_width=16, text_width=8, grid_hw=(5, 4), classes=3, photos=6, batch_size=2, patches_per_photo=7)
ARGS = Namespace(steps=8, every=2, cores=1)


def both_sides(folder: Path, blocks: int, **setting: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """The first figures here, and what the PyTorch side returns after a few steps."""
    shape = dataclasses.replace(TINY, blocks=blocks)
    data, parameters = write_data(folder / "data", shape), folder / "parameters.npz"
    settings = train_config(load_config("configs/default.py", overrides(shape, ARGS)))
    ours = first_figures(settings, data, parameters)
    given = {**torch_settings(settings, shape, ARGS), "data": str(data), "parameters": str(parameters), "rows": [0, 1]}
    given["learning_rate"] = 0.05
    return ours, torch_trainer.train(torch_trainer.Settings(**given, **setting))


@pytest.mark.parametrize("blocks", [0, 1])
def test_the_pytorch_side_starts_from_the_same_loss_and_gradient(tmp_path: Path, blocks: int) -> None:
    ours, theirs = both_sides(tmp_path, blocks)
    assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)
    assert theirs["gradient_norm"] == pytest.approx(ours["gradient_norm"], rel=1e-4)


@pytest.mark.parametrize("draw_in_loader", [False, True])
def test_the_pytorch_side_learns_and_tells_the_time(tmp_path: Path, draw_in_loader: bool) -> None:
    _, theirs = both_sides(tmp_path, 0, draw_in_loader=draw_in_loader)
    assert theirs["last_loss"] < 0.8 * theirs["loss"]
    assert len(theirs["at"]) == 4 and theirs["at"] == sorted(theirs["at"])


def test_sides_that_differ_are_not_compared() -> None:
    with pytest.raises(UserError, match="gradient_norm of the first batch: 2.0 here, 2.1 in PyTorch"):
        check_same({"loss": 1.0, "gradient_norm": 2.0}, {"loss": 1.0, "gradient_norm": 2.1})


def test_products_are_counted_in_loops_and_on_every_device() -> None:
    def looped(x: jax.Array, several: jax.Array) -> jax.Array:
        return jax.lax.map(lambda y: (x @ y).sum(), several).sum() + (x @ x.T).sum()

    x, several = jnp.ones((30, 40)), jnp.ones((5, 40, 20))
    assert matmul_flops(jax.make_jaxpr(looped)(x, several)) == 5 * 2 * 30 * 40 * 20 + 2 * 30 * 40 * 30

    mesh, spec = make_mesh(-1, 1), PartitionSpec("data")  # type: ignore[no-untyped-call]
    split = jax.shard_map(lambda x: x @ x.T @ x, mesh=mesh, in_specs=spec, out_specs=spec)
    rows = 3 * mesh.size
    assert matmul_flops(jax.make_jaxpr(split)(jnp.ones((rows, 4)))) == mesh.size * 2 * (2 * 3 * 3 * 4)


def test_a_step_exchanges_its_gradients_and_no_more() -> None:
    shape = dataclasses.replace(TINY, batch_size=jax.device_count())
    settings = settings_of(shape, f"train.virtual_shards={shape.batch_size}")
    made = program(shape, settings.head, settings.loss)
    found = read(made.compiled.as_text()).by_kind()
    weights = 4 * (16 * 8 + 8)
    assert weights <= sum(found["all-reduce"]) <= weights + 32
    assert list(found) == ["all-reduce"]


def test_the_least_seconds_of_a_step_by_hand() -> None:
    chip = Chip(flops=100.0, memory=10.0, exchange=8.0, network=4.0, store=2.0, per_host=4)
    one = step_seconds(chip, 1, flops=300.0, moved=20.0, sent=16.0, fed=1.0)
    assert one == {"work": 3.0, "sum": 1.5, "feed": 2.0, "resident": 4.5, "fed": 4.5}
    two = step_seconds(chip, 2, flops=100.0, moved=20.0, sent=16.0, fed=4.0)
    assert two == {"work": 2.0, "sum": 3.5, "feed": 8.0, "resident": 5.5, "fed": 8.0}


def test_the_plain_read_reads_every_byte(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(range(100)) * 3)
    buffer = np.zeros(400, np.uint8)
    feed.plain_read([tmp_path / "a"], buffer)
    assert buffer[:300].tobytes() == bytes(range(100)) * 3


def test_the_feed_is_measured_beside_a_plain_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = feed.arguments().parse_args(
        ["--pocket", "--photos=2", "--batch=2", "--repeats=1", f"--scratch={tmp_path}", f"--out={tmp_path / 'f.json'}"]
    )
    assert feed.main(args) == 0
    said = capsys.readouterr().out
    assert f"| {feed.FIRST} |" in said and f"| {feed.LATER} |" in said
    result = json.loads((tmp_path / "f.json").read_text())
    assert result["bytes"] > 2 * 24 * 24 * 192 * 2
    assert all(second > 0 for spent in result["seconds"].values() for second in spent[0])
    assert not list(tmp_path.glob("benchmark-*"))


def test_a_batch_that_does_not_divide_the_photos_is_refused() -> None:
    with pytest.raises(UserError, match="--photos=5 is no multiple of --batch=2"):
        feed.main(feed.arguments().parse_args(["--photos=5", "--batch=2"]))


def test_figures_are_written_with_their_spread() -> None:
    assert spread([3.0, 1.0, 2.0]) == "2 (1 .. 3)"
    assert table(["a", "b"], [[1, "x"]]) == "| a | b |\n| --- | --- |\n| 1 | x |"
    assert math.isclose(float(spread([0.123456], 2).split()[0]), 0.12)
