"""All claims on configs/voc.py's variants, small: train has no truth. Trainings take no step, all else is real."""

import json
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from experiments import alignment, claims, encoders, runs
from experiments.bench import open_bench
from fmbseg_jax import train
from fmbseg_jax.reporting.readings import HEAD
from fmbseg_jax.training import step
from labelgen import features
from labelgen.core.command import command
from tests.worlds import voc

WHY = "train has no truth: the photos of val were given free labels for this, by the same words and settings."


@pytest.fixture(autouse=True, name="quick")
def quick_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training opens its photos, targets and words, and keeps the head that it begins with; one process for all."""
    born: dict[str, Any] = {}
    real = step.born_sharded

    def once(make: Callable[[jax.Array], Any], seed: int, mesh: Any) -> Any:
        shape = str(jax.eval_shape(make, jax.random.key(0)))
        return born.setdefault(shape, None) or born.update({shape: real(make, seed, mesh)}) or born[shape]

    def no_steps(self: train.Loop, state: Any, start: int, preempted: Callable[[], bool]) -> int:
        steps = self.settings.optim.steps
        self.figures.write(steps, {"held_out_agreement": 0.5, "seconds/steps": 0.1})
        self.checkpoints.save(steps, state, self.batches.position, 0.5)
        return steps

    def in_process(said: list[str], **_: Any) -> SimpleNamespace:
        with redirect_stderr(StringIO()) as told:
            code = command(features.main, features.arguments(), said[3:])
        return SimpleNamespace(returncode=code, stderr=told.getvalue())

    monkeypatch.setattr(train, "born_sharded", once)
    monkeypatch.setattr(train.Loop, "run", no_steps)
    monkeypatch.setattr(encoders, "subprocess", SimpleNamespace(run=in_process))


def tried(config: str, data: Path, out: Path, *more: str) -> tuple[int, dict[str, Any]]:
    said = [f"--config={config}", f"--data={data}", f"--out={out}", "--seeds=1", *more]
    return command(claims.main, claims.arguments(), said), json.loads((out / "claims.json").read_text())


def config_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "config.json").read_text())["config"]


def test_all_claims_are_tried_where_train_has_no_truth(tmp_path: Path) -> None:
    config, data = voc.write(tmp_path, "voc21")
    code, found = tried(config, data, tmp_path / "out")
    assert code == 0 and len(found["claims"]) == 10
    assert [name for name, claim in found["claims"].items() if claim["verdict"] == "not tried"] == []
    assert found["about"]["config"] == "voc_small.py:voc21"
    by_name = found["claims"]
    assert WHY in by_name["labels"]["notes"] and WHY in by_name["stages"]["notes"]
    assert by_name["labels"]["rows"][0]["chosen_by"] == "nothing", "the config's file says so, without its variant"
    assert "scored on 2 photos of val, drawn once, and trained on its other 2" in by_name["encoders"]["ran"]
    assert {row["name"] for row in by_name["encoders"]["rows"]} > {"SAM's encoder", "dinov2, untrained"}
    said = " ".join(by_name["zero_shot"]["notes"])
    assert "set eval.ontologies.SPLIT to a file." in said and "eval.groups has fewer than two groups" in said
    page = (tmp_path / "out/claims.md").read_text()
    assert page.count(WHY) == 2 and "`voc_small.py:voc21`: 21 classes" in page
    oracles = [path for path in (tmp_path / "out/runs").iterdir() if config_of(path)["train"]["targets"] == "truth"]
    assert len(oracles) == 4
    for oracle in oracles:
        kept = config_of(oracle)["train"]
        assert (kept["split"], kept["holdout"], kept["save_every"]) == ("val", 0.5, kept["steps"])
    bench = open_bench(config, [], str(data), tmp_path / "out", 1)
    course = encoders.choose_course(bench)
    assert course.question.rows is not None and len(course.question.rows) == 2, "of these the oracle trained on none"
    assert runs.tune_question(bench) is None and runs.tuning_score(bench, {}) == 0.5, "agreement with free labels"


@pytest.mark.parametrize(("variant", "classes"), [("voc20", 20), ("threshold", 20)])
def test_a_background_that_is_left_out_or_made_by_a_threshold(tmp_path: Path, variant: str, classes: int) -> None:
    config, data = voc.write(tmp_path, variant)
    code, found = tried(config, data, tmp_path / "out", "--only=labels,stages,alignment,zero_shot,own_photos,material")
    assert code == 0, found
    assert found["about"]["classes"] == classes
    left_out = "Pixels whose truth is `background` are left out: the words of the labels do not name it."
    assert (left_out in found["claims"]["labels"]["notes"]) == (variant == "threshold")
    bench = open_bench(config, [], str(data), tmp_path / "out", 1)
    counts = runs.head_counts(bench, runs.trained(bench, {}, 0), runs.shipped_question(bench))[HEAD]
    assert counts.shape == ((21, 22) if variant == "threshold" else (20, 21))
    patches, _, shown = alignment.clip_scores(bench, runs.shipped_question(bench))
    assert (patches.max() == 20) == (variant == "threshold"), "a patch of the background is no hit of any class"
    assert shown and max(photo.classes.max() for photo in shown) < 20, "and none of a picture's"


def test_a_claim_that_cannot_be_tried_says_why_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, data = voc.write(tmp_path, "voc21")
    (tmp_path / "VOC2012").rename(tmp_path / "away")
    code, found = tried(config, data, tmp_path / "out", "--only=encoders,alignment")
    assert code == 2 and "claim encoders not tried: " in capsys.readouterr().err
    why = f"Not tried: {tmp_path}/VOC2012: no such folder of photos; fix photos.root"
    assert found["claims"]["encoders"]["ran"] == why and why in (tmp_path / "out/claims.md").read_text()
    assert found["claims"]["alignment"]["verdict"] != "not tried"
    (tmp_path / "away").rename(tmp_path / "VOC2012")
    code, found = tried(config, data, tmp_path / "out", "--only=encoders")
    assert code == 0 and found["claims"]["encoders"]["verdict"] != "not tried"
