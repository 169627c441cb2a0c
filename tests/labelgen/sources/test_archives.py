"""Unpacking: nothing outside the folder, nothing half written, and again from where it stopped."""

import gzip
import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

from labelgen.core.errors import UserError
from labelgen.sources import archives
from labelgen.sources.archives import texts, unpack
from tests.worlds.voc_archives import write_tar

FILES = {"top/A/1": b"one", "top/A/deep/2": b"two", "top/B/3": b"three", "top/C/4": b"left out", "other/A/5": b"out"}


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("mode", "prefix"), [("w", ""), ("w:gz", ""), ("w", "./")])
def test_only_the_folders_that_are_wanted_are_unpacked(tmp_path, mode, prefix):
    tar = write_tar(tmp_path / "a.tar", {prefix + name: data for name, data in FILES.items()}, mode)
    assert unpack(tar, tmp_path / "in/out", "top", ("A", "B")) == 3
    assert content(tmp_path / "in") == {"out/A/1": b"one", "out/A/deep/2": b"two", "out/B/3": b"three"}


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_bytes(b"mine")
    assert unpack(tmp_path / "no.tar", tmp_path / "out", "top", ("A",)) == 1


def test_a_killed_run_goes_on_and_fixes_what_a_power_cut_left(tmp_path, monkeypatch):
    tar = write_tar(tmp_path / "a.tar", FILES)
    written = []

    def dies(source, target):
        written.append(target.name)
        if len(written) == 2:
            raise KeyboardInterrupt
        os.rename(source, target)

    monkeypatch.setattr(archives.os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        unpack(tar, tmp_path / "out", "top", ("A", "B"))
    monkeypatch.undo()
    assert not (tmp_path / "out").exists() and (tmp_path / "out.partial/A/1").read_bytes() == b"one"
    (tmp_path / "out.partial/A/1").write_bytes(b"\0\0\0")  # of the right size
    monkeypatch.setattr(
        archives.os, "replace", lambda source, target: (written.append(target.name), os.rename(source, target))
    )
    unpack(tar, tmp_path / "out", "top", ("A", "B"))
    assert written[2:] == ["1", "2", "3", "out"]
    assert content(tmp_path / "out") == {"A/1": b"one", "A/deep/2": b"two", "B/3": b"three"}


def test_what_is_whole_is_not_written_again(tmp_path):
    tar = write_tar(tmp_path / "a.tar", FILES)
    (tmp_path / "out.partial/A").mkdir(parents=True)
    kept = tmp_path / "out.partial/A/1"
    kept.write_bytes(b"one")
    os.utime(kept, (1, 1))
    unpack(tar, tmp_path / "out", "top", ("A",))
    assert (tmp_path / "out/A/1").stat().st_mtime == 1


def hostile(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    "member",
    [
        hostile("top/A/../../../escaped"), hostile("/escaped"), hostile("top/A/link", tarfile.SYMTYPE),
        hostile("top/A/hard", tarfile.LNKTYPE), hostile("top/A/device", tarfile.CHRTYPE),
        hostile("top/A/pipe", tarfile.FIFOTYPE), hostile("elsewhere/../../escaped"),
    ],
    ids=lambda member: member.name,
)  # fmt: skip
def test_what_would_be_written_elsewhere_is_refused_by_name(tmp_path, member):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.addfile(member, io.BytesIO())
    with pytest.raises(UserError, match=r"a\.tar: its member '.*' is a link, a device or outside of its folder"):
        unpack(tmp_path / "a.tar", tmp_path / "in/out", "top", ("A",))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_torn_archive_is_told_and_never_becomes_the_folder(tmp_path, mode):
    tar = write_tar(tmp_path / "a.tar", {f"top/A/{i}": os.urandom(30_000) for i in range(9)}, mode)
    raw = tar.read_bytes()
    tar.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(UserError, match=r"a\.tar: is torn or no tar archive \(.*\); delete it and fetch it again"):
        unpack(tar, tmp_path / "out", "top", ("A",))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("raw", [b"", b"<html>", gzip.compress(b"no tar inside", mtime=0)])
def test_no_archive_at_all_is_told(tmp_path, raw):
    (tmp_path / "a.tar").write_bytes(raw)
    with pytest.raises(
        UserError, match=r"a\.tar: (is torn or no tar archive|has none of top/A; is it another archive)"
    ):
        unpack(tmp_path / "a.tar", tmp_path / "out", "top", ("A",))


def test_an_archive_of_something_else_is_told(tmp_path):
    tar = write_tar(tmp_path / "a.tar", {"other/1": b"1"})
    with pytest.raises(UserError, match=r"a\.tar: has none of top/A, B; is it another archive\?"):
        unpack(tar, tmp_path / "out", "top", ("A", "B"))


def test_a_full_disk_is_told_with_the_file_and_leaves_no_folder(tmp_path, monkeypatch):
    tar = write_tar(tmp_path / "a.tar", FILES)
    with monkeypatch.context() as small:
        small.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 3))
        with pytest.raises(UserError, match=r"what is in a\.tar takes .* MB, but the disk has 0\.0 MB free"):
            unpack(tar, tmp_path / "out", "top", ("A",))

    def full(self, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as small:
        small.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left") as raised:
            unpack(tar, tmp_path / "out", "top", ("A",))
        assert str(raised.value.filename).endswith("out.partial/A/1.part")  # the commands' frame says how to go on
    assert not (tmp_path / "out").exists()
    assert unpack(tar, tmp_path / "out", "top", ("A",)) == 2


def test_texts_are_read_without_unpacking(tmp_path):
    tar = write_tar(tmp_path / "a.tgz", FILES, "w:gz")
    assert texts(tar, ["top/A/1", "top/B/3"]) == {"top/A/1": "one", "top/B/3": "three"}
    with pytest.raises(UserError, match=r"a\.tgz: has no 'top/none'; is it another archive\?"):
        texts(tar, ["top/A/1", "top/none"])
