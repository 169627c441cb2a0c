"""The steps of every shipped config, by the compilers of the slices that people rent."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pods import BLOCK, CASES
from fmbseg_jax.rehearsal.findings import SMALL
from fmbseg_jax.rehearsal.programs import FED, RESIDENT
from tests.worlds.compilers import COMPILERS, compiled
from tests.worlds.paths import ROOT

SHIPPED = tuple(case for case in CASES if case != BLOCK)
FORMS = ("voc", "cityscapes", "camvid", "pocket")
"""Those that differ in more than the number of words and photos: a TPU's compiler takes most of a minute for each."""


def test_every_shipped_config_is_among_them() -> None:
    shipped = {path.stem for path in Path(ROOT, "configs").glob("*.py")} - {"default", "__init__"}
    assert set(SHIPPED) == shipped


@COMPILERS
@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "cases", "most_kernels"),
    [("h100:8", SHIPPED, 40), ("v5e:2x2", FORMS, 80), ("v5e:16x16", ("voc", "pocket"), 80)],
)
def test_a_step_exchanges_float32_once_and_reuses_its_state(
    topology: str, cases: tuple[str, ...], most_kernels: int
) -> None:
    done = compiled("tests.worlds.shipped_steps", topology, topology, ",".join(cases))
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["case"] for row in rows} == set(cases)
    for row in rows:
        told = f"{topology} {row}"
        exchanged = {kind for _, sizes, _ in row["collectives"] for kind in sizes}
        assert exchanged <= {"f32", "s32"}, told
        assert large(row) in allowed(row), told
        width, text = CASES[row["case"]].widths
        sums = sum(sizes.get("f32", 0) for kind, sizes, _ in row["collectives"] if kind == "all-reduce")
        if row["loss"] == "prototype_ce":
            assert 0 <= sums - 4 * (width * text + text) <= 64, told
        assert row["host_calls"] == [] and row["reused_arguments"] == 9, told
        assert 5 < row["kernels"] <= most_kernels, told
    for one, other in pairwise(rows):
        if (one["case"], one["program"], other["program"]) == (other["case"], FED, RESIDENT):
            assert large(one) == large(other)
            assert other["temp_bytes"] <= 1.25 * one["temp_bytes"], "a step copies nothing of the split"


def large(row: dict[str, Any]) -> list[str]:
    """The exchanges that are no sums of a few numbers."""
    return sorted(
        kind for kind, sizes, times in row["collectives"] for _ in range(times) if sum(sizes.values()) > SMALL
    )


def allowed(row: dict[str, Any]) -> list[list[str]]:
    """The gradient's sum, and T-SupCon's samples there and back: as the compiler sends them."""
    if row["loss"] == "prototype_ce":
        return [["all-reduce"]]
    return [["all-gather", "all-reduce", "reduce-scatter"], ["all-gather", "all-reduce"], ["all-reduce"] * 3]
