"""What `fmbseg_jax.evaluate` wrote into RUNs."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fmbseg_jax.reporting.readings import HEAD, ORACLE, Reading, by_reading
from labelgen.core.errors import UserError
from labelgen.core.files import read_json


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


def of_model(result: dict[str, Any]) -> dict[Reading, dict[str, Any]]:
    """Reading -> scores of one eval/SPLIT.json; of a RUN on truth the oracle's alone: dense CLIP knows no training."""
    readings = by_reading(result["readings"])
    if result["protocol"]["targets"] != "truth":
        return readings
    by_head = {reading: scores for reading, scores in readings.items() if reading.model == HEAD.model}
    return {replace(reading, model=ORACLE.model): scores for reading, scores in by_head.items()}
