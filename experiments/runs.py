"""Train and evaluate one variant of the shipped config with one seed, in a folder keyed by what is changed.

What is finished is not done again; what was cut off goes on, as `fmbseg_jax.train` does.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench import Bench, Fields, once, text
from fmbseg_jax import train
from fmbseg_jax.inference.embedder import Embedder
from fmbseg_jax.inference.label_maps import Background, pixel_classes, refined
from fmbseg_jax.inference.other_words import Asked
from fmbseg_jax.reporting.evaluation import class_names
from fmbseg_jax.reporting.readings import HEAD, REFINED, Reading
from fmbseg_jax.runs.checkpoint import Restored, restore_run
from fmbseg_jax.runs.dense_map import densely_embedded
from fmbseg_jax.training.feed import split_rows
from labelgen.core.errors import UserError
from labelgen.core.files import digest
from labelgen.data.dataset import Dataset, Labels
from labelgen.data.records import EvidenceRow, FeatureRow
from labelgen.labels.free_labels import LabelSettings
from labelgen.labels.scores import Counts, TruthReader, confusion, scores

TUNING: dict[str, Any] = {"train.holdout": 0.3}
"""What is tuned is tuned by trainings of their own, on the photos of the training split that these hold out."""


@dataclass(frozen=True)
class Question:
    """Which photos are asked for which words, and what their truth counts as."""

    split: str
    words: Labels
    truth: Mapping[str, str] = field(default_factory=dict)
    rows: tuple[int, ...] | None = None
    """None: all photos of the split."""
    background: bool = True
    """Whether eval.background_threshold, where it is set, makes a class of what no word fits."""

    @property
    def key(self) -> str:
        """Equal for equal questions."""
        asked = [self.words.ontology.to_json(), self.words.prototypes.tolist(), dict(self.truth), self.rows]
        asked += [] if self.background else ["no background"]
        return f"{self.split}-{digest(asked)[:10]}"


def shipped_question(bench: Bench, split: str = "") -> Question:
    """The trained words on a split: the first of eval.splits unless given."""
    return Question(split or bench.split, bench.words, bench.config.eval.truth.to_dict())


HEAD_ALONE, DENSE_MAP = Reading("head alone"), Reading("dense map")
KEPT = {"head": HEAD, "head alone": HEAD_ALONE, "dense map": DENSE_MAP, "refined": REFINED}
"""The answers of a RUN as the files of RUN/claims call them."""


def tune_question(bench: Bench) -> Question | None:
    """The photos that a training with TUNING holds out, with truth; None where there is none.

    Whatever is chosen by looking at truth is chosen there, never on eval.splits.
    """
    data, train_split = bench.data, bench.config.train.split
    held_out = split_rows(data.count(train_split), TUNING["train.holdout"])[1]
    if not data.has_truth(train_split) or not len(held_out):
        return None
    return Question(train_split, bench.words, bench.config.eval.truth.to_dict(), tuple(held_out.tolist()))


def tuning_score(bench: Bench, fields: Fields) -> float:
    """What a choice is made by, with seed 0: mIoU of the photos that TUNING holds out, else agreement with labels."""
    question, folder = tune_question(bench), trained(bench, {**fields, **TUNING}, 0)
    return miou(head_counts(bench, folder, question)[HEAD]) if question else held_out_agreement(folder)


def run_folder(bench: Bench, fields: Fields, seed: int) -> Path:
    """OUT/runs/NAME-DIGEST-SEED."""
    name = "-".join(f"{key.split('.')[-1]}-{text(value)}" for key, value in fields.items()) or "shipped"
    key = digest([[name, text(value)] for name, value in sorted(fields.items())])[:8]
    return bench.out / "runs" / f"{re.sub(r'[^a-zA-Z0-9.-]+', '_', name)[:60]}-{key}-{seed}"


def trained(bench: Bench, fields: Fields, seed: int, data: Path | None = None) -> Path:
    """The RUN of a variant, trained to its end. UserError where training says why it cannot."""
    run = run_folder(bench, fields, seed)
    if (run / "summary.json").exists():
        return run
    every = {"train.seed": seed, "compile_cache": str((bench.out / "compiled").absolute())}
    args = argparse.Namespace(
        config=bench.config_file,
        overrides=bench.said({**fields, **every}),
        data=str(data or bench.data_path),
        workdir=str(run),
        trust_compiled=False,
    )
    with bench.times("train"):
        code = train.main(args)
    if code:
        raise UserError(f"{run}: training ended with code {code}; run the same command again to go on")
    return run


def head_counts(bench: Bench, run: Path, question: Question, refine: bool = False) -> dict[Reading, Counts]:
    """Reading -> confusion [C, C + 1] of a RUN, kept in RUN/claims: HEAD, as fmbseg_jax.predict answers; REFINED.

    Where words are new to the head also HEAD_ALONE, without the dense map, and DENSE_MAP, without the head.
    """
    path = run / "claims" / f"{question.key}{'-refined' * refine}.json"
    with bench.times("evaluate"):
        kept = once(path, partial(_head_counts, bench, run, question, refine))
    return {KEPT[name]: np.array(counts, np.int64) for name, counts in kept.items()}


def _head_counts(bench: Bench, run: Path, question: Question, refine: bool) -> dict[str, Any]:
    restored = restore_run(run)
    ontology, prototypes = question.words
    asked = Asked(restored, ontology, prototypes)
    names, background = _background(bench, question, restored.temperature)
    truth = truth_of(bench, question)
    total: dict[Reading, Counts] = {}
    for i, row, evidence, z in embedded(data_of(bench, run), question, restored, bench.config.eval.batch_size):
        size = evidence.size_hw
        dense = None if restored.dense_map is None or asked.by_head else densely_embedded(row, restored.dense_map)
        maps = {HEAD: pixel_classes(*asked(z, dense), size, None, background)}
        for reading, patches in {HEAD_ALONE: z, DENSE_MAP: dense}.items() if dense is not None else ():
            maps[reading] = pixel_classes(patches, prototypes, ontology.word_class, size, None, background)
        if refine:
            maps[REFINED] = refined(maps[HEAD], evidence.masks, bench.config.eval.refine_min_iou)
        for reading, label_map in maps.items():
            total[reading] = total.get(reading, 0) + confusion(truth[i].label_map, label_map, len(names))
    return {name: total[reading].tolist() for name, reading in KEPT.items() if reading in total}


def data_of(bench: Bench, run: Path) -> Dataset:
    """The DATA that a RUN was trained on: the claims' own, or one of another encoder beside it."""
    width = json.loads((run / "config.json").read_text())["data"]["encoders"]["encoder"]
    for path in (bench.data_path, *sorted(bench.out.glob("encoder-*"))):
        if (path / "dataset.json").exists() and Dataset.open(path).info["encoders"]["encoder"] == width:
            return Dataset.open(path)
    raise UserError(f"{run}: was trained on features that are no longer in {bench.out}; delete it")


