"""What `fmbseg_jax.evaluate` wrote into RUNs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from labelgen.core.errors import UserError
from labelgen.core.files import read_json

PRESENT = ", present classes"


def evaluations(runs: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Split -> what each RUN's eval/SPLIT.json says. UserError for a RUN that was not evaluated."""
    by_split: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        paths = sorted(Path(run, "eval").glob("*.json"))
        if not paths:
            raise UserError(f"{run}/eval: no figures there; run fmbseg_jax.evaluate with --workdir={run}")
        for path in paths:
            by_split.setdefault(path.stem, []).append(read_json(path, "evaluate again"))
    return by_split
