"""quality on two photos whose labels are known by hand: exact labels, a wrong one, and DATA without truth."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from labelgen import quality
from labelgen.core.command import command
from labelgen.core.files import write_json
from labelgen.data.dataset import Dataset
from labelgen.data.records import TruthRow
from tests.worlds.data import write_data, write_labels
from tests.worlds.labelling import NEUTRAL, ONTOLOGY, PROTOTYPES, evidence, truth

CONFIG = (
    "--config=configs/pocket.py",
    "--config.labels.variant=naclip",
    "--config.eval.groups.stuff=grass,",
    "--config.eval.groups.things=ball,box",
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two photos alike; the truth of the second has a box where the evidence says ball."""
    swapped = np.where(truth() == 1, 2, truth())
    rows = {
        "evidence": [[replace(evidence(), photo_id=name) for name in "ab"]],
        "truth": [[TruthRow(n, t.astype(np.uint8)) for n, t in zip("ab", (truth(), swapped), strict=True)]],
    }
    write_labels(tmp_path / "labels/default", ONTOLOGY, PROTOTYPES, NEUTRAL)
    return write_data(tmp_path, {"train": rows}, (8, 8), (4, 5), {})


def run(data: Path, *more: str) -> int:
    return command(quality.main, quality.arguments(), [*CONFIG, f"--data={data}", *more])


def test_figures_by_hand(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data) == 0
    report = json.loads((data / "labels/default/quality.json").read_text())["train"]
    merged = report["readings"]["merged, all pixels"]
    # ball: 256 px hit, 256 px said where a box is -> 1/2; box: never said -> 0; grass: exact
    assert merged["per_class"] == {"grass": 1.0, "ball": 0.5, "box": 0.0}
    assert merged["miou"] == pytest.approx(0.5)
    assert merged["per_class_boundary"]["box"] == 0 and 0 < merged["boundary_iou"] < 1
    assert report["presence"] == {"precision": 0.75, "recall": 0.75}
    # the second photo may not say ball, nothing speaks for the box: its 256 px become grass
    given = report["readings"]["true classes given"]["per_class"]
    assert given == {"grass": pytest.approx(5632 / 5888, abs=1e-5), "ball": 1.0, "box": 0.0}
    assert "next: python -m fmbseg_jax.train" in capsys.readouterr().out


def test_photos_without_truth_are_counted_and_a_mean_of_nothing_is_null(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = np.full_like(truth(), 255)
    rows = {
        "evidence": [[replace(evidence(), photo_id=name) for name in "ab"]],
        "truth": [[TruthRow(name, nothing.astype(np.uint8)) for name in "ab"]],
    }
    write_labels(tmp_path / "labels/default", ONTOLOGY, PROTOTYPES, NEUTRAL)
    data = write_data(tmp_path, {"train": rows}, (8, 8), (4, 5), {})
    assert run(data) == 0
    text = (data / "labels/default/quality.json").read_text()
    report = json.loads(text, parse_constant=pytest.fail)["train"]
    assert report["photos_without_truth"] == 2 and "true classes given" not in report["readings"]
    assert report["presence"] == {"precision": 0, "recall": None}
    merged = report["readings"]["merged, labelled pixels"]
    assert merged["miou"] is None and merged["groups"] == {"stuff": None, "things": None}
    printed = capsys.readouterr().out
    assert "2 photos have no pixel of truth in these classes: they count in nothing" in printed
    line = next(line for line in printed.splitlines() if line.startswith("  merged, labelled pixels"))
    assert line.split()[-5:] == ["-"] * 5 and "nan" not in printed


def test_limit_reads_the_first_photos(data: Path) -> None:
    assert run(data, "--limit=1") == 0
    report = json.loads((data / "labels/default/quality.json").read_text())["train"]
    assert report["readings"]["merged"]["miou"] == 1.0 and report["presence"]["precision"] == 1.0


def test_without_truth_says_what_to_do(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = Dataset.open(data).info
    info["splits"]["train"]["truth"] = False
    write_json(data / "dataset.json", info)
    assert run(data) == 2
    assert "no truth for the labelled splits train" in capsys.readouterr().err


def test_a_group_with_a_class_that_the_words_lack_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data, "--config.eval.groups.stuff=sky,grass") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: eval.groups.stuff: sky: not among the words (grass, ball, box); ")
    assert line.endswith("--config.eval.groups.stuff=grass")
    assert run(data, "--config.eval.groups.stuff=grass") == 0
