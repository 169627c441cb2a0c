"""The commands of docs/reliability.md without the packages they want: readers of torn and changed files, and rooms."""

import random
from contextlib import suppress
from pathlib import Path

import pytest

from labelgen.core.errors import PhotoError, UserError
from tests.worlds.paths import ROOT
from tools import fuzz, mutants

READERS = fuzz.readers()


@pytest.mark.parametrize("name", READERS)
def test_a_small_valid_file_is_read(tmp_path: Path, name: str) -> None:
    if name in ("label_row", "feature_row", "evidence_row"):  # they begin with another family's row
        with pytest.raises(UserError, match="a record h"):
            READERS[name].read(tmp_path, READERS[name].seeds[0])
        return
    for seed in READERS[name].seeds:
        READERS[name].read(tmp_path, seed)


@pytest.mark.parametrize("name", READERS)
def test_a_file_that_is_torn_or_changed_is_read_or_refused(tmp_path: Path, name: str) -> None:
    rng = random.Random(name)
    for seed in READERS[name].seeds:
        for _ in range(40):
            torn = bytearray(seed[: rng.randrange(len(seed) + 1)] if rng.random() < 0.5 else seed)
            for _ in range(rng.randrange(4) if torn else 0):
                torn[rng.randrange(len(torn))] = rng.randrange(256)
            with suppress(UserError, PhotoError):
                READERS[name].read(tmp_path, bytes(torn))


def test_rooms_name_files_and_tests_that_are_there() -> None:
    for room in mutants.ROOMS.values():
        assert [file for file in (room.file, *room.tests) if not (ROOT / file).is_file()] == []


def test_what_is_asked_for_is_there_or_refused() -> None:
    assert list(mutants._asked("rle,losses")) == ["rle", "losses"] and mutants._asked("") == mutants.ROOMS
    with pytest.raises(UserError, match="--rooms=rle,no: no is none of presence, "):
        mutants._asked("rle,no")


def test_a_change_is_said_by_its_lines() -> None:
    assert mutants._change("a = 1\nb = a + 2\n", "a = 1\nb = a - 2\n") == "b = a + 2 => b = a - 2"
