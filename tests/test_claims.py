"""Claims: verdicts by rule, the arithmetic of each against hand-made photos, resuming, and the page."""

import json
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tiny
from labelling import ONTOLOGY, PROTOTYPES, truth
from training import SMALL

from benchmarks import claims
from benchmarks.claim import catalogue, material, runs, stages, zero_shot
from benchmarks.claim.alignment import average_precision, mean_precision, patch_classes
from benchmarks.claim.bench import Bench, open_bench, word_lines
from benchmarks.claim.encoders import untrained
from benchmarks.claim.labels import presence_row
from benchmarks.claim.little_data import reached, sizes
from benchmarks.claim.page import page
from benchmarks.claim.plots import bounds, lines
from benchmarks.claim.verdict import Claim, Comparison, Plot, Row, cell, verdict
from labelgen.config import ROOT, command
from labelgen.dataset import shard_name, write_json
from labelgen.merge import patch_targets
from labelgen.ontology import parse_words
from labelgen.records import LabelRow
from labelgen.tfrecord import ShardWriter
from labelgen.truth import TruthReader

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


def test_average_precision_is_the_mean_precision_at_the_positives() -> None:
    scores, positive = np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])
    assert average_precision(scores, positive) == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(average_precision(scores, np.zeros(4, bool)))
    both = np.stack([scores, -scores], 1)
    # Patch 1 is not annotated: of class 0 are patches 0 and 2, which come first; patch 3 is first of class 1.
    assert mean_precision(both, np.array([0, -1, 0, 1])) == 1.0


def test_a_patch_has_the_class_of_half_of_it_or_none() -> None:
    label_map = np.zeros((4, 8), np.int64)
    label_map[:, 4:] = 1
    label_map[1:, 6:] = -1
    label_map[0, :2], label_map[1, :2] = 2, 3
    assert patch_classes(label_map, (1, 2)).tolist() == [[0, 1]]
    assert patch_classes(label_map, (2, 4)).tolist() == [
        [-1 if s < 128 else c for c, s in ((2, 127), (0, 255))] + [1, -1],
        [0, 0, 1, -1],
    ]


def test_objects_are_connected_parts_with_their_size_and_number() -> None:
    label_map = np.zeros((96, 128), np.int64)
    label_map[10:14, 10:18] = 1  # 32 of 12,288 px: below 1/300
    label_map[40:50, 40:60] = 1  # 200 px
    label_map[90, 100] = 1  # a pixel alone is more than 16 of 640 x 480 px: 16 / 25
    found = [(o.class_index, o.size, o.instances, int(o.mask.sum())) for o in stages.objects(label_map)]
    assert found == [(0, "large", 1, 96 * 128 - 233), (1, "small", 3, 32), (1, "medium", 3, 200), (1, "small", 3, 1)]
    assert [o.class_index for o in stages.objects(label_map, frozenset({0}))] == [1, 1, 1]
    large = np.zeros((480, 640), np.int64) - 1
    large[:3, :5] = 0  # 15 px
    assert list(stages.objects(large)) == []


def test_recall_and_iou_of_an_object() -> None:
    ball = next(o for o in stages.objects(truth()) if o.class_index == 1)
    found = np.full(truth().shape, -1, np.int64)
    found[8:24, 40:48] = 1  # half of it
    found[8:24, 36:40] = 1  # and 64 px beside it
    found[40:48, 0:8] = 1  # elsewhere
    assert stages.recall(found, ball) == 0.5
    assert stages.object_iou(found, ball) == pytest.approx(128 / (256 + 64))
    assert stages.object_iou(np.zeros_like(found), ball) == 0.0


def test_seen_unseen_and_their_harmonic_mean() -> None:
    counts = np.array([[8, 2, 0, 0], [0, 5, 5, 0], [0, 0, 10, 0]])
    found = zero_shot.by_seen(counts, [1])
    assert found["seen"] == pytest.approx((8 / 10 + 10 / 15) / 2)
    assert found["unseen"] == pytest.approx(5 / 12)
    assert found["harmonic mean"] == pytest.approx(2 / (1 / found["seen"] + 1 / found["unseen"]))
    assert zero_shot.harmonic(0.5, 0.0) == 0.0


def test_a_draw_leaves_out_one_class_in_four_and_never_the_background() -> None:
    words = parse_words(["background: sky", *"abcdefgh"], "w")
    draws = [zero_shot.drawn(words, seed) for seed in range(40)]
    assert {len(set(d)) for d in draws} == {2} and set(sum(draws, [])) == set(range(1, 9))
    assert zero_shot.drawn(words, 3) == draws[3]
    assert len(zero_shot.drawn(ONTOLOGY, 0)) == 1


def test_little_data_reaches_its_end_where_it_stays_there() -> None:
    assert sizes(300) == [4, 8, 16, 32, 64, 128, 256, 300] and sizes(3) == [3] and sizes(4) == [4]
    assert reached([4, 8, 16, 32], [0.96, 0.5, 0.97, 1.0]) == 16
    assert reached([4, 8], [0.1, 1.0]) == 8


def test_presence_counts_pairs_part_by_part() -> None:
    row = presence_row(np.array([[3, 4, 6], [0, 0, 2]]))
    assert row.figures == {"precision": [0.75, 0.0], "recall": [0.5, 0.0]}


def test_an_untrained_encoder_has_the_shapes_of_the_trained_one() -> None:
    known = {
        "w": np.full((40, 50), 7.0, np.float32),
        "n.bias": np.ones(3, np.float32),
        "n.weight": np.zeros(3, np.float32),
    }
    made = untrained(known)
    assert made["w"].shape == (40, 50) and made["w"].dtype == np.float32 and abs(made["w"].std() - 0.02) < 1e-3
    assert made["n.bias"].tolist() == [0, 0, 0] and made["n.weight"].tolist() == [1, 1, 1]


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
    """tests/tiny.py's DATA with free labels of train that say its truth."""
    data = tiny.write_data(tmp_path_factory.mktemp("data"))
    folder = data / "labels/default"
    with ShardWriter(folder / shard_name("train", 0, 1)) as writer:
        for photo in range(2):
            label_map = tiny.truth(photo).label_map
            patches = patch_targets(np.where(label_map == 255, -1, label_map), tiny.grid_of(photo), tiny.GRID)
            there = np.unique(tiny.classes_of(photo)).astype(np.int32)
            sure = np.full(label_map.shape, 255, np.uint8)
            writer.append(
                LabelRow(f"p{photo}", there, np.ones(len(there), np.float32), label_map, sure, *patches).encode()
            )
        writer.finish()
    write_json(folder / "ontology.json", ONTOLOGY.to_json())
    np.save(folder / "prototypes.npy", PROTOTYPES)
    write_json(folder / "labels.json", {"splits": ["train"], "digest": "d"})
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
    assert tried(world, tmp_path, "--config.train.temperature=.2") == 0
    assert made[3:] == ["first", "second"], "another config is tried anew"


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
    counts = runs.head_counts(bench, run, question)["head"]
    assert counts.sum() == sum(int((tiny.truth(p).label_map != 255).sum()) for p in range(5))
    monkeypatch.setattr(runs.train, "main", lambda args: pytest.fail("trained again"))
    monkeypatch.setattr(runs, "_head_counts", lambda *_: pytest.fail("evaluated again"))
    assert runs.trained(bench, {"train.photos": 1, "train.holdout": 0.0}, 0) == run
    np.testing.assert_array_equal(runs.head_counts(bench, run, question)["head"], counts)
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
