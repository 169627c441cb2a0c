"""What the benchmarks measure on: a DATA of random features of real shape, the trainer on it, and where they ran."""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from ml_dtypes import bfloat16

from labelgen.core.files import write_atomic, write_json
from labelgen.core.shipped import HOME
from labelgen.data.records import FeatureRow, LabelRow
from labelgen.data.tfrecord import ShardWriter, shard_name

PER_SHARD = 64


@dataclass(frozen=True)
class Shape:
    """Sizes of a DATA and of a step on it."""

    feature_width: int = 1024
    text_width: int = 768
    grid_hw: tuple[int, int] = (37, 37)
    classes: int = 21
    photos: int = 64
    batch_size: int = 32
    patches_per_photo: int = 128
    blocks: int = 0

    @property
    def overrides(self) -> list[str]:
        """Fields of configs/default.py that make the trainer's step one of this shape, on all its photos."""
        return [
            f"head.blocks={self.blocks}",
            f"train.batch_size={self.batch_size}",
            f"train.virtual_shards={math.gcd(16, self.batch_size)}",
            f"train.patches_per_photo={self.patches_per_photo}",
            "train.holdout=0.0",
        ]


REAL = Shape()
"""DINOv2 ViT-L/14 at 518 px, CLIP ViT-L/14, VOC's 21 classes."""
POCKET = Shape(feature_width=192, text_width=128, grid_hw=(24, 24), classes=12)
"""configs/pocket.py."""


