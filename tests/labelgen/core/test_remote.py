"""Files behind a url: what may pass is tried again, what must be fixed is said, with the url and the fix."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from labelgen.core.errors import UserError
from labelgen.core.remote import Remote
from labelgen.data.staging import open_data


class Flaky:
    """A read that fails some times."""

    def __init__(self, failures: int, error: Exception):
        self.left, self.error, self.calls = failures, error, 0

    def __call__(self, *args: Any, start: int | None = None, end: int | None = None) -> bytes:
        self.calls += 1
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return bytes(4) if end is None or start is None else bytes(end - start)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    seen: list[float] = []
    monkeypatch.setattr(time, "sleep", seen.append)
    return seen


@pytest.mark.parametrize(
    "error", [ConnectionResetError("gone"), TimeoutError("slow"), OSError(5, "Service Unavailable")]
)
def test_passing_errors_are_tried_again_ever_later(
    monkeypatch: pytest.MonkeyPatch, waits: list[float], error: Exception
) -> None:
    monkeypatch.setattr(LocalFileSystem, "cat_file", flaky := Flaky(3, error))
    assert Remote("file:///x").read_range("y", 2, 7) == bytes(5)
    assert flaky.calls == 4 and waits == [0.5, 1, 2]


def test_errors_that_stay_name_the_file_and_what_to_check(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    monkeypatch.setattr(LocalFileSystem, "cat_file", flaky := Flaky(99, ConnectionResetError("gone")))
    with pytest.raises(UserError, match=r"file:///x/y: cannot be read \(ConnectionResetError: gone\); check the url"):
        Remote("file:///x").read("y")
    assert flaky.calls == 5


@pytest.mark.parametrize("error", [FileNotFoundError("no"), PermissionError("no")])
def test_errors_that_cannot_pass_are_said_at_once(
    monkeypatch: pytest.MonkeyPatch, waits: list[float], error: Exception
) -> None:
    monkeypatch.setattr(LocalFileSystem, "cat_file", flaky := Flaky(99, error))
    with pytest.raises(UserError, match="file:///x/y: (not there|cannot be read)"):
        Remote("file:///x").read("y")
    assert flaky.calls == 1 and not waits


def test_a_read_that_comes_short_is_tried_again(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    answers = [b"123", b"1234"]
    monkeypatch.setattr(LocalFileSystem, "cat_file", lambda *args, **kwargs: answers.pop(0))
    assert Remote("file:///x").read_range("y", 0, 4) == b"1234" and waits


def test_a_protocol_nobody_knows() -> None:
    with pytest.raises(UserError, match="mystery://x: .*Protocol not known: mystery"):
        open_data("mystery://x")


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match="gs://bucket/data: .*; pip install gcsfs"):
        open_data("gs://bucket/data")


def test_no_data_at_the_url(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing/dataset.json: not there; check the url, and copy a complete DATA"):
        open_data(f"file://{tmp_path}/nothing", str(tmp_path))


@pytest.mark.parametrize("name", ["../evil.json", "labels/../../evil.json", "labels/..\\evil.json"])
def test_a_name_that_leads_out_of_its_folder_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    listing = {f"/x/{one}": {"size": 1} for one in ("labels/a.json", name)}
    monkeypatch.setattr(LocalFileSystem, "find", lambda *args, **given: listing)
    with pytest.raises(UserError, match=r"evil.json: a name that leads out of its folder; delete it there"):
        Remote("file:///x").files("")
