"""Claim 1: free labels, stage by stage, beside dense CLIP."""

import numpy as np

from experiments.bench import Bench
from experiments.dealt import labelled_split, photos
from experiments.verdict import LABELS, Claim, Comparison, Row
from labelgen.labels.scores import Counts, confusion, scores
from labelgen.quality import presence_pairs, readings


def run(bench: Bench) -> Claim:
    """One pass over the labelled photos."""
    subset = labelled_split(bench)
    names = subset.words.ontology.names
    counts: dict[str, list[Counts]] = {}
    pairs = np.zeros((bench.seeds, 3), np.int64)
    with bench.times("label stages"):
        for photo in photos(bench, subset):
            seen = readings(photo.evidence, photo.truth, photo.stages, subset.settings, subset.words)
            for reading, against, prediction in seen:
                parts = counts.setdefault(reading, [np.zeros((len(names), len(names) + 1), np.int64)] * bench.seeds)
                parts[photo.part] = parts[photo.part] + confusion(against, prediction, len(names))
            pairs[photo.part] += presence_pairs(photo.truth, photo.stages.presence.present)
    rows = {reading: reading_row(reading, parts, names) for reading, parts in counts.items()}
    return Claim(
        "CLIP and SAM label photos for free, better than CLIP patch by patch: similarity prompts SAM (stage 1.1), CLIP "
        "names SAM's masks (stage 1.2), the merge has the best of both.",
        f"Free labels of {subset.split} against truth, its photos dealt into {bench.seeds} parts, which the spread is "
        "over. Unlabelled pixels count as wrong except in rows of labelled pixels.",
        [*rows.values(), presence_row(pairs)],
        comparisons(rows),
        list(subset.notes),
    )


def reading_row(reading: str, parts: list[Counts], names: tuple[str, ...]) -> Row:
    """A reading's scores, part by part."""
    found = [scores(its, names) for its in parts]
    figures = {"mIoU": [s.miou for s in found], "pixel accuracy": [s.pixel_accuracy for s in found]}
    return Row(reading, figures | {"coverage": [s.coverage for s in found]}, LABELS)


def presence_row(pairs: np.ndarray) -> Row:
    """Precision and recall over (photo, class); pairs: int [parts, 3] found and true, said, true."""
    found, said, true = pairs.T.astype(float)
    figures = {"precision": (found / np.maximum(said, 1)).tolist(), "recall": (found / np.maximum(true, 1)).tolist()}
    return Row("presence of classes in photos", figures, LABELS)


def comparisons(rows: dict[str, Row]) -> list[Comparison]:
    """By mIoU, against the best dense variant."""
    miou = {reading: row.figures["mIoU"] for reading, row in rows.items()}
    dense = [
        name for name in miou if name.startswith("dense CLIP, ") and "labelled" not in name and "gated" not in name
    ]
    best = max(dense, key=lambda name: float(np.mean(miou[name])))
    pairs = [
        ("stage 1.1", best),
        ("stage 1.2", best),
        ("merged, all pixels", best),
        ("merged, all pixels", "stage 1.1"),
        ("merged, all pixels", "stage 1.2"),
        ("merged, labelled pixels", "dense CLIP, labelled pixels"),
    ]
    return [Comparison(f"{above} is above {below}", miou[above], miou[below]) for above, below in pairs]
