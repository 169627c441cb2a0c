"""Labels against truth: the truth in the words' classes, and segmentation metrics from one confusion matrix.

DATA keeps truth in the classes of its source, each list of words has its own. Classes are matched by name, so one DATA
serves VOC with background and without. Counts add up over photos, splits and hosts. Read by quality, evaluate and the
oracle alone.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.core.ontology import ignore_value
from labelgen.data.dataset import Dataset
from labelgen.data.records import TruthRow
from labelgen.labels.boundaries import boundary_ious

Counts = NDArray[np.int64]
IGNORE, REST = "ignore", "*"


class TruthMap(NamedTuple):
    """The truth of one photo: label_map int64 [H, W], class of the words or -1 where nothing is to be compared."""

    photo_id: str
    label_map: NDArray[np.int64]


class TruthReader:
    """The truth of a split in the classes `names`: len() and [i] -> TruthMap. truth/ is opened here."""

    def __init__(self, data: Dataset, split: str, names: Sequence[str], rules: Mapping[str, str]) -> None:
        """rules: eval.truth. UserError when the split has no truth, or a class of it has no place in `names`."""
        self._rows = data.reader("truth", split)
        classes = data.truth_classes(split)
        self.by_number = classes is None
        """Whether DATA is from before it kept the names of its truth's classes: they are taken for those of `names`."""
        self._lookup = lookup(names if classes is None else classes, names, rules)
        self.beyond: dict[int, int] = {}
        """Row -> pixels of it that were left out, by_number, as their class is beyond `names`; of the rows read."""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> TruthMap:
        """UserError for a class that DATA does not name."""
        known = TruthRow.decode(self._rows[row])
        annotated = known.label_map != ignore_value(known.label_map)
        label_map = np.where(annotated, known.label_map.astype(np.int64), -1)
        beyond = label_map >= len(self._lookup) - 1
        if beyond.any():
            if not self.by_number:
                raise UserError(
                    f"truth of {known.photo_id}: has class {label_map.max()}, but DATA names {len(self._lookup) - 1}; "
                    "encode into a new DATA"
                )
            self.beyond[row] = int(beyond.sum())
        return TruthMap(known.photo_id, self._lookup[np.where(beyond, -1, label_map)])

    def said(self, beyond: int | None = None) -> str:
        """What is to be said of classes that were matched by number; "" where they have names.

        beyond: pixels left out, over all hosts; None: of the rows read here.
        """
        if not self.by_number:
            return ""
        count = sum(self.beyond.values()) if beyond is None else beyond
        left_out = f"; {count} pixels of classes beyond them left out" if count else ""
        return f"DATA is from before it kept the names of truth's classes: taken for lines of these words{left_out}"


def lookup(classes: Sequence[str], names: Sequence[str], rules: Mapping[str, str]) -> NDArray[np.int64]:
    """int64 [len(classes) + 1]: for each class of the source the index of its class in `names`, or -1; the last is -1.

    rules: class of the source -> class in `names` or "ignore"; "*" is for all that neither rules nor names have.
    UserError for a class that is nowhere, and for rules that name what is not there.
    """
    for source, target in rules.items():
        if source != REST and source not in classes:
            raise UserError(f"eval.truth has {source!r}; the truth's classes are {', '.join(classes)}")
        if target != IGNORE and target not in names:
            raise UserError(f"eval.truth.{source} = {target!r} is neither 'ignore' nor one of {', '.join(names)}")
    place = {name: i for i, name in enumerate(names)} | {IGNORE: -1}
    targets = [rules.get(name, name if name in place else rules.get(REST, "")) for name in classes]
    homeless = [name for name, target in zip(classes, targets, strict=True) if not target]
    if homeless:
        raise UserError(
            f"the truth has classes that the words lack: {', '.join(homeless)}; add them to the file of words, or say "
            "in the config's eval.truth what they count as: {class: another class, or 'ignore'; '*': all others}"
        )
    return np.array([*(place[target] for target in targets), -1])


