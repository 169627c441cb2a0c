"""The figures of a RUN as the report says them: one sentence, tables, confusions, curves, and where the time went.

Everything is read from what `evaluate`, `train` and `quality` wrote; nothing is measured again.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fmbseg_jax.reporting.evaluation import Tallied, read_tally, summary
from fmbseg_jax.reporting.readings import HEAD, ORACLE, REFINED, best_dense, by_reading, dense_clip
from labelgen.core.errors import UserError
from labelgen.core.files import read_json
from labelgen.labels.scores import Counts

Json = dict[str, Any]
LABELS = (
    "dense CLIP, labelled pixels", "dense CLIP, gated by presence", "stage 1.1", "stage 1.2", "merged, all pixels",
    "merged", "merged, labelled pixels", "true classes given",
)  # fmt: skip
MATRIX = 24
"""Classes that the confusion matrix shows, at most: those that are missed most."""
PAIRS = 12
"""Confusions that are named, at most."""


def evaluations(run: Path) -> dict[str, Json]:
    """Split -> what RUN/eval/SPLIT.json says; nothing where RUN was not evaluated."""
    return {path.stem: read_json(path, "evaluate again") for path in sorted(run.glob("eval/*.json"))}


def split_figures(run: Path, split: str, result: Json, oracle: Json | None) -> Json:
    """One split: its readings, the IoU of each class in four of them, what is confused. oracle: of a RUN on truth.

    UserError where they are of different classes.
    """
    readings = by_reading(result["readings"])
    tally = read_tally(run / "eval" / f"{split}.npz", HEAD)
    dense = best_dense({reading: row["miou"] for reading, row in readings.items()})
    bars = {"dense CLIP": dense, "head": HEAD, "refined": REFINED}
    rows = readings
    if oracle:
        rows = rows | {ORACLE: by_reading(oracle["readings"])[HEAD]}
        bars["oracle"] = ORACLE
    per_class = {name: rows[reading]["per_class"] for name, reading in bars.items()}
    names = tally.names if tally else tuple(readings[HEAD]["per_class"])
    if other := next((title for title, values in per_class.items() if values.keys() != set(names)), None):
        raise UserError(
            f"{split}: {other} was evaluated with the classes {', '.join(per_class[other])}, but {run} with "
            f"{', '.join(names)}; evaluate both anew, with the same words"
        )
    return {
        "split": split,
        "photos": result["protocol"]["photos"],
        "use": result["protocol"]["use"],
        "protocol": summary(result["protocol"]),
        "groups": list(readings[HEAD]["groups"]),
        "readings": [{"name": reading.title, **pick(row)} for reading, row in rows.items()],
        "dense": dense.variant,
        "classes": list(names),
        "per_class": {title: [values[name] for name in names] for title, values in per_class.items()},
        "confusion": tally and confusion_view(tally),
        "ratios": result["ratios"],
    }


def pick(row: Json) -> Json:
    """The figures of a reading that the table shows."""
    edges = {"boundary_iou": row["boundary_iou"]} if "boundary_iou" in row else {}  # not in files of before
    return {name: row[name] for name in ("miou", "pixel_accuracy", "coverage", "groups")} | edges


def confusion_view(tally: Tallied) -> Json:
    """Shares of each true class's pixels by what the head says of them, for the classes missed most; the worst pairs.

    rows [n, n + 2]: the n classes of `classes`, all others together, and no class at all.
    """
    row_shares = shares(tally.counts)
    hit = np.diag(row_shares[:, :-1])
    in_truth = np.flatnonzero(tally.counts.sum(1))
    listed = np.sort(in_truth[np.argsort(hit[in_truth], kind="stable")[:MATRIX]])
    rows = row_shares[listed]
    others = np.delete(rows[:, :-1], listed, axis=1).sum(1)
    matrix = np.column_stack([rows[:, listed], others, rows[:, -1]])
    return {
        "classes": listed.tolist(),
        "rows": np.round(matrix, 4).tolist(),
        "all": len(listed) == len(in_truth),
        "pairs": worst_pairs(row_shares),
    }


def shares(counts: Counts) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Rows of a confusion matrix [C, C + 1] as shares, zero for a class that the truth has not."""
    return np.asarray(counts / np.maximum(1, counts.sum(1, keepdims=True)), np.float64)


