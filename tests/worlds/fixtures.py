"""Fixtures that several files of tests share. Every pytest loads them: what is slow to import is imported inside."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """Commands handle SIGTERM; the test after them does not."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, words and a config of stub_run."""
    from tests.worlds import stub_run

    folder = tmp_path_factory.mktemp("world")
    stub_run.write_world(folder)
    return folder


@pytest.fixture(scope="module")
def whole(world: Path) -> Path:
    """DATA of one uninterrupted run on `world`."""
    from tests.worlds.labelgen_run import run

    assert run(world, world / "whole") == 0
    return world / "whole"


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """`whole`, to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "data"))


@pytest.fixture(scope="module")
def exported(world: Path, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The free labels of `whole` as labelgen.export writes them."""
    from labelgen import export
    from labelgen.core.command import command

    out = tmp_path_factory.mktemp("exported")
    arguments = [f"--config={world}/config.py", f"--data={whole}", f"--out={out}", "--format=png,coco,labelme,cvat"]
    assert command(export.main, export.arguments(), arguments) == 0
    return out


@pytest.fixture
def out(exported: Path, tmp_path: Path) -> Path:
    """`exported`, to be corrected."""
    return Path(shutil.copytree(exported, tmp_path / "out"))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA of staging.PHOTOS photos."""
    from tests.worlds import staging, synthetic

    return synthetic.write_data(tmp_path_factory.mktemp("original") / "data", staging.PHOTOS, per_shard=7)


@pytest.fixture
def data(original: Path, tmp_path: Path) -> Path:
    """`original`, to be changed."""
    return Path(shutil.copytree(original, tmp_path / "data"))


@pytest.fixture
def cache(tmp_path: Path) -> str:
    """A folder, not there yet, for copies of DATA."""
    return str(tmp_path / "cache")


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """(file, start, end) of every range that the local file system is asked for."""
    from tests.worlds import staging

    return staging.requests(monkeypatch)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The url of an S3 server, which has one bucket, `bucket`."""
    from tests.worlds import s3

    with s3.serving() as url:
        yield url


@pytest.fixture(scope="module")
def s3(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The file system, with the variables that a user sets for an endpoint that is not Amazon's."""
    from tests.worlds import s3

    with s3.file_system(server, tmp_path_factory.mktemp("cache")) as system:
        yield system


@pytest.fixture
def fresh_connections() -> None:
    """fsspec keeps file systems with the credentials that they were made with."""
    from tests.worlds import s3

    s3.forget_connections()
