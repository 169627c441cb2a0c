"""Verdicts in words, by rule, from the figures; and the rows that they come from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

HOLDS, PART, NOT, UNDECIDED = "holds", "holds in part", "does not hold here", "undecided"
NOT_TRIED = "not tried"
RULE = (
    "Each claim is a few comparisons, two figures side by side of each seed. A comparison says *yes* when the "
    "difference is above its margin with every seed, *no* when it is with none, and *changes* otherwise. A claim is "
    "**undecided** when any of its comparisons changes with the seed; else it **holds** when all say yes, **does not "
    "hold here** when all say no, and **holds in part** otherwise."
)
SHIPPED, LABELS = "the shipped config", "the shipped config's labels"
"""What rows are chosen by where nothing was chosen for them; a config's CHOSEN_BY says more."""
DENSE = "nothing tuned; the variant best on these very photos"


@dataclass(frozen=True)
class Row:
    """One line of a claim's table: figure -> a value a seed."""

    name: str
    figures: dict[str, list[float]]
    chosen_by: str = SHIPPED
    """Which photos, or what else, the row's hyper-parameters were chosen by."""


@dataclass(frozen=True)
class Comparison:
    """`said` is true with a seed where `above` exceeds `below` by more than `margin`."""

    said: str
    above: Sequence[float]
    below: Sequence[float]
    margin: float = 0.0

    @property
    def differences(self) -> list[float]:
        """above - below, seed by seed."""
        return [a - b for a, b in zip(self.above, self.below, strict=True)]

    @property
    def answer(self) -> str:
        """yes, no, or changes (with the seed)."""
        true = [difference > self.margin for difference in self.differences]
        return "yes" if all(true) else "changes" if any(true) else "no"

    def to_json(self) -> dict[str, Any]:
        """What claims.json keeps."""
        differences = [round(float(d), 5) for d in self.differences]
        return {"said": self.said, "answer": self.answer, "differences": differences, "margin": self.margin}


def verdict(comparisons: Sequence[Comparison]) -> str:
    """RULE."""
    answers = [comparison.answer for comparison in comparisons]
    if not answers:
        return NOT_TRIED
    if "changes" in answers:
        return UNDECIDED
    return HOLDS if set(answers) == {"yes"} else NOT if set(answers) == {"no"} else PART


@dataclass(frozen=True)
class Plot:
    """Lines over x; series: name -> a list a seed of y, or one list. Written as plots/NAME.svg."""

    name: str
    x_name: str
    y_name: str
    x: list[float]
    series: dict[str, list[list[float]]]
    log_x: bool = False


@dataclass(frozen=True)
class Claim:
    """A claim's answer; what claims.json and the page are made of."""

    sentence: str
    ran: str
    rows: list[Row]
    comparisons: list[Comparison]
    notes: list[str] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    """Files of OUT/plots."""

    def to_json(self, chosen_by: Mapping[str, str] | None = None) -> dict[str, Any]:
        """JSON-able, figures to five digits. chosen_by: what is said in place of SHIPPED and LABELS."""
        said = chosen_by or {}
        rows = [
            asdict(row) | {"figures": _rounded(row.figures), "chosen_by": said.get(row.chosen_by, row.chosen_by)}
            for row in self.rows
        ]
        plots = [asdict(plot) | {"series": {k: _rounded_all(v) for k, v in plot.series.items()}} for plot in self.plots]
        return {
            "sentence": self.sentence,
            "ran": self.ran,
            "rows": rows,
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            "verdict": verdict(self.comparisons),
            "notes": self.notes,
            "plots": plots,
            "pictures": self.pictures,
        }


def _rounded(figures: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {name: [round(float(v), 5) for v in values] for name, values in figures.items()}


def _rounded_all(lists: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[round(float(v), 5) for v in values] for values in lists]


def cell(values: Sequence[float]) -> str:
    """`.503`, or `.503 ± .004` where there are several that differ; whole numbers from 10 on; – for none."""
    finite = np.array([v for v in values if v is not None and np.isfinite(v)])
    if not len(finite):
        return "–"
    said = number(float(finite.mean()))
    spread = float(finite.std(ddof=1)) if len(finite) > 1 else 0.0
    return f"{said} ± {number(spread)}" if spread > 1e-9 else said


def number(value: float) -> str:
    """Three digits below 1, as `.503`; two decimals below 100; whole above."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 1:
        return f"{value:.3f}".rstrip("0").rstrip(".") if value < 10 else f"{value:.1f}".removesuffix(".0")
    return f"{value:.3f}".replace("0.", ".", 1)