def confusion(truth: NDArray[np.integer], prediction: NDArray[np.integer], classes: int) -> Counts:
    """Pixel counts int64 [C, C + 1]: rows truth, columns prediction, the last column for "no class predicted".

    truth: [H, W], values outside 0..C-1 are not counted; prediction: [H, W], values outside 0..C-1 are "none".
    """
    counted = (truth >= 0) & (truth < classes)
    named = prediction[counted].astype(np.int64)
    named = np.where((named >= 0) & (named < classes), named, classes)
    pairs = truth[counted].astype(np.int64) * (classes + 1) + named
    return np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def check_groups(names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> None:
    """UserError for a group of eval.groups with a class that is none of `names`: its mean would be of others."""
    for group, members in groups.items():
        missing = [name for name in members if name not in names]
        if missing:
            there = ",".join(name for name in members if name in names)
            raise UserError(
                f"eval.groups.{group}: {', '.join(missing)}: not among the words ({', '.join(names)}); fix them, or "
                f"take what is there: --config.eval.groups.{group}={shlex.quote(there) if there else ''}"
            )


@dataclass(frozen=True)
class Scores:
    """All figures are shares in 0..1. A class that neither truth nor prediction has counts in no mean; a mean
    and a share of nothing are NaN, in JSON null."""

    miou: float
    miou_in_truth: float
    pixel_accuracy: float
    frequency_weighted_iou: float
    coverage: float
    per_class: dict[str, float | None]
    groups: dict[str, float]
    boundary_iou: float = math.nan
    """Mean over the classes of labels.boundaries; NaN where it was not counted."""
    per_class_boundary: dict[str, float | None] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A dict for json, figures rounded to five digits."""
        means = {k: v for k, v in vars(self).items() if isinstance(v, float)}
        by_class = {k: _rounded(getattr(self, k)) for k in ("per_class", "per_class_boundary", "groups")}
        return _rounded(means) | by_class


def _rounded(figures: Mapping[str, float | None]) -> dict[str, Any]:
    return {k: None if v is None or math.isnan(v) else round(v, 5) for k, v in figures.items()}


def scores(
    counts: Counts,
    names: Sequence[str],
    groups: Mapping[str, Sequence[str]] | None = None,
    bands: Counts | None = None,
) -> Scores:
    """Scores of a confusion matrix [C, C + 1]; pixels without a predicted class count against their true class.

    groups: group name -> class names, e.g. stuff and things; their mIoU is the mean over their classes; bands: int64
    [3, C] of labels.boundaries, for boundary IoU.
    """
    edges = np.full(len(names), np.nan) if bands is None else boundary_ious(bands)
    hit = np.diag(counts[:, :-1]).astype(np.float64)
    in_truth, predicted = counts.sum(1), counts[:, :-1].sum(0)
    union = in_truth + predicted - hit
    iou = np.divide(hit, union, out=np.full(len(names), np.nan), where=union > 0)
    total = int(in_truth.sum()) or math.nan  # of no pixel every share is NaN
    index = {name: i for i, name in enumerate(names)}
    return Scores(
        miou=_mean(iou),
        miou_in_truth=_mean(iou[in_truth > 0]),
        pixel_accuracy=float(hit.sum() / total),
        frequency_weighted_iou=float(np.nansum(iou * in_truth) / total),
        coverage=float(predicted.sum() / total),
        per_class=_named(names, iou),
        groups={g: _mean(iou[[index[m] for m in members]]) for g, members in (groups or {}).items()},
        boundary_iou=_mean(edges),
        per_class_boundary={} if bands is None else _named(names, edges),
    )


def _named(names: Sequence[str], ious: NDArray[np.float64]) -> dict[str, float | None]:
    return {name: None if np.isnan(iou) else float(iou) for name, iou in zip(names, ious, strict=True)}


def _mean(values: NDArray[np.float64]) -> float:
    finite = values[~np.isnan(values)]
    return float(finite.mean()) if len(finite) else float("nan")
