"""Segmentation metrics from one confusion matrix: counts add up over photos, splits and hosts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def confusion(truth: NDArray[np.integer], prediction: NDArray[np.integer], classes: int) -> Counts:
    """Pixel counts int64 [C, C + 1]: rows truth, columns prediction, the last column for "no class predicted".

    truth: [H, W], values outside 0..C-1 are not counted; prediction: [H, W], values outside 0..C-1 are "none".
    """
    counted = (truth >= 0) & (truth < classes)
    named = prediction[counted].astype(np.int64)
    named = np.where((named >= 0) & (named < classes), named, classes)
    pairs = truth[counted].astype(np.int64) * (classes + 1) + named
    return np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


@dataclass(frozen=True)
class Scores:
    """All figures are shares in 0..1. A class that neither truth nor prediction has counts in no mean."""

    miou: float
    miou_in_truth: float
    pixel_accuracy: float
    frequency_weighted_iou: float
    coverage: float
    per_class: dict[str, float | None]
    groups: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """A dict for json, figures rounded to five digits."""
        rounded = {k: round(v, 5) for k, v in vars(self).items() if isinstance(v, float)}
        per_class = {k: None if v is None else round(v, 5) for k, v in self.per_class.items()}
        return rounded | {"per_class": per_class, "groups": {k: round(v, 5) for k, v in self.groups.items()}}


def scores(counts: Counts, names: Sequence[str], groups: Mapping[str, Sequence[str]] | None = None) -> Scores:
    """Scores of a confusion matrix [C, C + 1]; pixels without a predicted class count against their true class.

    groups: group name -> class names, e.g. stuff and things; their mIoU is the mean over their classes.
    """
    hit = np.diag(counts[:, :-1]).astype(np.float64)
    in_truth, predicted = counts.sum(1), counts[:, :-1].sum(0)
    union = in_truth + predicted - hit
    iou = np.divide(hit, union, out=np.full(len(names), np.nan), where=union > 0)
    total = max(1, int(in_truth.sum()))
    index = {name: i for i, name in enumerate(names)}
    return Scores(
        miou=_mean(iou),
        miou_in_truth=_mean(iou[in_truth > 0]),
        pixel_accuracy=float(hit.sum() / total),
        frequency_weighted_iou=float(np.nansum(iou * in_truth) / total),
        coverage=float(predicted.sum() / total),
        per_class={n: None if np.isnan(v) else float(v) for n, v in zip(names, iou, strict=True)},
        groups={g: _mean(iou[[index[m] for m in members]]) for g, members in (groups or {}).items()},
    )


def _mean(values: NDArray[np.float64]) -> float:
    finite = values[~np.isnan(values)]
    return float(finite.mean()) if len(finite) else float("nan")
