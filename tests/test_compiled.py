"""Compiled functions are kept between starts: found again, with the same bits, and not where they are not wanted."""

from pathlib import Path
from typing import Any

import pytest
from processes import HOST_RUN, Ended, hosts, pair
from synthetic import write_data
from training import argv, digests

FIELDS: dict[str, Any] = {"train_steps": 20, "train_resident_share": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "data")


def line(data: Path, run: Path, cache: object, **fields: Any) -> list[str]:
    return ["-m", "fmbseg_jax.train", *argv(data, run, **FIELDS, **fields), f"--config.compile_cache={cache}"]


def started(lines: list[list[str]], log: Path, devices: int = 4) -> tuple[list[Ended], list[dict[str, int]]]:
    """How the processes ended, and what each asked of the cache."""
    with hosts(lines, log, devices, JAX_ENABLE_COMPILATION_CACHE="true") as processes:
        ended = processes.end()
        assert [end.code for end in ended] == [0] * len(lines), "\n".join(end.err for end in ended)
        return ended, [processes.record(i)["cache"] for i in range(len(lines))]


def test_a_second_start_finds_all_that_was_compiled_and_computes_the_same_bits(data: Path, tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("first", "second")]
    moved = tmp_path / "moved"
    ended, asked = [], []
    for run, cache in zip(runs, ("compiled", moved), strict=True):
        one, (what,) = started([[*HOST_RUN, *line(data, run, cache)]], tmp_path / f"log-{run.name}")
        ended, asked = [*ended, *one], [*asked, what]
        if run == runs[0]:
            (run / "compiled").rename(moved)
    requests = asked[0]["compile_requests_use_cache"]
    assert asked[0].get("cache_hits", 0) == 0 and asked[0]["cache_misses"] == requests > 3
    assert asked[1].get("cache_misses", 0) == 0 and asked[1]["cache_hits"] == requests
    assert len(list(moved.glob("jit_step-*-cache"))) == len(list(moved.glob("jit_held_out-*-cache"))) == 1
    assert digests(runs[0]) == digests(runs[1])
    costs = [next(row for row in end.err.splitlines() if row.startswith("a step")) for end in ended]
    assert costs[0].split("; bound")[0] == costs[1].split("; bound")[0], "what a step costs is known all the same"


def test_of_two_hosts_the_first_finds_it_and_both_compute_the_same_bits(data: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        lines = pair(lambda how: line(data, tmp_path / name, tmp_path / "kept", distributed=how))  # noqa: B023
        _, asked = started(lines, tmp_path / f"log-{name}", 2)
    assert asked[0]["cache_hits"] == asked[0]["compile_requests_use_cache"] > 3
    assert digests(tmp_path / "first") == digests(tmp_path / "second")


def test_without_a_folder_nothing_is_kept(data: Path, tmp_path: Path) -> None:
    _, (asked,) = started([[*HOST_RUN, *line(data, tmp_path / "run", "")]], tmp_path / "log")
    assert not asked.get("cache_hits") and not [path for path in tmp_path.rglob("*-cache")]
