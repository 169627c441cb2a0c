"""Our figures on a published data set beside those of others, from RUNs that were evaluated and docs/peers.md.

    python -m tools.beside build/voc/run-voc21-0 build/voc/run-voc21-1 build/voc/run-voc20-0

A table for each protocol: the rows of docs/peers.md that have a figure, then dense CLIP and the head, mIoU in per cent,
mean ± standard deviation over RUNs that differ in their seed. Which column a RUN belongs to is the name of its labels.
"""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fmbseg_jax.reporting.readings import Reading
from labelgen.core.command import command, parser
from labelgen.core.errors import UserError
from labelgen.core.files import read_json

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "docs/peers.md"
COLUMNS = {
    "voc21": "VOC21", "voc20": "VOC20", "context60": "Context60", "context59": "Context59", "ade20k": "ADE20K",
    "coco_object": "COCO-Object", "coco_stuff": "COCO-Stuff", "cityscapes": "Cityscapes",
}  # fmt: skip
"""labels.name of our configs -> column of docs/peers.md."""
Rows = list[tuple[str, str]]


def main(args: argparse.Namespace) -> int:
    """Print the table of every protocol."""
    columns = ours(args.runs)
    peers = PEERS.read_text(encoding="utf-8")
    text = "\n\n".join(table(column, published(peers, column), rows) for column, rows in columns.items())
    print(text)
    if args.out:
        Path(args.out).write_text(text + "\n", encoding="utf-8")
        print(f"\nwrote {args.out}")
    return 0


def published(page: str, column: str) -> Rows:
    """(method, figure) of the first table of docs/peers.md that has this column, with the bold row above it."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    start = next((i for i, cells in enumerate(lines) if cells[0] == "method" and column in cells), None)
    if start is None:
        raise UserError(f"{PEERS}: has no column {column!r} of published figures")
    place, source, rows, group = lines[start].index(column), lines[start].index("source"), [], ""
    for cells in lines[start + 2 :]:
        if len(cells) != len(lines[start]):
            break
        if cells[0].startswith("**"):
            group = cells[0].strip("*")
        elif cells[place]:
            rows.append((f"{cells[0]}; {group} [{cells[source]}]", cells[place]))
    return rows


def ours(runs: Iterable[str]) -> dict[str, Rows]:
    """Column -> (reading, mIoU in per cent) of the RUNs' validation splits. UserError for a RUN without figures."""
    scores: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        paths = sorted(Path(run, "eval").glob("*.json"))
        if not paths:
            raise UserError(f"{run}/eval: no figures there; run fmbseg_jax.evaluate with --workdir={run}")
        for path in paths:
            result: dict[str, Any] = read_json(path, "evaluate again")
            labels = result["protocol"]["labels"]
            if labels not in COLUMNS:
                raise UserError(
                    f"{path}: labels {labels!r} are of no published protocol; those are {', '.join(COLUMNS)}"
                )
            readings = scores.setdefault(COLUMNS[labels], {})
            for name, reading in result["readings"].items():
                if not Reading.parse(name).present:
                    readings.setdefault(name, []).append(100 * reading["miou"])
    return {column: [(name, cell(values)) for name, values in rows.items()] for column, rows in scores.items()}


def cell(values: list[float]) -> str:
    """`62.1`, or `62.1 ± .3` where there are several that differ."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return f"{np.mean(values):.1f}" + (f" ± {spread:.1f}" if spread else "")


def table(column: str, peers: Rows, rows: Rows) -> str:
    """Markdown of one protocol, ours last."""
    lines = [f"| {column}: method | mIoU, % |", "|---|---|"]
    lines += [f"| {name} | {figure} |" for name, figure in peers]
    return "\n".join([*lines, *(f"| **ours: {name}** | **{figure}** |" for name, figure in rows)])


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m tools.beside`."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("runs", nargs="+", metavar="RUN", help="folders that fmbseg_jax.evaluate has been run on")
    flags.add_argument("--out", metavar="FILE", help="also write the tables there")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
