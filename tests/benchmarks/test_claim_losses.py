"""Claim 9: which rows there are for either loss, how the other loss is tuned, and what its note says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from experiments import losses
from experiments.bench import Bench
from experiments.verdict import Row
from labelgen.core.progress import StageTimes
from tests.worlds.paths import ROOT

SUPCON = ("train.loss=t_supcon", "train.supcon_prototype_weight=10", "train.supcon_samples=256")


def bench(out: Path, *overrides: str) -> Bench:
    return Bench(str(ROOT / "configs/default.py"), overrides, out, 2, StageTimes())


def test_each_row_changes_one_setting_and_none_repeats_the_shipped_one(tmp_path: Path) -> None:
    rows = dict(losses.one_change(bench(tmp_path, *SUPCON, "train.temperature=0.1")))
    assert all(len(fields) == 1 for fields in rows.values())
    assert rows["four times the contrast set"] == {"train.supcon_samples": 1024}
    assert rows["prototype weight 1, as described"] == {"train.supcon_prototype_weight": 1.0}
    assert "prototype weight 10" not in rows and "temperature 0.1" not in rows and "class balance 0.5" not in rows
    plain = dict(losses.one_change(bench(tmp_path, "train.temperature=0.1")))
    assert rows.keys() - plain.keys() == {
        "prototype weight 1, as described",
        "prototype weight 50",
        "four times the contrast set",
    }


def test_what_is_shipped_is_said_in_words(tmp_path: Path) -> None:
    assert losses.described(bench(tmp_path)) == "prototype CE, soft targets, temperature 0.04, linear"
    assert losses.described(bench(tmp_path, *SUPCON, "head.hidden=8")) == (
        "T-SupCon, prototype weight 10, temperature 0.04, MLP, 8 wide"
    )


def test_hard_targets_are_tried_where_the_loss_knows_soft_ones(tmp_path: Path) -> None:
    tuned = {"train.loss": "prototype_ce", "train.temperature": 0.2}
    of_supcon = losses.hard_targets(bench(tmp_path, *SUPCON), tuned, "prototype CE, tuned")
    assert of_supcon == [("prototype CE, tuned, hard targets", {**tuned, "train.soft_targets": False})]
    assert losses.hard_targets(bench(tmp_path), {}, "") == [("hard targets", {"train.soft_targets": False})]
    assert losses.hard_targets(bench(tmp_path, "train.soft_targets=false"), {}, "") == []


def test_the_other_loss_is_tuned_by_the_tuning_score_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Mapping[str, Any]] = []

    def score(_: Bench, fields: Mapping[str, Any]) -> float:
        asked.append(fields)
        right = {"train.supcon_prototype_weight": 10.0, "train.temperature": 0.2}
        return 0.5 + sum(0.1 for name, value in right.items() if fields.get(name) == value)

    monkeypatch.setattr(losses, "tuning_score", score)
    monkeypatch.setattr(losses, "tune_question", lambda _: None)
    best, said = losses.tune(bench(tmp_path), "t_supcon")
    assert best == {"train.loss": "t_supcon", "train.supcon_prototype_weight": 10.0, "train.temperature": 0.2}
    assert len(asked) == 3 + 3
    assert said.startswith("T-SupCon tuned by free labels held out: prototype weight 1 0.500; prototype weight 10 0.6")
    best, _ = losses.tune(bench(tmp_path), "prototype_ce")
    assert best == {"train.loss": "prototype_ce", "train.temperature": 0.2} and len(asked) == 6 + 3


def test_the_note_names_a_row_only_where_tune_is_above_the_noise_of_seeds() -> None:
    def row(name: str, tune: float, score: float) -> Row:
        return Row(name, {"mIoU": [score, score], "tune": [tune]})

    plain = row("shipped", 0.7, 0.6)
    assert losses.best_note(plain, [row("a", 0.701, 0.9), row("b", 0.65, 0.9)]) == (
        "By tune no row is above the shipped one by more than 0.002, so it stays: the next, a, differs by +0.001."
    )
    assert losses.best_note(plain, [row("a", 0.71, 0.5), row("b", 0.72, 0.65)]) == (
        "By tune these rows are above the shipped one by more than 0.002: b +0.020, a +0.010 "
        "(on eval +0.050 for the first)."
    )
