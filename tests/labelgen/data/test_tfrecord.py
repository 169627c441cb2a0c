"""Shards: whole records survive, torn and altered ones are told, the index fits its shard or is refused."""

import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from labelgen.core.errors import UserError
from labelgen.core.files import writer_names
from labelgen.data.tfrecord import ShardReader, ShardWriter, frame, masked_crc, records_of
from tests.worlds.paths import ROOT

RECORDS = [b"one", b"", b"three" * 50]


def written(path: Path, records: list[bytes] = RECORDS) -> Path:
    with ShardWriter(path) as writer:
        for record in records:
            writer.append(record)
        writer.finish()
    return path


def test_framing_is_tensorflows() -> None:
    # crc32c of the standard check string is e3069283; TFRecord rotates it by 15 bits and adds a constant.
    crc = 0xE3069283
    assert masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
    data = frame(b"abc")
    assert data[:8] == struct.pack("<Q", 3) and data[12:15] == b"abc" and len(data) == 19


def test_random_access(tmp_path: Path) -> None:
    reader = ShardReader(written(tmp_path / "s.tfrecord"))
    assert [reader[i] for i in (2, 0, 1)] == [RECORDS[2], RECORDS[0], RECORDS[1]]
    again = pickle.loads(pickle.dumps(reader))
    assert [again[i] for i in range(len(again))] == RECORDS
    with pytest.raises(IndexError):
        reader[3]
    assert not (tmp_path / "s.tfrecord.partial").exists()


def test_torn_tail_is_cut_at_every_byte(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole").read_bytes()
    ends = [0, 19, 35, len(whole)]
    for size in range(len(whole)):
        own = tmp_path / "s.partial" / next(writer_names())
        own.parent.mkdir()
        own.write_bytes(whole[:size])
        with ShardWriter(tmp_path / "s") as writer:
            kept = max(i for i, end in enumerate(ends) if end <= size)
            assert writer.count == kept
            for record in RECORDS[kept:]:
                writer.append(record)
            writer.finish()
        assert (tmp_path / "s").read_bytes() == whole
        assert (tmp_path / "s.index").read_bytes() == (tmp_path / "whole.index").read_bytes()
        os.remove(tmp_path / "s")


def test_truncate_then_go_on(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s") as writer:
        for record in RECORDS:
            writer.append(record)
        writer.truncate(1)
        assert writer.count == 1 and list(writer.records()) == RECORDS[:1]
        writer.append(b"new")
        writer.finish()
    reader = ShardReader(tmp_path / "s")
    assert [reader[0], reader[1]] == [b"one", b"new"]


def test_what_a_finished_shard_has_can_be_kept(tmp_path: Path) -> None:
    path = written(tmp_path / "s")
    with ShardWriter(path) as writer:
        assert writer.count == 0 and writer.left_by(writer.writer) == path
        writer.keep(path, 2)
        assert list(writer.records()) == RECORDS[:2] and list(records_of(path)) == RECORDS


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s"), pytest.raises(UserError, match="another process is writing it"):
        ShardWriter(tmp_path / "s")


@pytest.mark.parametrize("byte", [0, 9, 13, 17])
def test_altered_record_is_named(tmp_path: Path, byte: int) -> None:
    path = written(tmp_path / "s")
    raw = bytearray(path.read_bytes())
    raw[byte] ^= 1
    path.write_bytes(raw)
    reader = ShardReader(path)
    assert reader[1] == b"" and reader[2] == RECORDS[2]
    if byte == 9:  # the checksum of the length alone: the length itself is known from the index
        return
    with pytest.raises(UserError, match="s: record 0 is damaged.*delete .*s.index"):
        reader[0]


def test_truncated_shard_and_foreign_index_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "s")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"s.index: is for a shard of \d+ bytes"):
        ShardReader(path)
    index = tmp_path / "s.index"
    index.write_bytes(index.read_bytes()[:-3])
    with pytest.raises(UserError, match="not an index of a shard"):
        ShardReader(path)
    index.unlink()
    with pytest.raises(UserError, match="s.index: missing; run labelgen.run again"):
        ShardReader(path)


def test_full_disk_names_the_file(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s") as writer:
        writer.append(b"kept")
        real, writer._file = writer._file, open("/dev/full", "wb", buffering=0)  # noqa: SIM115
        with pytest.raises(OSError, match=r"No space left.*s.partial/\w+-0"):
            writer.append(b"lost")
        writer._file.close()
        writer._file = real
        assert writer.count == 1


def test_more_shards_than_a_process_may_have_open_files(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "0") as writer:
        writer.append(b"one")
        writer.finish()
    for i in range(1, 400):
        os.link(tmp_path / "0", tmp_path / str(i))
        os.link(tmp_path / "0.index", tmp_path / f"{i}.index")
    code = (
        "import resource, sys; from labelgen.data.tfrecord import ShardReader\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (320, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "readers = [ShardReader(f'{sys.argv[1]}/{i}') for i in range(400)]\n"
        "assert all(reader[0] == b'one' for _ in range(2) for reader in readers)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)


@pytest.mark.parametrize("offset", [0, 1, 10**6, 2**63, 2**64 - 1])
def test_an_index_whose_records_do_not_follow_each_other_is_refused(tmp_path: Path, offset: int) -> None:
    path = written(tmp_path / "s")
    index = bytearray((tmp_path / "s.index").read_bytes())
    index[32:40] = struct.pack("<Q", offset)  # of the second record: magic, size, count and the first come before
    (tmp_path / "s.index").write_bytes(index)
    with pytest.raises(UserError, match=r"s.index: its records do not follow each other; delete .*s.index"):
        ShardReader(path)
