"""Training over real processes: as one process does it, stopped together, resumed on any number, never hanging."""

import shutil
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from fmbseg_jax.runs.settings import FeedConfig
from fmbseg_jax.training.feed import Feed, Order, split_rows
from labelgen.data.tfrecord import ShardReader
from tests.worlds import host_run
from tests.worlds.paths import ROOT
from tests.worlds.processes import HOST_RUN, Hosts, free_port, hosts, pair, wait_for, wait_for_port
from tests.worlds.synthetic import write_data
from tests.worlds.training import argv, digests, metrics, train

pytestmark = pytest.mark.serial
FIELDS = {"train_steps": 80, "train_save_every": 40, "train_log_every": 1, "train_loss": "t_supcon"}
FIELDS |= {"train_resident_share": 0}  # what each host reads is recorded as it is read
SRUN = """#!/usr/bin/env bash
# Two tasks on this machine, with the variables that Slurm gives them.
for i in 0 1; do
    SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NTASKS=2 SLURM_STEP_NODELIST=localhost "$@" \
        > "$HOST_LOG/$i.task" 2>&1 &
    tasks[i]=$!
done
worst=0
for task in "${tasks[@]}"; do wait "$task"; code=$?; ((code > worst)) && worst=$code; done
exit $worst
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """RUN of one process with four devices, and its batches."""
    workdir = tmp_path_factory.mktemp("alone")
    real, batches = Feed.__next__, []

    def read(feed: Feed) -> Any:
        batch = real(feed)
        batches.append(host_run.rows_of(batch))
        return batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Feed, "__next__", read)
        assert train(data, workdir, **FIELDS) == 0
    return workdir, batches


@pytest.fixture(scope="module")
def slurm(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Hosts]:
    """RUN of two processes with two devices each, started by the script for Slurm."""
    folder = tmp_path_factory.mktemp("slurm")
    for name, text in (("srun", SRUN), ("python", f'#!/bin/bash\nexec {" ".join(HOST_RUN)} "$@"\n')):
        (folder / name).write_text(text)
        (folder / name).chmod(stat.S_IRWXU)
    line = [argument for argument in argv(data, folder / "run", **FIELDS) if argument.startswith("--config.")]
    default = str(ROOT / "configs/default.py")
    script = ["bash", "launch/slurm_gpu.sbatch", default, str(data), str(folder / "run"), *line]
    # jax takes the port 61440 + job id modulo 4096.
    environment = {"SLURM_JOB_ID": str(free_port(61440) - 61440), "PYTHON": str(folder / "python")}
    path = f"{folder}:{Path(sys.executable).parent}:/usr/bin:/bin"
    with hosts([script], folder / "log", 2, PATH=path, **environment) as started:
        (ended,) = started.end()
    tasks = [(started.log / f"{i}.task").read_text() for i in range(2)]
    assert ended.code == 0, "\n".join([ended.err, *tasks])
    assert "trained 80 steps into" in tasks[0] and "trained" not in tasks[1], "the first speaks for all"
    return folder / "run", started


def test_two_processes_learn_what_one_does(alone: Any, slurm: Any) -> None:
    assert_same_course(slurm[0], alone[0])


def assert_same_course(workdir: Path, other: Path) -> None:
    """Devices add up in another order, and 80 steps carry that on."""
    lines, expected = metrics(workdir), metrics(other)
    assert len(lines) == len(expected)
    for line, like in zip(lines, expected, strict=True):
        assert line == pytest.approx(like, rel=2e-3, abs=1e-4)


def test_the_batches_are_the_same_and_each_host_reads_rows_of_its_own(alone: Any, slurm: Any) -> None:
    first, second = (slurm[1].record(i)["batches"] for i in range(2))
    joined = [[*map(tuple, a), *map(tuple, b)] for a, b in zip(first, second, strict=True)]
    assert joined == alone[1] and len(joined) == 80
    rows = [{row for batch in batches for row, _ in batch} for batches in (first, second)]
    assert rows[0] and rows[1] and not rows[0] & rows[1]


def test_the_step_is_compiled_once(slurm: Any) -> None:
    for process in range(2):
        compiled = slurm[1].record(process)["compiled"]
        assert compiled["jit(step)"] == compiled["jit(held_out)"] == 1


def command(data: Path, workdir: Path, **fields: Any) -> list[str]:
    return ["-m", "fmbseg_jax.train", *argv(data, workdir, **{**FIELDS, **fields})]


def on_two(data: Path, workdir: Path, log: Path, devices: int = 2, silent_s: int = 60, **environment: str) -> Any:
    silent = f"--config.distributed_silent_s={silent_s}"
    commands = pair(lambda how: [*command(data, workdir, distributed=how), silent])
    return hosts(commands, log, devices, **environment)


def on_one(data: Path, workdir: Path, log: Path, **environment: str) -> Any:
    return hosts([[*HOST_RUN, *command(data, workdir)]], log, 1, **environment)


def stopped(started: Hosts, workdir: Path, lines: int) -> int:
    """The step that all saved after a SIGTERM to the last of them."""
    wait_for(workdir / "metrics.jsonl", lines)
    started.processes[-1].send_signal(signal.SIGTERM)
    ended = started.end()
    assert [end.code for end in ended] == [75] * len(ended), "\n".join(end.err for end in ended)
    step = int(ended[0].out.split("stopped and saved at step ")[1].split()[0])
    assert str(step) in digests(workdir) and len([m for m in metrics(workdir) if "loss" in m]) == step
    return step


def test_a_signal_to_one_stops_all_and_any_number_goes_on(data: Path, alone: Any, slurm: Any, tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    with on_two(data, run, tmp_path / "a", HOST_SECONDS="0.05") as started:
        first = stopped(started, run, 3)
    shutil.copytree(run, moved)
    with on_two(data, run, tmp_path / "b") as started:
        assert [end.code for end in started.end()] == [0, 0]
    assert digests(run) == digests(slurm[0]), "bit-equal on as many devices"
    with on_one(data, moved, tmp_path / "c", HOST_SECONDS="0.05") as started:
        second = stopped(started, moved, first + 3)
    assert first < second < 80
    before = cut_off_latest(moved)
    with on_two(data, moved, tmp_path / "d") as started:
        ended = started.end()
    assert [end.code for end in ended] == [0, 0]
    assert f"checkpoints/{second} is broken" in ended[0].err and f"going on from step {before}" in ended[0].err
    assert "is broken" not in ended[1].err, "said once"
    assert_same_course(moved, alone[0])


def cut_off_latest(workdir: Path) -> int:
    """Halves the files of the newest checkpoint; the step of the one before."""
    *_, before, latest = sorted(map(int, digests(workdir)))
    for file in (workdir / f"checkpoints/{latest}/params").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return before


def test_a_signal_while_the_step_is_compiled_is_obeyed(data: Path, tmp_path: Path) -> None:
    with on_two(data, tmp_path / "run", tmp_path / "log", 1) as started:
        wait_for(tmp_path / "run/metrics.jsonl", 0)  # opened just before
        started.processes[0].send_signal(signal.SIGTERM)
        ended = started.end()
    assert [end.code for end in ended] == [75, 75]


def test_a_signal_before_the_hosts_have_met_is_obeyed(data: Path, tmp_path: Path) -> None:
    port = free_port()
    one, other = ([*HOST_RUN, *command(data, tmp_path / "run", distributed=f"127.0.0.1:{port},2,{i}")] for i in (0, 1))
    with hosts([one], tmp_path / "a", 1) as first:
        wait_for_port(port)
        first.processes[0].send_signal(signal.SIGTERM)
        with hosts([other], tmp_path / "b", 1) as second:
            assert [end.code for end in (*first.end(), *second.end())] == [75, 75]
    assert not digests(tmp_path / "run")


@pytest.mark.parametrize("killed", [0, 1])
def test_a_host_that_dies_makes_the_other_end_with_an_error(data: Path, tmp_path: Path, killed: int) -> None:
    with on_two(data, tmp_path / "run", tmp_path / "log", 1, 10, HOST_SECONDS="0.05") as started:
        wait_for(tmp_path / "run/metrics.jsonl", 3)
        started.processes[killed].kill()
        ended = started.end(90)
    assert ended[killed].code == -signal.SIGKILL
    assert ended[1 - killed].code not in (0, 75)
    assert "another task died" in ended[1 - killed].err or "Connection closed by peer" in ended[1 - killed].err


def test_an_error_on_one_host_is_said_there_and_ends_the_other(data: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(data, tmp_path / "data"))
    shard = damaged / "features/train-00000-of-00003.tfrecord"  # rows 0 to 7
    own = Order(split_rows(24, 0.1)[0], FeedConfig("train", "labels", 8, 4, 0.1, 0, 0.5), 80)
    row = next(own[i] for i in range(8 * 5, 8 * 80) if own[i] < 8 and i % 8 >= 4)  # of the second host, not held out
    reader = ShardReader(shard)
    raw = shard.read_bytes()
    at = raw.index(reader[row]) + len(reader[row]) // 2
    del reader
    shard.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    with on_two(damaged, tmp_path / "run", tmp_path / "log", 1, 10) as started:
        ended = started.end(90)
    assert ended[1].code == 2 and f"train-00000-of-00003.tfrecord: record {row} is damaged" in ended[1].err
    assert ended[0].code not in (0, 2, 75)
