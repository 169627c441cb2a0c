"""Variables set before jax or torch is imported, inherited by the commands that tests start; and `pytest -n`."""

import fcntl
import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

from tests.worlds.shapes import SHAPED

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as of `make test &`: what tests start is to hear Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("NPROC", "16")  # XLA's CPU pool: with two threads, collectives of virtual devices deadlock
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "4"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # but where a test is about it
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # tests compile much and compute little

pytest_plugins = ["tests.worlds.fixtures"]

install_import_hook(SHAPED, "tests.worlds.shapes.checked")


def pytest_configure(config: pytest.Config) -> None:
    """`pytest -n 2`: a file's tests stay in one process, which makes their fixtures once."""
    if getattr(config.option, "dist", "no") == "load":
        config.option.dist, config.option.loadscopereorder = "loadfile", False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Beside others the long files come first: none is then left for the end, when the other processes idle."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        long = {item.path for item in items for name in ("serial", "slow") if item.get_closest_marker(name)}
        items.sort(key=lambda item: item.path not in long)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test marked `serial` has a lock, with its fixtures; the others share it, and pass the gate one by one.

    Who waits for the lock holds the gate: none overtakes.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    with open(Path(__file__)) as gate, open(Path(__file__).with_name("__init__.py")) as lock:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(lock, fcntl.LOCK_EX if item.get_closest_marker("serial") else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        return (yield)
