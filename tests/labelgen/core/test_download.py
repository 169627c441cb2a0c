"""Downloads from a server on loopback: broken, torn, of another digest, onto a full disk; and what is kept of them."""

import errno
import fcntl
import hashlib
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from labelgen.core import download as module
from labelgen.core import progress
from labelgen.core.download import MB, Remote, check_room, download
from labelgen.core.errors import UserError
from tests.worlds.file_server import serving

DATA = np.random.default_rng(0).bytes(3_400_000)
SHA256, MD5 = hashlib.sha256(DATA).hexdigest(), hashlib.md5(DATA).hexdigest()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.0)


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path / "served") as running:
        (tmp_path / "served/a.tar").write_bytes(DATA)
        yield running


@pytest.fixture
def remote(server):
    return Remote(f"{server.url}/a.tar", f"sha256:{SHA256}", len(DATA))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


@pytest.mark.parametrize("digest", [f"sha256:{SHA256}", f"md5:{MD5}", ""])
@pytest.mark.parametrize("size", [0, len(DATA)])
def test_a_file_comes_whole_and_leaves_nothing_else(server, tmp_path, digest, size):
    path = download(Remote(f"{server.url}/a.tar", digest, size), tmp_path / "new/a.tar")
    assert path.read_bytes() == DATA and names(path.parent) == ["a.tar"]
    assert server.asked == [("/a.tar", "")]


def test_a_file_that_is_there_is_not_asked_for_again(server, remote, tmp_path):
    (tmp_path / "a.tar").write_bytes(DATA)
    download(remote, tmp_path / "a.tar")
    assert server.asked == []


def test_a_file_that_is_there_with_another_digest_is_refused_and_left(remote, tmp_path):
    (tmp_path / "a.tar").write_bytes(b"mine")
    with pytest.raises(UserError, match=rf"a\.tar: sha256 is [0-9a-f]{{64}}, but {SHA256} is wanted: .* delete it"):
        download(remote, tmp_path / "a.tar")
    assert (tmp_path / "a.tar").read_bytes() == b"mine"


def test_a_connection_that_breaks_goes_on_at_the_byte_where_it_was(server, remote, tmp_path, capsys):
    server.cut = [1_500_000, 700_000]
    assert download(remote, tmp_path / "a.tar").read_bytes() == DATA
    assert [asked for _, asked in server.asked] == ["", "bytes=1500000-", "bytes=2200000-"]
    assert "it ended at 1.5 of 3.4 MB after 1.5 MB; trying again" in capsys.readouterr().err


def test_what_came_is_kept_when_the_server_is_given_up_and_the_next_run_goes_on(server, remote, tmp_path):
    server.cut = [2 * MB] + [0] * module.ATTEMPTS
    with pytest.raises(UserError, match=r"at 2\.0 of 3\.4 MB\); the first 2\.0 MB are in .*a\.tar\.partial; the same"):
        download(remote, tmp_path / "a.tar")
    assert (tmp_path / "a.tar.partial").read_bytes() == DATA[: 2 * MB] and names(tmp_path) == ["a.tar.partial"]
    server.asked.clear()
    assert download(remote, tmp_path / "a.tar").read_bytes() == DATA
    assert server.asked == [("/a.tar", "bytes=2000000-")]


def test_a_process_that_is_killed_loses_nothing_that_came(server, remote, tmp_path):
    server.cut = [2 * MB]
    code = (
        "import os, signal, sys; from pathlib import Path; from labelgen.core import download as d\n"
        "d.say = lambda text: os.kill(os.getpid(), signal.SIGKILL)\n"  # at the first break
        f"d.download(d.Remote({remote.url!r}, {remote.digest!r}), Path({str(tmp_path / 'a.tar')!r}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert download(remote, tmp_path / "a.tar").read_bytes() == DATA
    assert server.asked[-1][1] == "bytes=2000000-"


def test_a_whole_partial_file_is_taken_without_another_byte(server, remote, tmp_path):
    (tmp_path / "a.tar.partial").write_bytes(DATA)
    assert download(remote, tmp_path / "a.tar").read_bytes() == DATA
    assert server.asked == [("/a.tar", f"bytes={len(DATA)}-")]


def test_a_partial_file_that_is_too_long_is_cut(remote, tmp_path):
    (tmp_path / "a.tar.partial").write_bytes(DATA + b"more")
    assert download(remote, tmp_path / "a.tar").read_bytes() == DATA


def test_a_server_without_ranges_begins_again_and_says_so(server, remote, tmp_path, capsys):
    server.ranges, server.cut = False, [2 * MB]
    assert download(remote, tmp_path / "a.tar").read_bytes() == DATA
    assert "a.tar.partial: the server does not go on in the middle of a file; beginning" in capsys.readouterr().err


def test_without_a_digest_two_halves_are_never_put_together_over_runs(server, tmp_path):
    (tmp_path / "a.tar.partial").write_bytes(b"x" * MB)
    assert download(Remote(f"{server.url}/a.tar"), tmp_path / "a.tar").read_bytes() == DATA


def test_a_redirect_is_followed_with_the_range(server, remote, tmp_path):
    server.cut = [MB]
    moved = remote._replace(url=f"{server.url}/moved/a.tar")
    assert download(moved, tmp_path / "a.tar").read_bytes() == DATA
    assert server.asked[-1] == ("/a.tar", f"bytes={MB}-")


def test_a_wrong_digest_is_kept_apart_and_the_next_run_begins_anew(server, remote, tmp_path):
    (tmp_path / "served/a.tar").write_bytes(DATA[:-1] + b"?")
    with pytest.raises(
        UserError, match=rf"but {SHA256} is wanted: .*; it is kept as .*a\.tar\.wrong; run the same comm"
    ):
        download(remote, tmp_path / "a.tar")
    assert names(tmp_path) == ["a.tar.wrong"]
    (tmp_path / "served/a.tar").write_bytes(DATA)
    assert download(remote, tmp_path / "a.tar").read_bytes() == DATA


def test_a_page_in_place_of_the_file_is_refused_before_a_byte_of_it(server, remote, tmp_path):
    (tmp_path / "served/a.tar").write_bytes(b"<html>moved to our new site</html>")
    with pytest.raises(UserError, match="the server has a file of 34 bytes, but 3400000 are wanted"):
        download(remote, tmp_path / "a.tar")
    assert names(tmp_path) == ["a.tar.partial"] and (tmp_path / "a.tar.partial").stat().st_size == 0


@pytest.mark.parametrize(("code", "words"), [(404, "Not Found"), (403, "Forbidden"), (401, "Unauthorized")])
def test_an_answer_that_will_not_change_ends_it_at_once(server, remote, tmp_path, code, words):
    server.answers = [code]
    with pytest.raises(
        UserError, match=rf"/a\.tar: the server answers {code} {words}; has the file moved\? Download it"
    ):
        download(remote, tmp_path / "a.tar")
    assert len(server.asked) == 1


def test_an_answer_that_may_pass_is_tried_again(server, remote, tmp_path):
    server.answers = [503, 429]
    assert download(remote, tmp_path / "a.tar").read_bytes() == DATA


def test_no_network_and_no_address_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"127.0.0.1:9/a: could not be downloaded \(.*refused\); nothing"):
        download(Remote("http://127.0.0.1:9/a"), tmp_path / "a")
    with pytest.raises(UserError, match="no/address: unknown url type: 'no/address'; correct the address"):
        download(Remote("no/address"), tmp_path / "a")


def test_a_disk_that_fills_keeps_what_it_took_and_goes_on_after_room_was_made(server, remote, tmp_path):
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, 1_200_000))\n"
        "from pathlib import Path; from labelgen.core.download import *\n"
        f"download(Remote({remote.url!r}, {remote.digest!r}), Path({str(tmp_path / 'a.tar')!r}))"
    )
    out = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True)
    said = out.stderr.splitlines()[-1]
    assert said.endswith(
        "a.tar.partial: File too large after 1.2 MB; make room and run the same command again: it goes on from there"
    )
    assert (tmp_path / "a.tar.partial").read_bytes() == DATA[:1_200_000]
    assert download(remote, tmp_path / "a.tar").read_bytes() == DATA
    assert server.asked[-1][1] == "bytes=1200000-"


def test_another_error_of_the_disk_is_not_taken_for_a_broken_connection(server, remote, tmp_path, monkeypatch):
    def broken(handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(module.os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        download(remote, tmp_path / "a.tar")


def test_a_disk_without_room_is_told_before_the_first_byte(server, remote, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 3 * MB))
    with pytest.raises(UserError, match=r"a\.tar takes 3\.4 MB, but the disk has 3\.0 MB free; make room"):
        download(remote, tmp_path / "a.tar")
    (tmp_path / "a.tar.partial").write_bytes(DATA[:MB])  # then there is enough for the rest
    assert download(remote, tmp_path / "a.tar").read_bytes() == DATA
    with pytest.raises(UserError, match=r"nowhere: all of it takes 2\.50 GB, but the disk has 3\.0 MB free"):
        check_room(tmp_path / "not/there/nowhere", 2_500_000_000, "all of it")


def test_two_processes_do_not_write_one_file(remote, tmp_path):
    with open(tmp_path / "a.tar.partial", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"a\.tar\.partial: another process is downloading this file; wait for it"):
            download(remote, tmp_path / "a.tar")


def test_a_server_that_sends_other_bytes_than_asked_for_is_not_believed(server, remote, tmp_path, monkeypatch):
    (tmp_path / "a.tar.partial").write_bytes(DATA[:MB])
    answer = module._Answer.__enter__

    def shifted(self):
        self._asked += 1
        return answer(self)

    monkeypatch.setattr(module._Answer, "__enter__", shifted)
    with pytest.raises(UserError, match="bytes from 1000001 on were asked for, but others came"):
        download(remote, tmp_path / "a.tar")


def test_progress_has_rate_and_time_left_and_counts_from_where_it_was(server, remote, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_LOG_S", 0.0)
    (tmp_path / "a.tar.partial").write_bytes(DATA[: 2 * MB])
    download(remote, tmp_path / "a.tar")
    assert "a.tar 1/1 MB" in capsys.readouterr().err
