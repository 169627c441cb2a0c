"""Claims: verdicts by rule, resuming, the page, and what all claims share; test_claim_figures.py has their sums."""

import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import setting
from experiments import catalogue, claims, material, runs
from experiments.bench import Bench, open_bench, word_lines
from experiments.page import page
from experiments.plots import bounds, lines
from experiments.verdict import Claim, Comparison, Plot, Row, cell, verdict
from fmbseg_jax.reporting.readings import HEAD
from labelgen.core.command import command
from labelgen.core.files import write_json
from labelgen.data.records import LabelRow
from labelgen.labels.free_labels import patch_targets
from labelgen.labels.scores import TruthReader
from tests.worlds import tiny
from tests.worlds.data import write_family, write_labels
from tests.worlds.labelling import ONTOLOGY, PROTOTYPES
from tests.worlds.paths import ROOT
from tests.worlds.training import SMALL

FIELDS = ["eval.splits=eval", *(f"{name}={value}" for name, value in SMALL.items()), "train.steps=10"]


def asked(*differences: float, margin: float = 0.0) -> Comparison:
    return Comparison("said", list(differences), [0.0] * len(differences), margin)


def test_a_comparison_says_yes_no_or_that_it_changes_with_the_seed() -> None:
    assert [asked(*d).answer for d in ((0.1, 0.2), (-0.1, 0.0), (0.1, -0.1))] == ["yes", "no", "changes"]
    assert asked(-0.004, 0.1, margin=-0.005).answer == "yes"
    assert asked(0.02, margin=0.05).answer == "no"


def test_verdicts_follow_from_the_comparisons() -> None:
    yes, no, changes = asked(1), asked(-1), asked(1, -1)
    assert verdict([yes, yes]) == "holds"
    assert verdict([yes, no]) == "holds in part"
    assert verdict([no, no]) == "does not hold here"
    assert verdict([yes, no, changes]) == "undecided"
    assert verdict([]) == "not tried"


def test_figures_are_shown_with_their_spread_over_seeds() -> None:
    assert cell([0.5, 0.5, 0.5]) == ".500"
    assert cell([0.4, 0.5, 0.6]) == ".500 ± .100"
    assert (
        cell([1234.0]) == "1,234" and cell([2.5]) == "2.5" and cell([float("nan")]) == "–" and cell([-0.25]) == "-.250"
    )


PLOT = Plot("curve", "photos", "mIoU", [4.0, 8.0, 16.0], {"a & b": [[0.1, 0.2, 0.4], [0.1, 0.4, 0.6]]}, True)


def test_a_plot_is_an_svg_whose_mean_stands_where_it_belongs() -> None:
    svg = lines(Claim("s", "r", [], [], plots=[PLOT]).to_json()["plots"][0])
    space = "{http://www.w3.org/2000/svg}"
    root = ElementTree.fromstring(svg)
    line = next(iter(root.iter(f"{space}polyline"))).attrib["points"]
    (x0, y0), (x1, y1), (x2, y2) = [tuple(map(float, point.split(","))) for point in line.split()]
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2), "logarithmic"
    assert (y0 - y1) / (y1 - y2) == pytest.approx((0.3 - 0.1) / (0.5 - 0.3), abs=0.02)
    assert "a & b" in [text.text for text in root.iter(f"{space}text")]
    assert bounds([0.62, 0.76]) == (pytest.approx(0.6), pytest.approx(0.8))


def some(value: float, runs_made: list[str] | None = None, name: str = "") -> Any:
    def run(bench: Bench) -> Claim:
        if runs_made is not None:
            runs_made.append(name)
        row = Row("ours", {"mIoU": [value] * bench.seeds, "recall": [0.25] * bench.seeds})
        return Claim("A sentence.", "What ran.", [row], [asked(*[value - 0.5] * bench.seeds)], ["noted"], [PLOT])

    return run


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny's DATA with free labels of train that say its truth."""
    data = tiny.write_data(tmp_path_factory.mktemp("data"))
    folder = data / "labels/default"
    rows = []
    for photo in range(2):
        label_map = tiny.truth(photo).label_map
        known = np.where(label_map == 255, -1, label_map.astype(int))
        patches = patch_targets(known, tiny.grid_of(photo), tiny.GRID)
        there = np.unique(tiny.classes_of(photo)).astype(np.int32)
        sure = np.full(label_map.shape, 255, np.uint8)
        rows.append(LabelRow(f"p{photo}", there, np.ones(len(there), np.float32), label_map, sure, *patches))
    write_family(folder, "train", [rows])
    write_labels(folder, ONTOLOGY, PROTOTYPES, digest="d")
    return data


