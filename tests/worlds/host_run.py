"""Commands as `python -m`, one after the other: `python -m tests.worlds.host_run -m MODULE ARGUMENTS [+ -m ...]`.

HOST_LOG in the environment names a folder: PROCESS.json there says which rows this process gave to each step, with a
digest of each, how often each jitted function was compiled, and how often JAX found one in its cache or did not; it is
written when all have ended well. HOST_SECONDS is slept before every step but the first HOST_QUICK.
"""

import hashlib
import importlib
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from fmbseg_jax.runs import hosts
from fmbseg_jax.training.device_batches import Resident
from fmbseg_jax.training.feed import Feed
from labelgen.core.command import command

BATCHES: list[list[tuple[int, str]]] = []
COMPILED: Counter[str] = Counter()
CACHE: Counter[str] = Counter()


def watch() -> None:
    """From here on batches and compilations are recorded."""
    real = Feed.__next__

    def read(feed: Feed) -> Any:
        batch = real(feed)
        BATCHES.append(rows_of(batch))
        return batch

    def compiled(name: str, seconds: float, **about: Any) -> None:
        if name == "/jax/core/compile/backend_compile_duration":
            COMPILED[about["fun_name"]] += 1

    def event(name: str, **about: Any) -> None:
        folder, _, what = name.rpartition("/")
        CACHE.update([what] if folder == "/jax/compilation_cache" else [])

    Feed.__next__ = slowed(read)  # type: ignore[method-assign]
    Resident.__next__ = slowed(Resident.__next__)  # type: ignore[method-assign]
    jax.monitoring.register_event_listener(event)
    jax.monitoring.register_event_duration_secs_listener(compiled)


def slowed(batch: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The same batches, each after its pause."""
    quick, seconds = int(os.environ.get("HOST_QUICK", "0")), float(os.environ.get("HOST_SECONDS", "0"))
    taken = itertools.count()

    def next_batch(batches: Any) -> Any:
        time.sleep(seconds if next(taken) >= quick else 0)
        return batch(batches)

    return next_batch


def rows_of(batch: Any) -> list[tuple[int, str]]:
    """(row, digest of its arrays) of each place."""
    parts = ([batch[name][i].tobytes() for name in sorted(batch)] for i in range(len(batch["row"])))
    return [(int(row), hashlib.sha256(b"".join(p)).hexdigest()) for row, p in zip(batch["row"], parts, strict=True)]


def main(argv: list[str]) -> int:
    """The worst exit code of the commands."""
    watch()
    codes = []
    for line in " ".join(argv).split(" + "):
        _, module, *arguments = line.split()
        run = importlib.import_module(module)
        codes.append(command(run.main, run.arguments(), arguments))
    if not any(codes):
        log = Path(os.environ["HOST_LOG"]) / f"{jax.process_index()}.json"
        log.write_text(json.dumps({"batches": BATCHES, "compiled": COMPILED, "cache": CACHE}))
    return max(codes)


if __name__ == "__main__":
    hosts.leave(main(sys.argv[1:]))
