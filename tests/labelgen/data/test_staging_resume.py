"""A staging that was cut off goes on where it was, wherever that is: no half record is taken for a whole one."""

import fcntl
import random
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from labelgen.data import staging
from labelgen.data.dataset import Dataset
from labelgen.data.staging import open_data
from labelgen.data.tfrecord import ShardReader, ShardWriter
from tests.worlds.paths import ROOT
from tests.worlds.staging import PHOTOS, Request, same_rows, spans, url


@pytest.mark.parametrize("cut", [1, 5, 13, -1])
def test_a_torn_record_is_never_taken_for_whole(data: Path, cache: str, requests: list[Request], cut: int) -> None:
    copy = open_data(url(data), cache)
    copy.stage("train", ["features"], range(PHOTOS))
    shard, record = copy.reader("features", "train").locate(4)
    start, end = shard.span(record, record)
    with open(shard.path, "r+b") as file:  # all after the first `cut` bytes never came to the disk
        file.seek(range(start, end)[cut])
        file.write(bytes(end - file.tell()))
    requests.clear()
    copy = open_data(url(data), cache)
    copy.stage("train", ["features"], range(PHOTOS))
    assert set(requests) == spans(data, "features", range(4, 5))
    requests.clear()
    assert same_rows(copy, data) and all("labels" in path for path, *_ in requests)


SLOW = """
import sys, time
from fsspec.implementations.local import LocalFileSystem
cat_file = LocalFileSystem.cat_file
def slow(*args, **kwargs):
    time.sleep(0.02)
    return cat_file(*args, **kwargs)
LocalFileSystem.cat_file = slow
from labelgen.data import staging
staging._IN_FLIGHT, staging._REQUEST_BYTES = 2, 1
print("ready", flush=True)
data = staging.open_data(sys.argv[1], sys.argv[2])
data.stage("train", ["features", "labels/default"], range(24))
"""


def test_a_staging_that_is_killed_anywhere_goes_on(data: Path, cache: str) -> None:
    rng, kills = random.Random(0), 0
    while True:
        line = [sys.executable, "-c", SLOW, url(data), cache]
        process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout and process.stdout.readline() == b"ready\n"
        try:
            assert process.wait(rng.uniform(0.05, 0.4)) == 0
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        finally:
            process.stdout.close()
    assert kills >= 2
    shutil.move(data, f"{data}.away")  # all of it is here now: nothing is asked of the url any more
    info, folder = Dataset.open(Path(f"{data}.away")), next(Path(cache).iterdir())
    for reader, plain in (
        (Dataset.open(folder).reader("features", "train"), info.reader("features", "train")),
        (Dataset.open(folder).label_reader("default", "train"), info.label_reader("default", "train")),
    ):
        assert [reader[i] for i in range(PHOTOS)] == [plain[i] for i in range(PHOTOS)]


def test_a_stop_keeps_what_came(data: Path, cache: str, requests: list[Request]) -> None:
    copy = open_data(url(data), cache)
    assert not copy.stage("train", ["features"], range(0, PHOTOS, 2), stopped=lambda: True)
    assert requests
    assert copy.stage("train", ["features"], range(0, PHOTOS, 2)) and len(requests) == PHOTOS // 2


def test_a_renewal_that_was_cut_off_begins_anew(data: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = data / "features/train-00001-of-00004.tfrecord"
    open_data(url(data), cache).stage("train", ["features"], range(PHOTOS))
    rows = [ShardReader(shard)[i] for i in range(6)]
    shard.unlink()
    with ShardWriter(shard) as writer:  # of the same sizes
        for row in rows:
            writer.append(row[::-1])
        writer.finish()

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(staging.StagedData, "_empty", half_emptied)
        open_data(url(data), cache).reader("features", "train")
    assert same_rows(open_data(url(data), cache), data)


def half_emptied(copy: staging.StagedData, name: str, size: int) -> None:
    """The new index came, the new file did not."""
    shutil.copy(Path(copy._remote.url.removeprefix("file://")) / f"{name}.index", copy.path / f"{name}.index")
    raise KeyboardInterrupt


def test_processes_that_share_a_copy_prepare_it_one_at_a_time(data: Path, cache: str) -> None:
    copy = open_data(url(data), cache)
    (copy.path / "features").mkdir()
    with open(copy.path / "features/train.lock", "w") as lock, ThreadPoolExecutor() as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = pool.submit(copy.reader, "features", "train")
        assert not wait([waiting], timeout=0.3).done
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert len(waiting.result(10)) == PHOTOS