def embedded(data: Dataset, question: Question, restored: Restored, batch_size: int) -> Any:
    """(row, FeatureRow, EvidenceRow, z [h', w', E]) of the question's photos."""
    features, evidence = (data.reader(family, question.split) for family in ("features", "evidence"))
    embed = Embedder(restored, batch_size)
    rows = range(len(features)) if question.rows is None else question.rows
    for start in range(0, len(rows), batch_size):
        here = rows[start : start + batch_size]
        seen = [FeatureRow.decode(features[i]) for i in here]
        for i, row, z in zip(here, seen, embed(seen), strict=True):
            yield i, row, EvidenceRow.decode(evidence[i]), z


def dense_counts(bench: Bench, question: Question) -> dict[str, Counts]:
    """Variant -> confusion [C, C + 1] of dense CLIP on the same question, kept in OUT/dense."""
    with bench.times("dense CLIP"):
        found = once(bench.out / "dense" / f"{question.key}.json", partial(_dense_counts, bench, question))
    return {variant: np.array(counts, np.int64) for variant, counts in found.items()}


def _dense_counts(bench: Bench, question: Question) -> dict[str, Any]:
    ontology, prototypes = question.words
    names, background = _background(bench, question, LabelSettings.from_config(bench.config).presence.dense_temperature)
    truth, evidence = truth_of(bench, question), bench.data.reader("evidence", question.split)
    total: dict[str, Counts] = {}
    for i in range(len(evidence)) if question.rows is None else question.rows:
        seen = EvidenceRow.decode(evidence[i])
        for variant, tokens in seen.dense.items():
            patches = tokens.astype(np.float32)
            label_map = pixel_classes(patches, prototypes, ontology.word_class, seen.size_hw, None, background)
            total[variant] = total.get(variant, 0) + confusion(truth[i].label_map, label_map, len(names))
    return {variant: counts.tolist() for variant, counts in total.items()}


def truth_of(bench: Bench, question: Question) -> TruthReader:
    """Truth in the classes of the question."""
    return TruthReader(bench.data, question.split, asked_names(bench, question), question.truth)


def asked_names(bench: Bench, question: Question) -> tuple[str, ...]:
    """The classes counted."""
    return class_names(question.words.ontology, _threshold(bench, question))


def _background(bench: Bench, question: Question, temperature: float) -> tuple[tuple[str, ...], Background | None]:
    threshold = _threshold(bench, question)
    return asked_names(bench, question), Background(threshold, temperature) if threshold else None


def _threshold(bench: Bench, question: Question) -> float:
    return float(bench.config.eval.background_threshold) if question.background else 0.0


def ious(counts: Counts, names: Sequence[str]) -> dict[str, float | None]:
    """IoU by class."""
    return scores(counts, names).per_class


def miou(counts: Counts, among: Sequence[int] | None = None) -> float:
    """Mean IoU over the classes that truth or prediction has; among: over these classes only."""
    names = [str(c) for c in range(len(counts))]
    per_class = ious(counts, names)
    kept = [per_class[names[c]] for c in (range(len(names)) if among is None else among)]
    found = [value for value in kept if value is not None]
    return float(np.mean(found)) if found else float("nan")


def best_dense(counts: Mapping[str, Counts]) -> tuple[str, float]:
    """The variant of highest mIoU, and that."""
    return max(((variant, miou(its)) for variant, its in counts.items()), key=lambda pair: pair[1])


def held_out_agreement(run: Path) -> float:
    """Share of the held-out free labels that the kept checkpoint says; NaN where none were held out."""
    summary = json.loads((run / "summary.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {line["step"]: line["held_out_agreement"] for line in lines if "held_out_agreement" in line}
    return float(found.get(summary.get("best_step"), float("nan")))
