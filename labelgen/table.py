"""Scores as text, the same way wherever they are printed."""

from collections.abc import Mapping
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
