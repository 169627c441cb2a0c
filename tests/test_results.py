"""The table of several RUNs: mean and spread by hand, the oracle apart, ratios."""

import json
from pathlib import Path
from typing import Any

import pytest

from labelgen.config import command
from tools import results


def scores(miou: float, things: float = 0.25) -> dict[str, Any]:
    return {"miou": miou, "pixel_accuracy": 0.75, "coverage": 0.875, "groups": {"things": things}}


def write_run(folder: Path, head: float, targets: str = "labels") -> str:
    readings = {
        "dense CLIP, a": scores(0.25),
        "dense CLIP, a, present classes": scores(0.375),
        "dense CLIP, b": scores(0.3),
        "dense CLIP, b, present classes": scores(0.35),
        "head": scores(head),
        "head, refined": scores(head + 0.05, things=0.5),
    }
    asked = {"photos": 9, "use": "unseen photos", "classes": 3, "words": "as trained"}
    (folder / "eval").mkdir(parents=True)
    content = {"readings": readings, "protocol": {**asked, "targets": targets, "labels": "mine"}}
    (folder / "eval/val.json").write_text(json.dumps(content))
    return str(folder)


def write_quality(data: Path) -> None:
    readings = {name: scores(0.5) for name in (*results.LABELS, "merged")}
    readings["merged, labelled pixels"] = scores(0.625)
    (data / "labels/mine").mkdir(parents=True)
    presence = {"precision": 0.5, "recall": 0.75}
    (data / "labels/mine/quality.json").write_text(json.dumps({"train": {"readings": readings, "presence": presence}}))


@pytest.fixture
def table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    write_quality(tmp_path / "data")
    runs = [write_run(tmp_path / f"run{i}", head) for i, head in enumerate((0.4, 0.5, 0.6))]
    runs += [write_run(tmp_path / f"oracle{i}", head, "truth") for i, head in enumerate((0.6, 0.65))]
    out = tmp_path / "table.md"
    arguments = [*runs, f"--data={tmp_path / 'data'}", f"--out={out}"]
    assert command(results.main, results.arguments(), arguments) == 0
    assert capsys.readouterr().out.startswith(out.read_text())
    return out.read_text().splitlines()


def test_seeds_become_mean_and_standard_deviation(table: list[str]) -> None:
    assert "| | mIoU | things | pixel acc. | coverage |" in table
    assert "| head | 0.500 ± 0.100 | 0.250 | 0.750 | 0.875 |" in table
    assert "| head, refined | 0.550 ± 0.100 | 0.500 | 0.750 | 0.875 |" in table
    assert "| dense CLIP, b | 0.300 | 0.250 | 0.750 | 0.875 |" in table


def test_runs_trained_on_truth_are_the_oracle(table: list[str]) -> None:
    assert "| oracle | 0.625 ± 0.035 | 0.250 | 0.750 | 0.875 |" in table


def test_ratios_compare_means(table: list[str]) -> None:
    ratios = "head / best dense CLIP 1.67, head / best dense CLIP within present classes 1.33, head / oracle 0.80"
    assert f"{ratios}, refined / head 1.100" in table


def test_free_labels_and_presence(table: list[str]) -> None:
    assert "merged / dense CLIP on labelled pixels 1.25, coverage 0.875" in " ".join(table)
    assert "presence: precision 0.500, recall 0.750" in " ".join(table)


def test_a_run_without_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(results.main, results.arguments(), [str(tmp_path), f"--data={tmp_path}"]) == 2
    assert "no figures there; run fmbseg_jax.evaluate" in capsys.readouterr().err
