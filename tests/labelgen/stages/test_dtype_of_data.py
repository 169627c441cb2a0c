"""Machines of different kinds begin one DATA with dtype=auto: it is in one dtype, that of the first."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from labelgen.core.config import load_config
from labelgen.core.errors import UserError
from labelgen.core.files import read_json, write_first
from labelgen.core.ontology import read_words
from labelgen.core.progress import StageTimes
from labelgen.data.manifest import DTYPE, begun_dtype, forget_dtype
from labelgen.stages.encoding import EncodeStage, Encoding
from tests.worlds import stub_run
from tests.worlds.labelgen_run import run, same


@pytest.fixture(scope="module", name="world")
def world_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    stub_run.write_world(folder, photos=12)
    return folder


def opened(world: Path, data: Path, *fields: str, shared: bool = True) -> Encoding:
    """The encode stage on one machine, its models open and no photo encoded."""
    config = load_config(f"{world}/config.py", list(fields))
    stage = EncodeStage(config, data, None, read_words(config.ontology), stub_run.StubEncoders, shared)
    work = stage.begin(StageTimes())
    work.open(work.shards)
    return work


def dtype_of(data: Path) -> str:
    found: str = read_json(data / "encoders.json", "")["encoders"]["dtype"]
    return found


def on_machine(monkeypatch: pytest.MonkeyPatch, auto: str) -> None:
    """From here on auto is this."""
    monkeypatch.setenv("STUB_DTYPE", auto)


@pytest.mark.parametrize("dtypes", [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_workers_that_begin_together_take_what_the_first_one_has(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtypes: tuple[str, str]
) -> None:
    data = tmp_path / "data"
    for auto in dtypes:
        on_machine(monkeypatch, auto)
        work = opened(world, data)
        assert work._encoders.identity()["dtype"] == dtypes[0] == dtype_of(data)
        assert begun_dtype(data, shared=True) == dtypes[0] and begun_dtype(data, shared=False) == ""


def test_one_that_was_slower_to_open_its_models_opens_them_again(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, real = tmp_path / "data", stub_run.StubEncoders.__init__

    def meanwhile(self: Any, config: Any) -> None:
        real(self, config)
        write_first(data / DTYPE, {"dtype": "bfloat16"})

    monkeypatch.setattr(stub_run.StubEncoders, "__init__", meanwhile)
    assert opened(world, data)._encoders.identity()["dtype"] == "bfloat16" == dtype_of(data)
    assert capsys.readouterr().err == f"{data} was begun in bfloat16 and goes on in it\n"


def test_an_explicit_dtype_beside_others_of_another_is_refused(world: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    opened(world, data)
    with pytest.raises(UserError, match=r"made with dtype = .float32., but now .*bfloat16.*; set --config.dtype=float"):
        opened(world, data, "dtype=bfloat16")


def test_who_is_alone_begins_anew_while_no_photo_is_encoded(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    opened(world, data)
    on_machine(monkeypatch, "bfloat16")
    assert opened(world, data, shared=False)._encoders.identity()["dtype"] == "bfloat16" == dtype_of(data)
    forget_dtype(data)
    assert opened(world, data)._encoders.identity()["dtype"] == "bfloat16"


def test_a_job_array_over_two_kinds_of_machines_ends_as_one_machine_would(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(world, tmp_path / "whole", "--config.dtype=bfloat16") == 0
    for worker, auto in enumerate(("bfloat16", "float32", "float16")):
        on_machine(monkeypatch, auto)
        assert run(world, tmp_path / "data", f"--worker={worker}/3") == 0
    assert same(tmp_path / "data", tmp_path / "whole")
    assert capsys.readouterr().err.count("data was begun in bfloat16 and goes on in it\n") == 2
    forget_dtype(tmp_path / "data")
    assert dtype_of(tmp_path / "data") == "bfloat16"


def no_links(*arguments: Any) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_the_first_to_write_a_file_is_the_one_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "a.json"
    assert [write_first(path, {"n": n}) for n in range(3)] == [{"n": 0}] * 3
    if links:
        path.unlink()
        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(lambda n: write_first(path, {"n": n})["n"], range(40)))
        assert len(set(told)) == 1
    assert os.listdir(tmp_path) == ["a.json"]
