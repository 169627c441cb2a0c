"""Compiled functions are kept between starts: found again, with the same bits, and not where they are not wanted."""

import sys
from pathlib import Path
from typing import Any

import fsspec
import jax
import pytest

from fmbseg_jax.runs import hosts as run_hosts
from fmbseg_jax.runs.run_folder import keep_compiled, open_run
from fmbseg_jax.runs.settings import train_config
from labelgen.core.config import load_config
from labelgen.core.errors import UserError
from tests.worlds.paths import ROOT
from tests.worlds.processes import HOST_RUN, Ended, hosts
from tests.worlds.synthetic import write_data
from tests.worlds.training import argv, digests

FIELDS: dict[str, Any] = {"train_steps": 20, "train_resident_share": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "data")


def started(data: Path, run: Path, cache: object, log: Path) -> tuple[Ended, dict[str, int]]:
    """How a training ended, and what it asked of the cache."""
    line = ["-m", "fmbseg_jax.train", *argv(data, run, **FIELDS), f"--config.compile_cache={cache}"]
    with hosts([[*HOST_RUN, *line]], log, 4, JAX_ENABLE_COMPILATION_CACHE="true") as process:
        (ended,) = process.end()
        assert ended.code == 0, ended.err
        return ended, process.record(0)["cache"]


def test_a_second_start_finds_all_that_was_compiled_and_computes_the_same_bits(data: Path, tmp_path: Path) -> None:
    runs, moved = [tmp_path / name for name in ("first", "second")], tmp_path / "moved"
    first, asked = started(data, runs[0], "compiled", tmp_path / "a")
    (runs[0] / "compiled").rename(moved)
    second, asked_again = started(data, runs[1], moved, tmp_path / "b")
    requests = asked["compile_requests_use_cache"]
    assert asked.get("cache_hits", 0) == 0 and asked["cache_misses"] == requests > 3
    assert asked_again.get("cache_misses", 0) == 0 and asked_again["cache_hits"] == requests
    assert len(list(moved.glob("jit_step-*-cache"))) == len(list(moved.glob("jit_held_out-*-cache"))) == 1
    assert digests(runs[0]) == digests(runs[1])
    costs = [next(row for row in end.err.splitlines() if row.startswith("a step")) for end in (first, second)]
    assert costs[0].split("; bound")[0] == costs[1].split("; bound")[0], "what a step costs is known all the same"


def test_without_a_folder_nothing_is_kept_and_a_url_is_refused(tmp_path: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", None)  # another test's
    keep_compiled(open_run(tmp_path), "")
    assert not jax.config.jax_compilation_cache_dir
    shipped = str(ROOT / "configs/pocket.py")
    assert train_config(load_config(shipped, ["compile_cache=compiled"])).compile_cache == "compiled"
    with pytest.raises(UserError, match="compile_cache='s3://bucket/x' is a url; set it to the name of a folder"):
        train_config(load_config(shipped, ["compile_cache=s3://bucket/x"]))


def test_what_a_url_brings_is_not_executed_unless_it_is_trusted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fsspec.filesystem("memory").pipe_file("/run/compiled/jit_step-cache", b"machine code")
    monkeypatch.setattr(run_hosts, "errors", lambda: sys.stderr)  # as it is now
    for trusted in (False, True):
        jax.config.update("jax_compilation_cache_dir", None)
        run = open_run("memory://run")
        keep_compiled(run, "compiled", trusted)
        assert jax.config.jax_compilation_cache_dir == str(run.path / "compiled")
        assert (run.path / "compiled/jit_step-cache").exists() == trusted
        said = capsys.readouterr()
        assert ("machine code, and left where it is; take it by --trust_compiled" in said.out + said.err) != trusted
    jax.config.update("jax_compilation_cache_dir", None)
