"""Photo ids on disk: the order, the slices and the names that a sorted list in memory has."""

import os
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from labelgen.core.errors import UserError
from labelgen.sources import listing
from labelgen.sources.folders import folder_source
from labelgen.sources.listing import BLOCK, Listing, by_id

PARTS = ["a", "b", "a b", "a-b", "a.b", "a\nb", "a/b", "é", "a\udce9", "語", "𝄞", "\ue000", "A", "0", "~"]
NAMES = [f"{first}{second}.{('jpg', 'PNG')[len(second) % 2]}" for first, second in product(PARTS, PARTS)]


def stem(name: str) -> str:
    return os.path.splitext(name)[0]


def listed(names: Sequence[str], monkeypatch: pytest.MonkeyPatch, run: int = 16, block: int = 4) -> Listing:
    monkeypatch.setattr(listing, "RUN", run)
    monkeypatch.setattr(listing, "BLOCK", block)
    return Listing(by_id(names))


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 16, 17, len(NAMES)])
def test_ids_have_the_order_that_python_sorts_them_in(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    names = np.random.default_rng(0).permutation(np.array(NAMES, object))[:count].tolist()
    expected = sorted(map(stem, names))
    found = listed(names, monkeypatch)
    assert list(found) == expected and len(found) == count
    assert [found[i] for i in range(-count, count)] == expected * 2
    for part in (
        slice(0, 3),
        slice(2, 9),
        slice(None),
        slice(-2, None),
        slice(None, None, -5),
        slice(count, count + 3),
    ):
        assert found[part] == expected[part]
    with pytest.raises(IndexError):
        found[count]


def test_a_photos_file_has_its_own_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    found = listed(NAMES, monkeypatch)
    assert [found.file(stem(name)) for name in NAMES] == NAMES
    for absent in ("", "a", "aa.jpg", "zz", "\U0010ffff"):
        with pytest.raises(KeyError):
            found.file(absent)


def test_threads_read_at_the_same_time() -> None:
    names = [f"{i:05}.jpg" for i in range(40 * BLOCK)]
    found = Listing(by_id(names))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda name: found.file(stem(name)), names)) == names


def test_memory_does_not_grow_with_the_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "RUN", 4000)
    names = (f"{i % 97:03}/photo_{i:08}.jpg" for i in range(60_000))
    tracemalloc.start()
    try:
        found = Listing(by_id(names))
        stays, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found) == 60_000
    assert stays < 30_000 and peak < 1_500_000, "a list of these ids has 5 MB"


def test_a_full_disk_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "TemporaryFile", lambda **_: open("/dev/full", "w+b"))  # noqa: SIM115
    for photos in (lambda: [("a", ".jpg")], lambda: by_id(["a.jpg"])):
        with pytest.raises(OSError, match="No space left") as error:
            Listing(photos())
        assert error.value.filename == listing.gettempdir()


def test_the_first_two_files_of_one_id_are_named(tmp_path: Path) -> None:
    for name in ("p/c.jpg", "p/b/x.png", "p/b/x.jpg", "p/b/x.gif", "p/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="p/b/x.gif and p/b/x.jpg would have the same mask and results; rename one"):
        folder_source(tmp_path, 1, "p")
