"""The table of several RUNs: mean and spread by hand, the oracle apart, ratios."""

import json
from pathlib import Path

import pytest

from fmbseg_jax import results
from labelgen.core.command import command
from tests.worlds.results import write_quality, write_run


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


def test_boundary_iou_is_a_column_where_every_row_has_it(tmp_path: Path) -> None:
    rows = {"a": {"miou": [0.5], "boundary_iou": [0.25], "pixel_accuracy": [0.75], "coverage": [1.0]}}
    assert results.markdown(rows).splitlines()[0] == "| | mIoU | boundary IoU | pixel acc. | coverage |"
    assert results.markdown(rows).endswith("| a | 0.500 | 0.250 | 0.750 | 1.000 |")


def test_a_group_that_is_nowhere_is_a_dash(tmp_path: Path) -> None:
    write_quality(tmp_path / "data")
    run = write_run(tmp_path / "run", 0.4)
    for path in (Path(run) / "eval").glob("*.json"):
        fields = json.loads(path.read_text())
        for row in fields["readings"].values():
            row["groups"]["things"] = None
        path.write_text(json.dumps(fields))
    out = tmp_path / "table.md"
    assert command(results.main, results.arguments(), [run, f"--data={tmp_path / 'data'}", f"--out={out}"]) == 0
    assert "| head | 0.400 | – | 0.750 | 0.875 |" in out.read_text().splitlines()


def test_free_labels_and_presence(table: list[str]) -> None:
    assert "merged / dense CLIP on labelled pixels 1.25, coverage 0.875" in " ".join(table)
    assert "presence: precision 0.500, recall 0.750" in " ".join(table)


def test_a_run_without_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(results.main, results.arguments(), [str(tmp_path), f"--data={tmp_path}"]) == 2
    assert "no figures there; run fmbseg_jax.evaluate" in capsys.readouterr().err
