"""Job arrays by their files: workers come, go and are given one share twice; DATA ends as one worker's, to the byte."""

import errno
import fcntl
import itertools
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from labelgen.core import files
from labelgen.data.shards import EncodeShard, is_done
from labelgen.data.tfrecord import ShardBusyError, ShardWriter
from tests.worlds import stub_run
from tests.worlds.labelgen_run import process, run, same
from tests.worlds.shard_writing import FAMILIES, PHOTOS, SHARD, contents, folders, go_on, rows


@pytest.fixture(scope="module", name="world")
def world_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    stub_run.write_world(folder, photos=30)
    return folder


@pytest.fixture(scope="module", name="whole")
def whole_fixture(world: Path) -> Path:
    """DATA of one worker."""
    assert run(world, world / "whole") == 0
    return world / "whole"


@pytest.fixture(name="no_locks")
def no_locks_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that has no flock."""

    def flock(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def other_machine(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """From here on this process is on another machine, with locks of its own."""
    monkeypatch.setattr(files, "machine", lambda: name)


@pytest.mark.serial
def test_three_workers_killed_then_two_twins_then_one(world: Path, whole: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    killed = [process(world, data, f"--worker={i}/3", seconds=1) for i in range(3)]
    while len(list(data.glob("truth/*.partial/*"))) < 3:
        assert [worker.poll() for worker in killed] == [None] * 3
        time.sleep(0.02)
    for worker in killed:
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
    twins = [process(world, data, "--worker=1/2", seconds=0.05) for _ in range(2)]
    for worker in twins:
        _, error = worker.communicate()
        assert worker.returncode == 0, error
    assert not (data / "dataset.json").exists()
    assert run(world, data) == 0
    assert same(data, whole)


def test_what_another_machine_left_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert go_on(folders(tmp_path / "whole")) == 0
    data = folders(tmp_path / "data")
    with EncodeShard(data, SHARD, FAMILIES, PHOTOS) as writing:
        writing.fail({"photo": "a", "reason": "bad"})
        writing.add(rows("b"))
        other_machine(monkeypatch, "other")
        assert go_on(data) == 2
        assert is_done(data, SHARD, FAMILIES)
        with pytest.raises(ShardBusyError, match="another process has finished it"):
            writing.add(rows("e"))
    assert contents(data) == contents(tmp_path / "whole")


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("locks", [True, False])
def test_machines_that_write_one_shard_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, first: int, locks: bool
) -> None:
    """Locks hold within a machine at most: three machines, photo by photo; each may be the first to finish."""
    assert go_on(folders(tmp_path / "whole")) == 0
    if not locks:
        request.getfixturevalue("no_locks")
    data, writers = folders(tmp_path / "data"), []
    for name in ("m0", "m1", "m2"):
        other_machine(monkeypatch, name)
        writers.append(EncodeShard(data, SHARD, FAMILIES, PHOTOS))
    for photo_id, writing in itertools.product(PHOTOS, writers):
        if photo_id in ("b", "e"):
            writing.add(rows(photo_id))
        else:
            writing.fail({"photo": photo_id, "reason": "bad"})
    for writing in writers[first:] + writers[:first]:
        writing.finish()
        assert is_done(data, SHARD, FAMILIES)
        writing.__exit__(None, None, None)
    assert contents(data) == contents(tmp_path / "whole")


def test_a_second_process_of_a_machine_is_refused_or_has_files_of_its_own(tmp_path: Path) -> None:
    data = folders(tmp_path / "data")
    with EncodeShard(data, SHARD, FAMILIES, PHOTOS) as first:
        first.fail({"photo": "a", "reason": "bad"})
        with pytest.raises(ShardBusyError, match="another process is writing it; wait for it, or give each its own"):
            EncodeShard(data, SHARD, FAMILIES, PHOTOS)
        with EncodeShard(data, SHARD, FAMILIES, PHOTOS, spare=True) as second:
            assert second.next == 1
            second.add(rows("b"))
        assert first.next == 0
    assert go_on(data) == 2


def test_a_file_that_went_on_a_network_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(*arguments: Any) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with ShardWriter(tmp_path / "s") as writer, monkeypatch.context() as disk:
        disk.setattr(os, "write", stale)
        with pytest.raises(ShardBusyError, match="s: another machine has finished it"):
            writer.append(b"x")


def test_a_whole_run_on_a_disk_without_locks(
    world: Path, whole: Path, tmp_path: Path, no_locks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(world, tmp_path / "data") == 0
    assert same(tmp_path / "data", whole)


def test_two_writers_may_finish_one_shard(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s") as first, ShardWriter(tmp_path / "s", spare=True) as second:
        for writer in (first, second):
            writer.append(b"x")
        second.finish()
        first.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "s.index"]


def test_families_of_different_length_are_named(world: Path, whole: Path, tmp_path: Path, capsys: Any) -> None:
    data = Path(shutil.copytree(whole, tmp_path / "data"))
    (data / "dataset.json").unlink()
    for name in ("train-00001-of-00005.tfrecord", "train-00001-of-00005.tfrecord.index"):  # of five rows, here of six
        shutil.copy(data / "evidence" / name.replace("00001-", "00002-"), data / "evidence" / name)
    assert run(world, data) == 2
    assert "evidence/train-00001-of-00005.tfrecord: has 6 rows, features 5; delete" in capsys.readouterr().err
    (data / "evidence/train-00001-of-00005.tfrecord.index").unlink()
    assert run(world, data) == 0
    assert same(data, whole)
