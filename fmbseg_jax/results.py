"""The figures of one or several RUNs as one markdown table: dense CLIP, free labels, head, refined, oracle.

    python -m fmbseg_jax.results --data=DATA RUN-0 RUN-1 RUN-2 ORACLE-0 ORACLE-1 ORACLE-2

Reads what `labelgen.quality` wrote into DATA/labels/NAME/quality.json and `fmbseg_jax.evaluate` into RUN/eval/*.json.
RUNs that differ only in their seed become one row, mean ± standard deviation; RUNs trained on truth are the oracle.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fmbseg_jax.reporting.readings import HEAD, ORACLE, Reading, ratios
from fmbseg_jax.reporting.run_figures import evaluations, of_model
from labelgen.core.command import command, parser
from labelgen.core.files import read_json

Row = dict[str, list[float]]
FIGURES = ("miou", "boundary_iou", "pixel_accuracy", "coverage")
LABELS = ("dense CLIP, labelled pixels", "stage 1.1", "stage 1.2", "merged, all pixels", "merged, labelled pixels")


def main(args: argparse.Namespace) -> int:
    """Print the table of every split."""
    by_split = evaluations(args.runs)
    parts = [split_table(split, results) for split, results in by_split.items()]
    protocol = next(iter(by_split.values()))[0]["protocol"]
    parts.append(labels_table(Path(args.data) / "labels" / protocol["labels"] / "quality.json"))
    text = "\n\n".join(parts)
    print(text)
    if args.out:
        Path(args.out).write_text(text + "\n")
        print(f"\nwrote {args.out}")
    return 0


def split_table(split: str, results: list[dict[str, Any]]) -> str:
    """Markdown of one split: readings down, figures across, then the ratios of mIoU."""
    rows: dict[Reading, Row] = {}
    for result in results:
        for reading, scores in of_model(result).items():
            _add(rows.setdefault(reading, {}), scores)
    protocol = results[0]["protocol"]
    asked = f"{protocol['classes']} classes, words {protocol['words']}"
    title = f"**{split}**: {protocol['photos']} {protocol['use']}, {asked}"
    titled = {reading.title: row for reading, row in rows.items()}
    return f"{title}\n\n{markdown(titled)}\n\n{comparison(rows)}"


def labels_table(path: Path) -> str:
    """Markdown of the free labels of each split that `quality` looked at, presence below."""
    parts = []
    for split, scores in read_json(path, "run labelgen.quality first").items():
        rows: dict[str, Row] = {}
        for name in filter(scores["readings"].__contains__, LABELS):
            _add(rows.setdefault(name, {}), scores["readings"][name])
        presence = {name: cell([_number(scores["presence"][name])]) for name in ("precision", "recall")}
        merged, dense = (mean(rows[f"{name}, labelled pixels"]["miou"]) for name in ("merged", "dense CLIP"))
        parts.append(
            f"**free labels of {split}**\n\n{markdown(rows)}\n\n"
            f"merged / dense CLIP on labelled pixels {f'{merged / dense:.2f}' if dense else '–'}, "
            f"coverage {cell([_number(scores['readings']['merged']['coverage'])])}; "
            f"presence: precision {presence['precision']}, recall {presence['recall']}"
        )
    return "\n\n".join(parts)


def _add(row: Row, scores: Mapping[str, Any]) -> None:
    for name, value in [*((name, scores[name]) for name in FIGURES if name in scores), *scores["groups"].items()]:
        row.setdefault(name, []).append(_number(value))


def _number(figure: float | None) -> float:
    return math.nan if figure is None else figure


def markdown(rows: dict[str, Row]) -> str:
    """Readings down, figures across."""
    columns = [name for name in next(iter(rows.values())) if name not in FIGURES]
    figures = [name for name in FIGURES if all(name in row for row in rows.values())]  # old files know no boundary
    columns = [figures[0], *columns, *figures[1:]]
    heads = {"miou": "mIoU", "boundary_iou": "boundary IoU", "pixel_accuracy": "pixel acc."}
    lines = ["| | " + " | ".join(heads.get(column, column) for column in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(cell(row[column]) for column in columns) + " |")
    return "\n".join(lines)


def cell(values: list[float]) -> str:
    """`.503`, or `.503 ± .004` where there are several that differ; `–` of nothing."""
    if math.isnan(mean(values)):
        return "–"
    text = f"{mean(values):.3f}"
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return f"{text} ± {spread:.3f}" if spread else text


def comparison(rows: Mapping[Reading, Row]) -> str:
    """How the head compares with dense CLIP, the oracle and its refined self, by mean mIoU."""
    means = {reading: mean(row["miou"]) for reading, row in rows.items()}
    miou = {reading: value for reading, value in means.items() if not math.isnan(value)}
    if HEAD not in miou:
        return ""
    quotients = ratios(miou)
    refined = quotients.pop("refined / head", None)
    if miou.get(ORACLE):
        quotients["head / oracle"] = miou[HEAD] / miou[ORACLE]
    parts = [f"{name} {value:.2f}" for name, value in quotients.items()]
    return ", ".join(parts + ([] if refined is None else [f"refined / head {refined:.3f}"]))


def mean(values: list[float]) -> float:
    """The arithmetic mean."""
    return float(np.mean(values))


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m fmbseg_jax.results`."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("runs", nargs="+", metavar="RUN", help="folders that fmbseg_jax.evaluate has been run on")
    flags.add_argument("--data", required=True, metavar="DATA", help="folder that labelgen.quality has been run on")
    flags.add_argument("--out", metavar="FILE", help="also write the table there")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
