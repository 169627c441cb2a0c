"""Files written whole, whatever the length of their names."""

import os
from pathlib import Path

import pytest

from labelgen.core import files
from labelgen.core.files import NoLocksError, machine, temporary, write_atomic


@pytest.mark.parametrize("name", ["a.png", "x" * 240 + ".png", "y" * 251 + ".png", "語" * 83 + ".jpg"])
@pytest.mark.parametrize("locks", [True, False])
def test_a_name_as_long_as_the_disk_takes_is_written(
    name: str, locks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, wait: bool = False) -> bool:
        raise NoLocksError

    if not locks:
        monkeypatch.setattr(files, "try_lock", no_locks)
    for data in (b"one", b"two"):
        write_atomic(tmp_path / name, data)
        assert (tmp_path / name).read_bytes() == data and os.listdir(tmp_path) == [name]


def test_a_temporary_name_is_the_files_own_where_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = f"{machine()}.tmp"
    assert temporary(tmp_path / "a.png", mark) == tmp_path / f"a.png.{mark}"
    first, second = (temporary(tmp_path / f"{'x' * 245}{i}.png", mark) for i in range(2))
    assert first != second and first.parent == tmp_path and first.name.endswith(f".{mark}") and len(first.name) < 40
    monkeypatch.setattr(os, "pathconf", lambda folder, what: 143)  # encrypted home folders
    assert len(temporary(tmp_path / f"{'x' * 130}.png", mark).name) < 40
    assert temporary(tmp_path / "gone/a", "part") == tmp_path / "gone/a.part"
