"""DATA behind a url is read through a copy: the rows asked for, each fetched once, checked, kept over kills."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labelgen.core import remote
from labelgen.core.command import command, parser
from labelgen.core.errors import UserError
from labelgen.core.files import write_json
from labelgen.data import staging
from labelgen.data.dataset import Dataset
from labelgen.data.staging import open_data
from tests.worlds.paths import ROOT
from tests.worlds.staging import FAMILIES, PHOTOS, Request, covered, same_rows, spans, url
from tests.worlds.synthetic import write_data


def test_a_plain_path_is_read_in_place_without_fsspec(data: Path) -> None:
    code = (
        "import sys; from labelgen.data.staging import open_data; from labelgen.data.dataset import Dataset\n"
        f"data = open_data({str(data)!r}); assert type(data) is Dataset and str(data.path) == {str(data)!r}\n"
        "assert data.stage('train', ['features'], [0]) and 'fsspec' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_copy_reads_as_the_original(data: Path, cache: str, capsys: pytest.CaptureFixture[str]) -> None:
    copy = open_data(url(data), cache)
    assert copy.stage("train", FAMILIES, range(PHOTOS))
    assert f"staged train from {url(data)} in {copy.path}: " in capsys.readouterr().err
    assert same_rows(copy, data)
    ontology, prototypes = copy.labels("default")
    assert ontology == Dataset.open(data).labels("default").ontology
    np.testing.assert_array_equal(prototypes, Dataset.open(data).labels("default").prototypes)


def test_hosts_with_other_rows_fetch_other_bytes_and_no_more_than_their_own(
    data: Path, tmp_path: Path, requests: list[Request]
) -> None:
    fetched = []
    for host in range(2):
        requests.clear()
        rows = range(host, PHOTOS, 2)
        open_data(url(data), str(tmp_path / f"host{host}")).stage("train", ["features"], rows)
        assert set(requests) == spans(data, "features", rows) and len(requests) == len(rows)
        fetched.append(covered(requests))
    assert not fetched[0] & fetched[1]


def test_neighbours_share_a_request_up_to_its_size(
    data: Path, cache: str, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = max(end - start for _, start, end in spans(data, "features", range(PHOTOS)))
    monkeypatch.setattr(staging, "_REQUEST_BYTES", 3 * one)
    open_data(url(data), cache).stage("train", ["features"], range(PHOTOS))
    assert len(requests) == 4 * 2  # four shards of 6 rows, 3 a request
    assert covered(requests) == covered(list(spans(data, "features", range(PHOTOS))))


def test_what_is_here_is_not_fetched_again(data: Path, cache: str, requests: list[Request]) -> None:
    open_data(url(data), cache).stage("train", FAMILIES, range(0, PHOTOS, 2))
    requests.clear()
    copy = open_data(url(data), cache)
    copy.stage("train", ["features"], range(PHOTOS))
    assert set(requests) == spans(data, "features", range(1, PHOTOS, 2))
    requests.clear()
    reader = copy.reader("features", "train")
    assert [reader[i] for i in range(PHOTOS)] and not requests


def test_a_row_that_nobody_staged_is_fetched_once_when_read(data: Path, cache: str, requests: list[Request]) -> None:
    reader = open_data(url(data), cache).reader("features", "train")
    for _ in range(2):
        assert reader[9] == Dataset.open(data).reader("features", "train")[9]
    assert set(requests) == spans(data, "features", range(9, 10)) and len(requests) == 1
    with pytest.raises(IndexError):
        reader[PHOTOS]


def flip(path: str, at: int) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))


def test_a_byte_altered_over_there_is_found_and_named(data: Path, cache: str) -> None:
    shard, record = Dataset.open(data).reader("features", "train").locate(10)
    start, end = shard.span(record, record)
    flip(shard.path, (start + end) // 2)
    copy, message = (
        open_data(url(data), cache),
        rf"{url(Path(shard.path))}: record {record} is damaged .*copy the shard",
    )
    with pytest.raises(UserError, match=message):
        copy.stage("train", ["features"], range(PHOTOS))
    with pytest.raises(UserError, match=message):
        copy.reader("features", "train")[10]
    local = next(Path(cache).glob("*/features")) / Path(shard.path).name
    assert not any(local.read_bytes()[start:end])


def test_a_byte_altered_on_the_way_is_asked_for_again(
    data: Path, cache: str, monkeypatch: pytest.MonkeyPatch, requests: list[Request]
) -> None:
    honest, lies = remote.Remote.read_range, [True]

    def once(self: Any, name: str, start: int, end: int) -> bytes:
        raw = honest(self, name, start, end)
        return bytes([*raw[:-1], raw[-1] ^ 1]) if lies and lies.pop() else raw

    monkeypatch.setattr(remote.Remote, "read_range", once)
    copy = open_data(url(data), cache)
    assert copy.stage("train", FAMILIES, range(PHOTOS)) and same_rows(copy, data)


def test_a_shard_that_was_written_again_is_fetched_again_and_no_other(
    data: Path, cache: str, tmp_path: Path, requests: list[Request]
) -> None:
    open_data(url(data), cache).stage("train", FAMILIES, range(PHOTOS))
    other = write_data(tmp_path / "other", PHOTOS, seed=1, per_shard=7)
    name = "features/train-00001-of-00004.tfrecord"
    for end in ("", ".index"):
        shutil.copy(other / (name + end), data / (name + end))
    requests.clear()
    copy = open_data(url(data), cache)
    copy.stage("train", FAMILIES, range(PHOTOS))
    assert {path for path, *_ in requests} == {str(data / name)}
    assert same_rows(copy, data)


def test_another_data_has_a_folder_of_its_own(data: Path, cache: str) -> None:
    first = open_data(url(data), cache)
    write_json(data / "dataset.json", first.info | {"text_width": 99})
    second = open_data(url(data), cache)
    assert first.path != second.path and second.text_width == 99


def test_labels_follow_the_remote_ones(data: Path, cache: str) -> None:
    assert open_data(url(data), cache).labels_info("default")["splits"] == ["train"]
    write_json(data / "labels/default/labels.json", {"splits": ["eval"], "digest": "new"})
    assert open_data(url(data), cache).labels_info("default")["digest"] == "new"
    (data / "labels/default/labels.json").unlink()
    with pytest.raises(UserError, match="label first"):
        open_data(url(data), cache).labels("default")


def test_staging_what_is_not_labelled_says_so(data: Path, cache: str) -> None:
    with pytest.raises(UserError, match="label first: .*--config.labels.name=other"):
        open_data(url(data), cache).stage("train", ["features", "labels/other"], range(PHOTOS))


def test_a_copy_that_lost_a_file_is_fixed(data: Path, cache: str) -> None:
    copy = open_data(url(data), cache)
    copy.stage("train", FAMILIES, range(PHOTOS))
    (copy.path / "features/train-00002-of-00004.tfrecord").unlink()
    again = open_data(url(data), cache)
    assert again.stage("train", FAMILIES, range(PHOTOS)) and same_rows(again, data)


@pytest.mark.parametrize(
    "file", ["features/train-00001-of-00004.tfrecord", "features/train-00003-of-00004.tfrecord.index"]
)
def test_a_file_that_was_not_copied_there_is_named(data: Path, cache: str, file: str) -> None:
    (data / file).unlink()
    with pytest.raises(UserError, match=f"{url(data)}/{file}: not there, though dataset.json has it; copy the whole"):
        open_data(url(data), cache).reader("features", "train")


def test_an_index_of_another_shard_is_named_by_its_url(data: Path, cache: str) -> None:
    name = "features/train-00001-of-00004.tfrecord"
    (data / name).write_bytes((data / name).read_bytes()[:-3])
    with pytest.raises(UserError, match=f"{url(data)}/{name}.index: is for a shard of .* copy the shard"):
        reader = open_data(url(data), cache).reader("features", "train")
        [reader[row] for row in range(len(reader))]


def test_data_of_another_format(data: Path, cache: str) -> None:
    write_json(data / "dataset.json", {"format": 99})
    with pytest.raises(UserError, match=f"{url(data)}/dataset.json: format 99, this version reads 1"):
        open_data(url(data), cache)


def test_too_little_room_is_said_before_anything_is_fetched(
    data: Path, cache: str, monkeypatch: pytest.MonkeyPatch, requests: list[Request]
) -> None:
    usage = shutil.disk_usage(data)
    copy = open_data(url(data), cache)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"\d+ MB of file://.* are wanted, room is for 0 MB: .*data_cache"):
        copy.stage("train", FAMILIES, range(PHOTOS))
    assert not requests


def test_a_disk_that_fills_up_is_named_with_its_fix(
    data: Path, cache: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*args: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    copy = open_data(url(data), cache)
    monkeypatch.setattr(os, "pwrite", full)
    run = command(lambda args: not copy.stage("train", FAMILIES, range(PHOTOS)), parser("", config=False), [])
    assert run == 2
    assert f"error: {copy.path}" in (said := capsys.readouterr().err) and "No space left on device; make room" in said


def test_the_copy_lies_in_the_users_cache_unless_told(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert open_data(url(data)).path.parent == tmp_path / "xdg/fmbseg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert open_data(url(data)).path.parent == tmp_path / "home/.cache/fmbseg"
    assert open_data(url(data), "~/elsewhere").path.parent == tmp_path / "home/elsewhere"
