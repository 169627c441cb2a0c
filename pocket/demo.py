"""The whole pipeline on the pocket world, in the order a user runs it: no model hub, no data set, no GPU.

    python -m pocket.demo --out=demo
    python -m pocket.demo --out=small --train=24 --eval=8 --held_out=8 --config.train.steps=20

Draws scenes, labels them for free, trains, evaluates, predicts and reports, each by its own command, which is printed
before it runs. Killed or stopped, the same command goes on where it was.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from labelgen.core.command import GOES_ON, command, parser, whole

PICTURES = 4
"""Of eval, that stand for photos never seen."""


def main(args: argparse.Namespace) -> int:
    """Runs every step; the exit code of the first one that fails."""
    begun, out = time.monotonic(), Path(args.out)
    own = [f"--config.{override}" for override in args.overrides]
    config = [f"--config={args.config}", f"--config.photos.root={out / 'scenes'}", *own]
    data, runs = out / "data", list(product(args.targets.split(","), args.seeds.split(",")))
    folders = {run: out / f"run-{run[0]}-{run[1]}" for run in runs}
    counts = [f"--{split}={getattr(args, split)}" for split in ("train", "eval", "held_out")]
    steps = [
        ["pocket.scenes", f"--out={out / 'scenes'}", *counts],
        ["labelgen.run", *config, f"--out={data}"],
        ["labelgen.quality", *config, f"--data={data}"],
    ]
    for (targets, seed), folder in folders.items():
        of_run = [f"--data={data}", f"--workdir={folder}"]
        of_training = [f"--config.train.seed={seed}", f"--config.train.targets={targets}"]
        steps.append(["fmbseg_jax.train", *config, *of_training, *of_run])
        steps.append(["fmbseg_jax.evaluate", *config, *of_run])
    return follow(steps) or look(out, data, list(folders.values()), begun)


def look(out: Path, data: Path, runs: Sequence[Path], begun: float) -> int:
    """Masks of photos never seen, a table of all runs, and the report of the first."""
    photos, shown = out / "photos", sorted((out / "scenes/photos/eval").glob("*.png"))[:PICTURES]
    photos.mkdir(exist_ok=True)
    for picture in shown:
        shutil.copy(picture, photos)
    oracles = [f"--oracle={run}" for run in runs if run.name.startswith("run-truth")][:1]
    report = [f"--data={data}", f"--workdir={runs[0]}", "--photos=30", f"--out={out / 'report'}", *oracles]
    code = follow(
        [
            ["fmbseg_jax.predict", f"--workdir={runs[0]}", f"--photos={photos}", f"--out={out / 'masks'}"],
            ["fmbseg_jax.results", f"--data={data}", f"--out={out / 'results.md'}", *map(str, runs)],
            ["fmbseg_jax.report", *report],
        ]
    )
    if not code:
        page = out / "report/index.html"
        print(
            f"\n{time.monotonic() - begun:.0f} s in all. Wrote {out}; next: open {page} in a browser: "
            "it shows what was learnt, where it fails and why"
        )
    return code


def follow(steps: Sequence[Sequence[str]]) -> int:
    """Runs `python -m MODULE ARGUMENTS` one after the other; the exit code of the first that fails, else 0."""
    for step in steps:
        print(f"\n== {shlex.join(step)}", flush=True)
        if code := subprocess.run([sys.executable, "-m", *step], check=False).returncode:
            return code
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m pocket.demo`."""
    flags = parser(__doc__ or "", config=False, stopped=GOES_ON)
    flags.set_defaults(config="pocket")
    flags.add_argument("--out", default="demo", metavar="FOLDER", help="where everything goes (default: demo)")
    for split, count in (("train", 300), ("eval", 100), ("held_out", 50)):
        flags.add_argument(f"--{split}", type=whole(1), default=count, metavar="N", help=f"scenes of {split}")
    flags.add_argument("--seeds", default="0", metavar="N,N", help="seeds of the training, a RUN each (default: 0)")
    flags.add_argument("--targets", default="labels", metavar="A,B", help="labels,truth trains the oracle too")
    flags.epilog = "Any field of the config can be set: --config.train.steps=100"
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
