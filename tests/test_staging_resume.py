"""A staging that was cut off goes on where it was, wherever that is: no half record is taken for a whole one."""

import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from staging_world import (  # noqa: F401
    FAMILIES,
    PHOTOS,
    Request,
    cache_fixture,
    data_fixture,
    original_fixture,
    requests_fixture,
    same_rows,
    spans,
    url,
)

from labelgen.config import ROOT
from labelgen.dataset import Dataset
from labelgen.staging import open_data


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
from labelgen import staging
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