def worst_pairs(share: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[tuple[int, int, float]]:
    """(true class, class said, share of the true class's pixels) of the largest confusions above one in a hundred."""
    wrong = share.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = [divmod(int(at), share.shape[1]) for at in order]
    return [(true, said, round(float(wrong[true, said]), 4)) for true, said in pairs if wrong[true, said] >= 0.01]


def sentence(splits: Sequence[Json]) -> str:
    """The run in one sentence, of its first evaluated split of unseen photos."""
    first = next((fields for fields in splits if fields["use"].startswith("unseen")), splits[0])
    miou = by_reading({row["name"]: row["miou"] for row in first["readings"]})
    dense, head, oracle = miou[dense_clip(first["dense"])], miou[HEAD], miou.get(ORACLE)
    text = f"On {first['photos']} {first['use']} ({first['split']}) the head reaches {figure_text(head)} mIoU"
    text += f" over {len(first['classes'])} class{'es' * (len(first['classes']) > 1)}"
    if dense and head is not None:
        text += f", {head / dense:.2f} times the {figure_text(dense)} of dense CLIP ({first['dense']})"
    if oracle and head is not None:
        text += f" and {head / oracle * 100:.0f} % of a head trained on truth"
    pairs = zip(first["per_class"]["head"], first["classes"], strict=True)
    scored = [(iou, name) for iou, name in pairs if iou is not None]
    if len(scored) > 1:
        (low, worst), (high, best) = min(scored), max(scored)
        text += f"; {best} goes best ({figure_text(high)}), {worst} worst ({figure_text(low)}{taken_for(first, worst)})"
    return text + "."


def taken_for(split: Json, name: str) -> str:
    """`, most often taken for NAME` of a class of the split, where the matrix knows."""
    at = split["classes"].index(name)
    pair = next((pair for pair in (split["confusion"] or {"pairs": []})["pairs"] if pair[0] == at), None)
    return f", most often taken for {[*split['classes'], 'no class'][pair[1]]}" if pair else ""


def figure_text(value: float | None) -> str:
    """.756, or 1.000; a dash for a mean of nothing."""
    return "–" if value is None else f"{value:.3f}".removeprefix("0")


def label_figures(quality: Path) -> list[Json]:
    """The free labels of each split that `quality` looked at: readings and presence; nothing where it has not run."""
    if not quality.exists():
        return []
    return [
        {
            "split": split,
            "groups": list(next(iter(fields["readings"].values()))["groups"]),
            "readings": [{"name": name, **pick(fields["readings"][name])} for name in in_order(fields["readings"])],
            "presence": fields["presence"],
        }
        for split, fields in read_json(quality, "run labelgen.quality again").items()
    ]


def in_order(readings: Iterable[str]) -> list[str]:
    """The readings of labels in the order in which they come about."""
    return sorted(readings, key=lambda name: (LABELS.index(name) if name in LABELS else -1, name))


def training(run: Path) -> Json:
    """Curves [step, value] of the training's figures and the seconds of its stages, from RUN/metrics.jsonl."""
    path = run / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]  # the last: under way
    names = ("loss", "held_out_loss", "agreement", "held_out_agreement")
    curves = {name: [[line["step"], line[name]] for line in lines if name in line] for name in names}
    seconds: dict[str, float] = {}
    for line in lines:
        for field, value in line.items():
            if field.startswith("seconds/"):
                stage = field.removeprefix("seconds/")
                seconds[stage] = round(seconds.get(stage, 0.0) + value, 3)
    return {"curves": {name: points for name, points in curves.items() if points}, "seconds": seconds}
