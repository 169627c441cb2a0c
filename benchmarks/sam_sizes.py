"""Seconds and memory of SAM's masks by the size of the photo: every pixel made, and outlines alone.

    python -m benchmarks.sam_sizes [--repeats=3] [--most_s=200] [--out=F.json]

The pocket SAM with its own thresholds on one of its scenes, enlarged. `pixels` is what photos at or below the working
size (1,024 px) get at every size, `outlines` what larger ones get; both sides take turns, a process each for every
size, which sees a small photo before the clock starts. --worker=SIDE is how the command calls itself.
"""

import argparse
import json
import resource
import sys
import time
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from benchmarks.setting import fresh_process, median, publish, spread, table
from labelgen.core.command import command, parser
from labelgen.core.config import load_config

SIZES_WH = {"0.8": (1024, 768), "12": (4000, 3000), "48": (8000, 6000)}
SIDES = ("pixels", "outlines")
Runs = dict[str, dict[str, list[dict[str, float]]]]


def main(args: argparse.Namespace) -> int:
    """Measure every size by both sides and print the table."""
    if args.worker:
        print(json.dumps(measure(args.worker, args.size)))
        return 0
    runs: Runs = {size: {side: [] for side in SIDES} for size in SIZES_WH}
    for _ in range(args.repeats):
        for size, by_side in runs.items():
            for side, done in by_side.items():
                if sum(run["s"] for run in done) < args.most_s:
                    out = fresh_process("benchmarks.sam_sizes", [f"--worker={side}", f"--size={size}"], 1).out
                    done.append(json.loads(out.splitlines()[-1]))
                    print(f"{size} MP, {side}: {json.dumps(done[-1])}", file=sys.stderr, flush=True)
    publish(args, {"runs": runs}, report(runs))
    return 0


def report(runs: Runs) -> str:
    """Markdown: a row a size and side; ratios of processor seconds."""
    least = median([run["cpu_s"] for run in runs["0.8"]["pixels"]])
    rows = []
    for size, by_side in runs.items():
        for side, done in by_side.items():
            cpu_s = [run["cpu_s"] for run in done]
            rows.append(
                [
                    size,
                    side,
                    len(done),
                    spread([run["s"] for run in done]),
                    spread(cpu_s),
                    f"{median(cpu_s) / least:.2f}",
                    f"{max(run['peak_gb'] for run in done):.2f}",
                    ", ".join(sorted({f"{run['masks']}, {run['automatic']}" for run in done})),
                ]
            )
    heads = ["megapixels", "side", "runs", "s", "processor s", "of 0.8 megapixels", "peak GB", "masks, automatic"]
    return table(heads, rows)


def measure(side: str, size: str) -> dict[str, Any]:
    """One photo."""
    from labelgen.models import sam
    from pocket.scenes import draw

    config = load_config("configs/pocket.py", [])
    encoder = sam.load_sam(config.sam, config.weights_dir, "cpu", "float32")
    scene = draw(seed=3, index=2, split="eval").photo
    encoder.masks(scene)
    photo = np.asarray(Image.fromarray(scene).resize(SIZES_WH[size], Image.Resampling.BICUBIC))
    with mock.patch.object(sam, "WORKING_PX", max(SIZES_WH[size]) if side == "pixels" else 0):
        start, worked = time.perf_counter(), time.process_time()
        masks = encoder.masks(photo)
    return {
        "s": time.perf_counter() - start,
        "cpu_s": time.process_time() - worked,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "masks": len(masks),
        "automatic": int(masks.automatic.sum()),
    }


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--repeats", type=int, default=3, metavar="R")
    flags.add_argument(
        "--most_s", type=float, default=200, help="no more runs of a size and side once they took so long"
    )
    flags.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    flags.add_argument("--size", choices=SIZES_WH, default="0.8", help=argparse.SUPPRESS)
    flags.add_argument("--out", metavar="F.json", help="also write every run's figures there")
    flags.set_defaults(config="")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
