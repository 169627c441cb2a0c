"""Several processes as the hosts of one run, on virtual CPU devices, each with its output in a file."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.worlds.paths import ROOT

HOST_RUN = [sys.executable, "-m", "tests.worlds.host_run"]


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    out: str
    err: str


class Hosts:
    """Started processes; `log` is the folder of host_run.py's records."""

    def __init__(self, commands: Sequence[Sequence[str]], log: Path, devices: int, **environment: str):
        log.mkdir(parents=True, exist_ok=True)
        self.log = log
        self._files = [(log / f"{i}.out", log / f"{i}.err") for i in range(len(commands))]
        paths = {"PYTHONPATH": str(ROOT), "HOST_LOG": str(log)}
        variables = {**os.environ, **paths, "JAX_NUM_CPU_DEVICES": str(devices), **environment}
        self.processes = [
            subprocess.Popen(command, cwd=ROOT, env=variables, stdout=out.open("w"), stderr=err.open("w"))
            for command, (out, err) in zip(commands, self._files, strict=True)
        ]

    def end(self, timeout: float = 120) -> list[Ended]:
        """Waits for all."""
        deadline = time.monotonic() + timeout
        codes = [process.wait(max(0.1, deadline - time.monotonic())) for process in self.processes]
        texts = [(out.read_text(), err.read_text()) for out, err in self._files]
        return [Ended(code, *text) for code, text in zip(codes, texts, strict=True)]

    def record(self, process: int) -> Any:
        """What host_run.py wrote down."""
        return json.loads((self.log / f"{process}.json").read_text())


@contextmanager
def hosts(commands: Sequence[Sequence[str]], log: Path, devices: int, **environment: str) -> Iterator[Hosts]:
    """The processes; none is left when the block ends."""
    started = Hosts(commands, log, devices, **environment)
    try:
        yield started
    finally:
        for process in started.processes:
            process.kill()


def pair(arguments: Callable[[str], Sequence[str]]) -> list[list[str]]:
    """Two commands; `arguments` of what their `distributed` is."""
    port = free_port()
    return [[*HOST_RUN, *arguments(f"127.0.0.1:{port},2,{i}")] for i in range(2)]


def free_port(low: int = 20000) -> int:
    """A port that nobody listens on, of the 4096 from `low` on."""
    for port in range(low + os.getpid() % 4096, low + 4096):
        if not listens(port):
            return port
    raise RuntimeError("no free port")


def listens(port: int) -> bool:
    """Whether a process of this machine takes connections there."""
    with socket.socket() as probe:
        return not probe.connect_ex(("127.0.0.1", port))


def wait_for_port(port: int, seconds: float = 120) -> None:
    """Returns when somebody listens there."""
    deadline = time.monotonic() + seconds
    while not listens(port):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nobody listens on {port}")
        time.sleep(0.01)


def wait_for(path: Path, lines: int, seconds: float = 120) -> None:
    """Returns when a file has so many lines."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if path.exists() and len(path.read_text().splitlines()) >= lines:
            return
        time.sleep(0.01)
    raise TimeoutError(f"{path} never had {lines} lines")