def tried(world: Path, out: Path, *more: str) -> int:
    fields = [f"--config.{field}" for field in FIELDS]
    arguments = [
        f"--config={ROOT / 'configs/default.py'}",
        f"--data={world}",
        f"--out={out}",
        "--seeds=2",
        *fields,
        *more,
    ]
    return command(claims.main, claims.arguments(), arguments)


def test_a_run_that_was_killed_goes_on_and_skips_what_is_done(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []

    def killed(bench: Bench) -> Claim:
        made.append("second")
        raise KeyboardInterrupt

    entries = {
        "first": catalogue.Entry("1. First", some(0.75, made, "first")),
        "second": catalogue.Entry("2. Second", killed),
    }
    monkeypatch.setattr(catalogue, "CLAIMS", entries)
    assert tried(world, tmp_path) == 130
    entries["second"] = catalogue.Entry("2. Second", some(0.25, made, "second"))
    assert tried(world, tmp_path) == 0
    assert made == ["first", "second", "second"]
    assert "done before: first" in capsys.readouterr().out
    kept = json.loads((tmp_path / "claims.json").read_text())["claims"]
    assert {name: claim["verdict"] for name, claim in kept.items()} == {
        "first": "holds",
        "second": "does not hold here",
    }
    assert (tmp_path / "plots/curve.svg").exists()
    assert tried(world, tmp_path, "--config.train.temperature=.2") == 2, "its runs are not those of another config"
    assert "made with train.temperature = 0.04, but now it is 0.2; take another --out" in capsys.readouterr().err
    assert tried(world, tmp_path, "--config.train.log_every=7") == 0 and made[3:] == ["first", "second"]


def test_the_page_has_exactly_the_figures_of_the_json(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "CLAIMS", {"first": catalogue.Entry("1. First", some(0.75))})
    assert tried(world, tmp_path, f"--page={tmp_path}/docs.md") == 0
    text = (tmp_path / "docs.md").read_text()
    assert "| ours | .750 | .250 | the shipped config |" in text
    assert "- yes: said (differences by seed: +0.250, +0.250)" in text
    assert "(docs/curve.svg)" in text and (tmp_path / "docs/curve.svg").exists() and "- noted" in text
    assert "Verdict: **holds**." in text and "> A sentence." in text


def test_claims_of_several_commits_name_each_its_own(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = {"first": catalogue.Entry("1. First", some(0.75)), "second": catalogue.Entry("2. Second", some(0.25))}
    monkeypatch.setattr(catalogue, "CLAIMS", entries)
    here = {"date": "today", "cores": 2, "processor": "p", "load": 0.0}
    for name, commit in (("first", "aaa1"), ("second", "bbb2")):
        monkeypatch.setattr(setting, "where", lambda commit=commit: here | {"commit": commit})
        assert tried(world, tmp_path, f"--only={name}") == 0
        one = (tmp_path / "claims.md").read_text()
        assert (f"today, commit {commit}, 2 cores" in one) == (name == "first")
    assert "today, 2 commits, which each claim names, 2 cores" in one
    assert one.index("Tried at commit aaa1.") < one.index("## 2. Second") < one.index("Tried at commit bbb2.")
    kept = tmp_path / "claims/first.json"
    write_json(kept, {name: its for name, its in json.loads(kept.read_text()).items() if name != "commit"})
    assert tried(world, tmp_path) == 0
    assert "Tried at commit unknown." in (tmp_path / "claims.md").read_text(), "not the one of whoever writes the page"


def test_an_unknown_claim_is_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tried(world, tmp_path, "--only=labels,magic") == 2
    assert "no claim 'magic'; there are labels, stages," in capsys.readouterr().err


def test_a_split_without_truth_is_refused(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Path(shutil.copytree(world, tmp_path / "data"))
    info = json.loads((data / "dataset.json").read_text())
    info["splits"]["eval"]["truth"] = False
    (data / "dataset.json").write_text(json.dumps(info))
    assert tried(data, tmp_path / "out") == 2
    assert "claims need truth for eval.splits, which eval has not" in capsys.readouterr().err


def bench_of(world: Path, out: Path) -> Bench:
    out.mkdir(exist_ok=True)
    return open_bench(str(ROOT / "configs/default.py"), FIELDS, str(world), out, 1)


def test_data_is_linked_and_its_truth_goes_by_names(world: Path, tmp_path: Path) -> None:
    before = sorted((str(path), path.stat().st_mtime_ns) for path in world.rglob("*"))
    bench = bench_of(world, tmp_path / "out")
    assert bench.data.truth_classes("eval") == ONTOLOGY.names
    fewer = TruthReader(bench.data, "eval", ("thing", "grass"), {"ball": "thing", "box": "ignore"})
    whole = tiny.truth(0).label_map.astype(int)
    expected = np.select([whole == 0, whole == 1], [1, 0], -1)
    np.testing.assert_array_equal(fewer[0].label_map, expected)
    assert sorted((str(path), path.stat().st_mtime_ns) for path in world.rglob("*")) == before
    assert bench_of(world, tmp_path / "out").fingerprint == bench.fingerprint


def test_a_variant_is_trained_once_and_its_counts_are_kept(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_of(world, tmp_path / "out")
    run = runs.trained(bench, {"train.photos": 1, "train.holdout": 0.0}, 0)
    question = runs.shipped_question(bench)
    counts = runs.head_counts(bench, run, question)[HEAD]
    assert counts.sum() == sum(int((tiny.truth(p).label_map != 255).sum()) for p in range(5))
    monkeypatch.setattr(runs.train, "main", lambda args: pytest.fail("trained again"))
    monkeypatch.setattr(runs, "_head_counts", lambda *_: pytest.fail("evaluated again"))
    assert runs.trained(bench, {"train.photos": 1, "train.holdout": 0.0}, 0) == run
    np.testing.assert_array_equal(runs.head_counts(bench, run, question)[HEAD], counts)
    assert runs.run_folder(bench, {"train.photos": 2}, 0) != runs.run_folder(bench, {"train.photos": 1}, 0)


def test_dense_clip_is_counted_as_evaluation_does(world: Path, tmp_path: Path) -> None:
    bench = bench_of(world, tmp_path / "out")
    counts = runs.dense_counts(bench, runs.shipped_question(bench))
    assert set(counts) == {"maskclip", "naclip"}
    assert counts["maskclip"][:, 1:].sum() == 0, "all patches say grass"
    assert counts["naclip"][:, :2].sum() == 0, "all patches say box"
    other = {"one": np.array([[4, 4, 0], [0, 8, 0]]), "two": np.array([[8, 0, 0], [0, 8, 0]])}
    assert runs.best_dense(other) == ("two", 1.0)


def test_one_material_has_all_its_words_against_all_others(world: Path, tmp_path: Path) -> None:
    bench = bench_of(world, tmp_path / "out")
    assert material.words(bench) == {"grass": ["grass", "lawn"], "everything else": ["ball", "box"]}
    assert word_lines(ONTOLOGY)["grass"] == ["grass", "lawn"]
    assert material.iou(np.array([[6, 2, 0], [1, 1, 0]])) == pytest.approx(6 / 9)


def test_the_committed_page_is_that_of_the_committed_figures() -> None:
    kept = json.loads((ROOT / "docs/claims.json").read_text())
    text = (ROOT / "docs/claims.md").read_text()
    assert text == page(kept, "claims")
    linked = re.findall(r"\]\((claims/[^)]+)\)", text)
    assert linked and not [name for name in linked if not (ROOT / "docs" / name).exists()]
