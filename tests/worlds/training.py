"""`python -m fmbseg_jax.train` on a small DATA: in this process, or as a process that can be killed."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from fmbseg_jax.train import arguments, main
from labelgen.core.command import command
from tests.worlds.paths import ROOT
from tests.worlds.processes import HOST_RUN

SMALL = {
    "train.steps": 60,
    "train.warmup_steps": 5,
    "train.learning_rate": 0.02,
    "train.batch_size": 8,
    "train.virtual_shards": 4,
    "train.patches_per_photo": 12,
    "train.holdout": 0.1,
    "train.save_every": 20,
    "train.log_every": 5,
    "head.heads": 4,
}


def argv(data: Path | str, workdir: Path | str, **fields: Any) -> list[str]:
    """The command line; fields as train_steps=500 for train.steps."""
    settings = SMALL | {name.replace("_", ".", 1): value for name, value in fields.items()}
    return [
        f"--config={ROOT / 'configs/default.py'}",
        f"--data={data}",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in settings.items()),
    ]


def train(data: Path | str, workdir: Path | str, **fields: Any) -> int:
    """Trains here; returns the exit code."""
    return command(main, arguments(), argv(data, workdir, **fields))


def start(data: Path, workdir: Path, quick: int, **fields: Any) -> subprocess.Popen[str]:
    """Trains in a process of its own; after its first `quick` steps it takes half a second for each."""
    line = [*HOST_RUN, "-m", "fmbseg_jax.train", *argv(data, workdir, **fields)]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": paths, "HOST_QUICK": str(quick), "HOST_SECONDS": "0.5"}
    pipe = subprocess.PIPE
    return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def digests(workdir: Path) -> dict[str, Any]:
    """Checkpoint step -> digests of its arrays: equal digests are equal bits."""
    found = {}
    for path in sorted((workdir / "checkpoints").glob("*/meta/metadata")):
        found[path.parents[1].name] = json.loads(path.read_text())["digests"]
    return found


def metrics(workdir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl, without what they say of time."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not is_timing(name)} for line in lines]


def is_timing(name: str) -> bool:
    return name.startswith("seconds/") or name == "share_of_peak"
