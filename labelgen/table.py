"""Scores as text, the same way wherever they are printed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Lines of text: one a reading with its scores (metrics.Scores.to_json), those of groups beside mIoU."""
    groups = list(next(iter(rows.values()), {}).get("groups", {}))
    width = max([len(title), *(len(name) + 2 for name in rows)])
    lines = [f"{title:{width}s}   mIoU" + "".join(f"{group:>9s}" for group in groups) + "  pixel acc.  coverage"]
    for name, row in rows.items():
        means = "".join(f"{row['groups'][group]:9.3f}" for group in groups)
        accuracy, coverage = row["pixel_accuracy"], row["coverage"]
        lines.append(f"{'  ' + name:{width}s}  {row['miou']:.3f}{means}{accuracy:12.3f}{coverage:10.3f}")
    return "\n".join(lines)


def columns(heads: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Lines of text under their heads, two spaces apart; the columns named in `right` end at the right."""
    lines = [list(heads), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = [">" if head in right else "<" for head in heads]
    cells = ([f"{c:{side}{width}}" for c, side, width in zip(line, sides, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in cells)
