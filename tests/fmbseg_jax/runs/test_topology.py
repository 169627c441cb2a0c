"""What processes tell each other, which places of a batch are whose, and checkpoints that know nothing of it."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from configs.default import get_config
from fmbseg_jax.runs.checkpoint import Checkpoints, checksum
from fmbseg_jax.runs.hosts import check
from fmbseg_jax.runs.settings import hosts_config
from fmbseg_jax.training.step import named
from labelgen.core.errors import UserError
from tests.worlds.hosts_check import HIDDEN, IDENTITY, PROTOTYPES
from tests.worlds.processes import HOST_RUN, free_port, hosts, pair
from tests.worlds.stepping import SUPCON, Bench, mesh_of
from tests.worlds.synthetic import write_data
from tests.worlds.training import argv

pytestmark = pytest.mark.serial


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """What two processes of two devices each found, and where they saved."""
    folder = tmp_path_factory.mktemp("two")
    port = free_port()
    check = [sys.executable, "-m", "tests.worlds.hosts_check"]
    commands = [[*check, f"127.0.0.1:{port},2,{i}", str(folder)] for i in range(2)]
    with hosts(commands, folder / "log", 2) as started:
        ended = started.end()
    assert [end.code for end in ended] == [0, 0], ended[0].err + ended[1].err
    return folder, [json.loads((folder / f"{i}.json").read_text()) for i in range(2)]


def test_sums_are_exact_and_the_same_everywhere(two: Any) -> None:
    for i, found in enumerate(two[1]):
        assert found["count"] == 2 and found["first"] == (i == 0)
        assert found["total int64"] == [[2 * (2**53 + 1) + 1, -1]]
        assert found["total float64"] == [0.1 + 0.2, 3e300]
        assert found["gathered"] == [{"photo": ""}, {"photo": "xxxxx"}]
        assert found["any"] == [True, False]
        assert (found["same"], found["different"]) == ("", "differs")
    assert [found["share"] for found in two[1]] == [[0, 2, 4], [1, 3]]


def test_each_process_has_whole_rows_of_the_mesh_and_its_places_of_the_batch(two: Any) -> None:
    for i, found in enumerate(two[1]):
        assert found["rows of processes"] == {
            "4x1": [[0], [0], [1], [1]],
            "2x2": [[0, 0], [1, 1]],
            "1x4": [[0, 0, 1, 1]],
        }
        own = list(range(4 * i, 4 * i + 4))
        assert found["places"] == {"4x1": own, "2x2": own, "1x4": list(range(8))}


def test_virtual_shards_that_hosts_would_have_to_share_are_refused(two: Any) -> None:
    for found in two[1]:
        refused = found["one virtual shard"]
        assert "train.virtual_shards=1 cannot be divided over the hosts, which hold 4 of" in refused["4x1"]
        assert refused["2x2"] and not refused["1x4"]


def test_losses_do_not_depend_on_the_processes(two: Any) -> None:
    bench = Bench(mesh_of(1, 1), HIDDEN, SUPCON)
    state, losses = bench.state, []
    for i in range(3):
        state, metrics = bench.step(state, bench.batch(i), bench.teacher)
        losses.append(named(metrics)["loss"])
    for found in two[1]:
        assert found["losses"]["4x1"] == pytest.approx(losses, rel=1e-4)
        assert found["losses"]["1x4"] == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize(("data", "model"), [(1, 1), (2, 2)])
def test_parameters_spread_over_processes_come_back_on_one(two: Any, data: int, model: int) -> None:
    folder, (found, other) = two
    assert found["spread"] and found["checksum"] == other["checksum"]
    bench = Bench(mesh_of(data, model), HIDDEN, SUPCON)
    checkpoints = Checkpoints(folder, PROTOTYPES, {})
    step, state, feed = checkpoints.restore(bench.state, IDENTITY)
    checkpoints.close()
    assert (step, feed) == (3, {"next_index": 3})
    assert checksum({"params": state.params}) == found["checksum"]


def test_the_checksum_sees_any_element_its_place_its_type_and_its_name() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    seen = {checksum({"a": x}), checksum({"b": x}), checksum({"a": x.T.copy()}), checksum({"a": x.astype(np.int32)})}
    for index in np.ndindex(x.shape):
        for bit in (0, 7, 31):
            changed = x.copy()
            changed.view(np.uint32)[index] ^= np.uint32(1 << bit)
            seen.add(checksum({"a": changed}))
    both = x.copy()
    both[0] *= -1
    for changed in (both, x[::-1].copy()):
        seen.add(checksum({"a": changed}))
    assert len(seen) == 4 + 12 * 3 + 2


def test_the_checksum_does_not_depend_on_where_the_array_lies() -> None:
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    for mesh in (mesh_of(1, 1), mesh_of(4, 1), mesh_of(2, 2)):
        sharding = jax.NamedSharding(mesh, jax.P("data", "model"))
        assert checksum([jax.device_put(x, sharding)]) == checksum([x])


@pytest.mark.parametrize("how", ["on", "10.0.0.1:1,2", "10.0.0.1,2,0", "10.0.0.1:1,2,2", "a b:1,2,0", ""])
def test_other_ways_to_say_distributed_are_refused(how: str) -> None:
    with pytest.raises(UserError, match=r"is none of off, auto, ADDRESS:PORT,COUNT,ID; with two processes write"):
        check(how)


@pytest.mark.parametrize(("field", "value", "low"), [("distributed_start_s", 0, 1), ("distributed_silent_s", 9, 10)])
def test_times_that_are_too_short_are_refused(field: str, value: int, low: int) -> None:
    config = get_config()
    config[field] = value
    with pytest.raises(UserError, match=f"{field}={value} is too small; set it to {low} or more"):
        hosts_config(config)


def test_hosts_that_cannot_be_found_are_said_in_one_line(tmp_path: Path) -> None:
    port = free_port()
    nobody, cluster = f"--config.distributed=127.0.0.1:{port},2,1", "--config.distributed=auto"
    commands = [
        [*HOST_RUN, "-m", "fmbseg_jax.train", *argv(tmp_path, tmp_path / "run"), how, "--config.distributed_start_s=2"]
        for how in (nobody, cluster)
    ]
    with hosts(commands, tmp_path / "log", 1) as started:
        alone, lost = started.end(60)
    assert alone.code == lost.code == 2
    assert f"error: distributed=127.0.0.1:{port},2,1: not all processes of the run were there after 2 s" in alone.err
    assert "error: distributed=auto: coordinator_address should be defined.; outside of a TPU pod, Slurm" in lost.err


def test_hosts_that_were_told_different_things_both_say_so(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    steps = iter((60, 61))
    told = pair(
        lambda how: [
            "-m", "fmbseg_jax.train", *argv(data, tmp_path / "run", distributed=how, train_steps=next(steps)),
        ]
    )  # fmt: skip
    with hosts(told, tmp_path / "log", 1) as started:
        ended = started.end(60)
    assert [end.code for end in ended] == [2, 2]
    assert all("the hosts differ in config, words or DATA; start all with the same" in end.err for end in ended)
    assert not (tmp_path / "run").exists()