def write_data(path: Path, shape: Shape) -> Path:
    """A complete DATA, split train: bfloat16 features around a centre a class, nine patches in ten labelled."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(shape.classes, shape.feature_width)).astype(np.float32)
    counts = [len(part) for part in np.array_split(np.arange(shape.photos), -(-shape.photos // PER_SHARD))]
    for family in ("features", "labels/default"):
        (path / family).mkdir(parents=True)
    for shard, count in enumerate(counts):
        name = shard_name("train", shard, len(counts))
        with ShardWriter(path / "features" / name) as features, ShardWriter(path / "labels/default" / name) as labels:
            for i in range(count):
                feature_row, label_row = photo_rows(rng, f"{shard:03}-{i:05}", centres, shape)
                features.append(feature_row.encode())
                labels.append(label_row.encode())
            features.finish()
            labels.finish()
    write_words(path / "labels/default", rng, shape)
    write_json(
        path / "dataset.json",
        {
            "format": 1,
            "splits": {"train": {"rows": counts, "truth": False, "truth_classes": None}},
            "grid_hw": list(shape.grid_hw),
            "feature_width": shape.feature_width,
            "text_width": shape.text_width,
            "encoders": {},
        },
    )
    return path


def photo_rows(
    rng: np.random.Generator, photo_id: str, centres: np.ndarray[Any, Any], shape: Shape
) -> tuple[FeatureRow, LabelRow]:
    """A photo of 500 x 375 px: its features and free labels, the second class of a patch with a fifth of it."""
    (h, w), size_hw = shape.grid_hw, (375, 500)
    classes = rng.integers(shape.classes, size=(h, w))
    noise = rng.standard_normal((h, w, shape.feature_width), np.float32)
    label_map = np.kron(classes, np.ones((11, 14)))[: size_hw[0], : size_hw[1]].astype(np.uint8)
    confidence = np.full(label_map.shape, 255, np.uint8)
    shares = np.array([204, 51, 0]) * (rng.random((h, w, 1)) < 0.9)
    targets = np.stack([classes, (classes + 1) % shape.classes, np.zeros_like(classes)], -1)
    present = np.unique(classes).astype(np.int32)
    scores = np.ones(len(present), np.float32)
    box = (0.0, 0.0, float(size_hw[1]), float(size_hw[0]))
    return (
        FeatureRow(photo_id, size_hw, box, (h, w), (centres[classes] + noise).astype(bfloat16)),
        LabelRow(photo_id, present, scores, label_map, confidence, targets.astype(np.uint16), shares.astype(np.uint8)),
    )


def write_words(folder: Path, rng: np.random.Generator, shape: Shape) -> None:
    """One word a class, random unit prototypes."""
    names = [f"class {i}" for i in range(shape.classes)]
    ontology = {"names": names, "words": names, "word_class": list(range(shape.classes)), "roles": [""] * shape.classes}
    prototypes = rng.normal(size=(shape.classes, shape.text_width))
    write_atomic(folder / "ontology.json", json.dumps(ontology).encode())
    np.save(folder / "prototypes.npy", (prototypes / np.linalg.norm(prototypes, axis=1)[:, None]).astype(np.float32))
    write_json(folder / "labels.json", {"splits": ["train"], "digest": "benchmark"})


@contextmanager
def scratch_data(shape: Shape, folder: str) -> Iterator[Path]:
    """A DATA of this shape in a temporary folder under `folder`, deleted afterwards; read once, so it is cached."""
    with TemporaryDirectory(prefix="benchmark-", dir=folder or None) as scratch:
        yield write_data(Path(scratch) / "data", shape)


def environment(cores: int = 0) -> dict[str, str]:
    """Variables for a process of one thread of math a core; 0: all cores."""
    threads = {name: str(cores) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")} if cores else {}
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(HOME), **threads}


class Finished(NamedTuple):
    """A process that has ended well."""

    out: str
    """What it printed."""
    used: list[tuple[float, float]]
    """(time.time(), processor seconds until then, its children's too), some twenty times a second."""


def fresh_process(module: str, arguments: Sequence[str], cores: int = 0, **variables: str) -> Finished:
    """Runs `python -m module arguments` on the first `cores` cores that this process may use (0: all).

    CalledProcessError where it fails; its stderr is shown.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[: cores or None])  # the process inherits it
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**environment(cores), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    finally:
        os.sched_setaffinity(0, allowed)
    with process:
        out, err, used = watched(process)
    if process.returncode:
        print(err, file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return Finished(out, used)


def watched(process: subprocess.Popen[str]) -> tuple[str, str, list[tuple[float, float]]]:
    """Waits for it: stdout, stderr, Finished.used."""
    used: list[tuple[float, float]] = []
    try:
        while True:
            try:
                return *process.communicate(timeout=0.05), used
            except subprocess.TimeoutExpired:
                used.append((time.time(), processor_seconds(process.pid)))
    except BaseException:
        process.kill()
        raise


def processor_seconds(session: int) -> float:
    """Of all processes of a session so far."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def where() -> dict[str, Any]:
    """Date, commit and machine of a result; load: how many processes wanted a core while it began."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HOME, capture_output=True, text=True
    ).stdout.strip()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "cores": os.cpu_count(),
        "processor": model,
        "load": round(os.getloadavg()[0], 1),
    }


def median(values: Sequence[float]) -> float:
    """The median."""
    return float(np.median(values))


def spread(values: Sequence[float], digits: int = 3) -> str:
    """`median (lowest .. highest)` at so many significant digits."""
    low, mid, high = (f"{value:.{digits}g}" for value in (min(values), median(values), max(values)))
    return f"{mid} ({low} .. {high})"


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def publish(args: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    """Prints the README's rows under a line of where they come from; the JSON to --out."""
    at = where()
    options = [option for option in sys.argv[1:] if not option.startswith(("--out", "--scratch"))]
    command = " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *options])
    print(
        f"{at['date']}, commit {at['commit']}, {at['cores']} cores of an {at['processor']}, load {at['load']}: "
        f"`{command}`\n\n{text}"
    )
    if args.out:
        write_json(args.out, {"where": at, **result})
    print(f"\nwrote {args.out}" if args.out else "\nwrote nothing; --out=FILE.json keeps the figures")
