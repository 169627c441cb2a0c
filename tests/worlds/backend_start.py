"""What the environment holds when jax starts its backend: `python -m tests.worlds.backend_start FILE -m MODULE ...`.

Runs a command, or Python as `-c CODE`, with JAX_PLATFORMS=watched: the CPU's backend, that writes the environment to
FILE as it starts, in JSON. With PRETENDED in the environment shared_gpu.how_shared is told of a GPU of that kind.
"""

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from jax.extend.backend import register_backend_factory
from jaxlib import xla_client

from tests.worlds.paths import ROOT


class Started(NamedTuple):
    """How it went."""

    code: int
    out: str
    err: str
    at_start: dict[str, str] | None
    """Variables of XLA in the environment when the backend started; None: it did not."""


def started(folder: Path, *arguments: str, **environment: str) -> Started:
    """Runs `-m MODULE ...` or `-c CODE` in a process of its own."""
    file = folder / "at_start.json"
    file.unlink(missing_ok=True)
    plain = {name: value for name, value in os.environ.items() if not name.startswith("XLA_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.worlds.backend_start", str(file), *arguments],
        cwd=ROOT,
        env={**plain, "JAX_PLATFORMS": "watched", **environment},
        capture_output=True,
        text=True,
    )
    found = json.loads(file.read_text()) if file.exists() else None
    return Started(done.returncode, done.stdout, done.stderr, found)


def watch(file: Path) -> None:
    """Registers the backend."""

    def start() -> Any:
        file.write_text(json.dumps({name: value for name, value in os.environ.items() if name.startswith("XLA_")}))
        return xla_client.make_cpu_client()

    register_backend_factory("watched", start)


def pretend(kind: str) -> None:
    """From here on who imports how_shared gets one that sees a GPU for each device."""
    from fmbseg_jax.runs import shared_gpu  # not before CODE, which may look at what imports do

    real = shared_gpu.how_shared

    def told(devices: Sequence[Any]) -> str:
        return real([SimpleNamespace(platform="gpu", device_kind=kind) for _ in devices])

    shared_gpu.how_shared = told


def main(file: str, how: str, what: str, *arguments: str) -> None:
    """Runs it as Python would."""
    watch(Path(file))
    if kind := os.environ.get("PRETENDED"):
        pretend(kind)
    sys.argv = [what, *arguments]
    if how == "-c":
        exec(what, {"__name__": "__main__"})
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
