"""The compilers of TPUs and GPUs, in an environment of their own: FMBSEG_REHEARSE_PYTHON names its interpreter."""

import fcntl
import os
import subprocess
from pathlib import Path

import pytest

from fmbseg_jax.rehearsal.topologies import TPUS
from tests.worlds.paths import ROOT

PYTHON = os.environ.get("FMBSEG_REHEARSE_PYTHON", "")
COMPILERS = pytest.mark.skipif(
    not PYTHON, reason="FMBSEG_REHEARSE_PYTHON names no environment with the compilers (docs/rehearse.md)"
)


def compiled(module: str, topology: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`-m MODULE ARGUMENTS`, which compiles for the topology, without the variables of the tests.

    One TPU compiler at a time: libtpu serves one process.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_", "PYTEST_"))}
    environment = {**kept, "PYTHONPATH": str(ROOT)}
    with open(Path(__file__)) as lock:
        if topology.partition(":")[0] in TPUS:
            fcntl.flock(lock, fcntl.LOCK_EX)
        return subprocess.run(
            [PYTHON, "-m", module, *arguments],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )
