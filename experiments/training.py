"""Claim 6: how little training it takes: parameters, seconds, and their share of the whole cost."""

import json
import math
import time
from pathlib import Path

import jax

from experiments.bench import Bench, Fields, label, lines_of, once, word_lines
from experiments.runs import head_counts, miou, shipped_question, trained
from experiments.verdict import Claim, Comparison, Plot, Row
from fmbseg_jax.reporting.readings import HEAD
from fmbseg_jax.runs.checkpoint import restore_run
from labelgen.core.errors import UserError
from labelgen.core.progress import StageTimes
from labelgen.stages.encoding import EncodeStage
from labelgen.stages.engine import LocalEngine

PARTS = (24, 12, 6, 3, 2, 1)
SHARE = 0.95
PHOTOS = 8
"""Of each split, encoded to time it."""


def lengths(bench: Bench) -> list[Fields]:
    """Trainings of a 24th of the steps up to all, each with a schedule of its own."""
    steps, warmup = bench.config.train.steps, bench.config.train.warmup_steps
    shorter = [
        {
            "train.steps": max(2, steps // part),
            "train.warmup_steps": max(1, warmup // part),
            "train.log_every": max(1, min(bench.config.train.log_every, steps // part)),
        }
        for part in PARTS[:-1]
    ]
    return [*shorter, {}]


def seconds(run: Path) -> float:
    """Of steps, data, held-out loss and saving, as metrics.jsonl has them; compiling is not among them."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return float(sum(value for line in lines for name, value in line.items() if name.startswith("seconds/")))


def run(bench: Bench) -> Claim:
    """Each length of training by itself: of one training with a cosine schedule no earlier point is a finished one."""
    question = shipped_question(bench)
    folders = [[trained(bench, fields, seed) for fields in lengths(bench)] for seed in range(bench.seeds)]
    scores = [[miou(head_counts(bench, folder, question)[HEAD]) for folder in its] for its in folders]
    spent = [[seconds(folder) for folder in its] for its in folders]
    steps = [max(2, bench.config.train.steps // part) for part in PARTS]
    needed = [
        next(t for t, s in zip(*pair, strict=True) if s >= SHARE * pair[1][-1])
        for pair in zip(spent, scores, strict=True)
    ]
    restored = restore_run(folders[0][-1])
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(restored.params))
    costs, notes = labelling_cost(bench)
    whole = [costs["encode"] + costs["label"] + its[-1] for its in spent]
    share = [its[-1] / all_of_it for its, all_of_it in zip(spent, whole, strict=True)]
    rows = [
        Row(f"{count} steps", {"mIoU": [its[i] for its in scores], "seconds": [its[i] for its in spent]})
        for i, count in enumerate(steps)
    ]
    figures = {
        "parameters trained": [float(parameters)],
        f"seconds to {SHARE:.0%} of the final mIoU": needed,
        "seconds to encode": [costs["encode"]],
        "seconds to label": [costs["label"]],
        "training's share": share,
    }
    return Claim(
        "Minimal training: a small head, seconds, next to nothing of the whole cost.",
        f"Trainings of different lengths, scored on {bench.split}; seconds of steps, data and saving, without "
        "compiling. Cost of encoding and labelling the training photos: timed on a few of them, scaled up.",
        [*rows, *(Row(name, {"value": values}) for name, values in figures.items())],
        [
            Comparison("training is below a tenth of the whole cost", [0.1] * bench.seeds, share),
            Comparison("fewer than a million parameters are trained", [1e6] * bench.seeds, [parameters] * bench.seeds),
        ],
        notes,
        [Plot("training", "steps", "mIoU", list(map(float, steps)), {"head": scores}, True)],
    )


def labelling_cost(bench: Bench) -> tuple[dict[str, float], list[str]]:
    """Seconds to encode and to label all training photos, and what to know of them."""
    costs = once(bench.out / "cost.json", lambda: {"label": label_seconds(bench), "encode": encode_seconds(bench)})
    count = bench.data.count(bench.config.train.split)
    if costs["encode"] is None:
        note = "The photos are not at hand, encoding was not timed: the share counts labelling and training alone."
        return {"encode": 0.0, "label": costs["label"]}, [note]
    note = f"Encoding was timed on {PHOTOS} photos of a split at most, without loading the models, scaled to {count}."
    return {"encode": costs["encode"] * count, "label": costs["label"]}, [note]


def label_seconds(bench: Bench) -> float:
    """To label once more, under another name."""
    start = time.perf_counter()
    label(bench, "timed", lines_of(word_lines(bench.words.ontology)))
    return round(time.perf_counter() - start, 2)


def encode_seconds(bench: Bench) -> float | None:
    """Of a photo; None where there are no photos to encode."""
    try:
        times = StageTimes()
        work = EncodeStage(bench.config, bench.out / "timed", PHOTOS, bench.words.ontology).begin(times)
        start = time.perf_counter()
        LocalEngine().run(work, work.shards)
        work.complete()
    except UserError:
        return None
    photos = sum(shard.stop - shard.start for shard in work.shards)
    return round((time.perf_counter() - start - times.taken().get("load models", 0.0)) / photos, 4)
