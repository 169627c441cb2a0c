"""The command that serves the page: ready, stopped, and what it cannot start with."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fmbseg_jax import serve
from fmbseg_jax.inference.segmenter import Segmenter
from labelgen.core.command import command
from labelgen.core.errors import UserError
from labelgen.models import clip
from tests.worlds import tiny_models, tiny_run
from tests.worlds.paths import ROOT
from tests.worlds.serving import ask, file_of
from tests.worlds.tiny_run import picture


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write(tmp_path_factory.mktemp("run"), tiny_models.write(tmp_path_factory.mktemp("weights")))


def test_the_command_says_where_it_is_and_stops_when_interrupted(run: Path) -> None:
    flags = [f"--workdir={run}", "--port=0"]
    start = [sys.executable, "-m", "fmbseg_jax.serve", *flags]
    server = subprocess.Popen(start, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert server.stdout
    try:
        ready, where = server.stdout.readline(), server.stdout.readline()
        assert re.search(r"2 classes; ready after \d+\.\d s$", ready), ready
        port = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/  Ctrl-C stops\n", where)
        assert port, where
        assert ask(int(port[1]), "POST", "/api/photos", file_of(picture(9, 9)))[0] == 201
        os.kill(server.pid, signal.SIGINT)
        out, err = server.communicate(timeout=30)
        assert (server.returncode, out, err) == (0, "stopped; nothing was written\n", "")
    finally:
        server.kill()
        server.communicate()


def served(*arguments: Any) -> int:
    return command(serve.main, serve.arguments(), [str(a) for a in arguments])


def test_a_missing_package_is_named(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert served(f"--workdir={run}") == 2
    assert "the page needs uvicorn; run: pip install starlette uvicorn" in capsys.readouterr().err


@pytest.mark.parametrize("number", [-1, 70000])
def test_a_port_that_cannot_be_had(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert served("--workdir=nowhere", f"--port={number}") == 2
    assert f"--port={number}: " in capsys.readouterr().err


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert served("--workdir=nowhere", f"--port={taken.getsockname()[1]}") == 2
    assert "name another --port, 0 for any" in capsys.readouterr().err


def test_without_the_text_tower_the_trained_words_still_work(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*arguments: Any) -> None:
        raise UserError("clip.safetensors: not there")

    monkeypatch.setattr(clip, "load_clip", missing)
    _, note = serve.warm_up(Segmenter.restore(run))
    assert note == "; only the words of the RUN, for clip.safetensors: not there"


def test_the_address_can_be_typed() -> None:
    assert serve.address("127.0.0.1", 8000) == "http://127.0.0.1:8000/"
    assert serve.address("::1", 8000) == "http://[::1]:8000/"
    assert serve.address("0.0.0.0", 80) == f"http://{socket.gethostname()}:80/"
