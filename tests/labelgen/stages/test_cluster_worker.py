"""What a node's worker says: of a DATA that it does not see, of errors to fix, of how far it is."""

import errno
from pathlib import Path

import pytest

from labelgen.core.errors import UserError
from labelgen.core.files import write_json
from labelgen.stages import cluster
from labelgen.stages.cluster import SHARED, Failed, Tally, Told, check_shared


def test_a_disk_that_is_not_shared_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_SEEN_S", 0.0)
    for token in (None, "another"):
        if token:
            write_json(tmp_path / SHARED, {"token": token})
        with pytest.raises(
            UserError, match=f"{tmp_path} is not the folder .*; put DATA on a disk that all nodes share"
        ):
            check_shared(tmp_path, "ours")
    write_json(tmp_path / SHARED, {"token": "ours"})
    check_shared(tmp_path, "ours")


def test_errors_travel_with_their_node_or_their_file() -> None:
    error = Failed("node a", "bad weights").error()
    assert isinstance(error, UserError) and str(error) == "node a: bad weights"
    full = Failed("node a", "No space left on device", errno.ENOSPC, "/d/x").error()
    assert isinstance(full, OSError) and (full.errno, full.filename) == (errno.ENOSPC, "/d/x")


def test_a_tally_tells_each_note_once() -> None:
    tally = Tally()
    tally.skip(3)
    tally.add()
    tally.note("skipped x")
    assert tally.told() == Told(4, 3, ["skipped x"]) and tally.told() == Told(4, 3, [])
    tally.begin()
    assert tally.told() == Told(0, 0, [])
