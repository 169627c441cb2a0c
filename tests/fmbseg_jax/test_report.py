"""The report's files: figures as evaluation wrote them, maps as labels and masks have them; worlds that lack things."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labelgen.core.files import read_json, write_json
from labelgen.core.ontology import Ontology
from labelgen.data.dataset import Dataset
from labelgen.data.records import LabelRow
from tests.worlds.data import write_words
from tests.worlds.labelling import ONTOLOGY, PROTOTYPES, SIZE, truth
from tests.worlds.reference import pixel_logits
from tests.worlds.report import (
    EVAL,
    evaluated,
    fields_of,
    head_patches,
    numbers_of,
    reported,
    write_data,
    write_photos,
    write_run,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/, run/ (evaluated) and photos/."""
    folder = tmp_path_factory.mktemp("world")
    write_photos(folder / "photos")
    write_data(folder / "data")
    evaluated(folder / "data", write_run(folder / "run", str(folder / "photos")))
    return folder


@pytest.fixture(scope="module")
def out(world: Path) -> Path:
    assert reported(world / "data", world / "run", world / "out", f"--oracle={world / 'run'}") == 0
    return world / "out"


@pytest.fixture(scope="module")
def fields(out: Path) -> Any:
    return fields_of(out)


def head_map(wrong: int) -> np.ndarray:
    """What the head says a pixel, by the slow reference."""
    z = PROTOTYPES[np.array([0, 2, 3])[head_patches(wrong)]]
    return pixel_logits(z, PROTOTYPES, ONTOLOGY.word_class, SIZE).argmax(0)


def iou(wrong: int, c: int) -> float:
    """Of one photo, the first row of pixels left out."""
    said, true = head_map(wrong)[1:] == c, truth()[1:] == c
    return float((said & true).sum() / (said | true).sum())


def test_figures_are_those_of_the_evaluation(world: Path, fields: Any) -> None:
    written = read_json(world / "run/eval/eval.json", "")
    (split,) = fields["splits"]
    assert {row["name"]: row["miou"] for row in split["readings"]} == {
        name: row["miou"] for name, row in written["readings"].items()
    } | {"oracle": written["readings"]["head"]["miou"]}
    shown = {"dense CLIP": "dense CLIP, naclip", "head": "head", "refined": "head, refined", "oracle": "head"}
    assert split["classes"] == ["grass", "ball", "box"]
    for title, reading in shown.items():
        per_class = written["readings"][reading]["per_class"]
        assert split["per_class"][title] == [per_class[name] for name in split["classes"]]
    assert fields["sentence"].startswith(
        f"On 5 unseen photos (eval) the head reaches {written['readings']['head']['miou']:.3f}".replace(" 0.", " .")
    )
    assert "100 % of a head trained on truth; grass goes best (" in fields["sentence"]
    assert "box worst (.000)." in fields["sentence"]


def test_what_is_confused_is_counted_as_by_hand(fields: Any) -> None:
    counts = np.zeros((3, 3))
    for wrong in range(5):
        np.add.at(counts, (truth()[1:], head_map(wrong)[1:]), 1)
    view = fields["splits"][0]["confusion"]
    expected = counts[:2] / counts[:2].sum(1, keepdims=True)
    assert view["classes"] == [0, 1] and view["all"]
    rows = np.array(view["rows"])
    assert np.allclose(rows[:, :3], expected, atol=1e-4) and not rows[:, 3].any()
    pairs = {(true, said): share for true, said, share in view["pairs"]}
    assert pairs == {(t, s): pytest.approx(expected[t, s], abs=1e-4) for t, s in pairs}
    assert set(pairs) == {(t, s) for t in (0, 1) for s in range(3) if t != s and expected[t, s] >= 0.01}


def test_each_photo_has_its_own_scores(fields: Any) -> None:
    photos = {photo["id"]: photo for photo in fields["photos"]}
    assert [photo["id"] for photo in fields["photos"]] == [*EVAL, "t0", "t1"]
    for wrong, name in enumerate(EVAL):
        photo = photos[name]
        assert photo["iou"]["0"] == pytest.approx(iou(wrong, 0), abs=1e-4)
        seen = [iou(wrong, c) for c in ((0, 1, 2) if wrong > 0 else (0, 1))]
        assert photo["scores"]["head"] == pytest.approx(np.mean(seen), abs=1e-4)
        assert photo["truth"] == [0, 1] and photo["classes"] == ([0, 1, 2] if wrong else [0, 1])
        for true, said, share in photo["mistakes"]:
            both = (truth()[1:] == true) & (head_map(wrong)[1:] == said)
            assert true != said and share == pytest.approx(both.mean(), abs=1e-4)
        assert ([0, 2] in [pair[:2] for pair in photo["mistakes"]]) == (wrong > 0)
    assert photos["t0"]["scores"] == {} and photos["t0"]["iou"] == {} and photos["t0"]["truth"] == []


def test_maps_are_those_of_labels_truth_and_head(world: Path, out: Path) -> None:
    labels = Dataset.open(world / "data").label_reader("default", "train")
    train, seen = numbers_of(out, "train-1"), numbers_of(out, "eval-3")
    assert np.array_equal(train["maps"]["labels"], LabelRow.decode(labels[1]).label_map)
    assert np.array_equal(seen["maps"]["head"], head_map(3))
    true = truth()
    true[0] = 255
    assert np.array_equal(seen["maps"]["truth"], true) and "truth" not in train["maps"]
    assert np.array_equal(seen["maps"]["dense"], head_map(0))
    assert list(seen["maps"]) == ["stage11", "stage12", "labels", "dense", "head", "refined", "truth"]


def test_stars_stand_on_the_masks_they_gave(out: Path) -> None:
    numbers = numbers_of(out, "eval-0")
    balls = [point for point in numbers["points"] if point[0] == 1]
    assert balls and {point[0] for point in numbers["points"]} == {0, 1}
    for c, x, y, mask in numbers["points"]:
        assert truth()[int(y * 48), int(x * 64)] == c
        assert numbers["masks"][mask][int(y * 48), int(x * 64)]
        assert np.array_equal(numbers["masks"][mask], truth() == c)


def test_similarity_before_and_after_alignment(out: Path) -> None:
    numbers = numbers_of(out, "eval-2")
    for name, patches in (("before", truth()[4::8, 4::8]), ("after", head_patches(2))):
        for place, c in enumerate(numbers["classes"]):
            low, high = numbers["range"][name][place]
            cosine = low + numbers["similarity"][name][place] / 255 * (high - low)
            assert np.allclose(cosine, patches == c, atol=0.01)
    assert numbers["classes"] == [0, 1, 2]


def test_training_is_summed_up(fields: Any) -> None:
    assert fields["training"]["curves"]["loss"] == [[1, 0.5], [3, 0.25]]
    assert fields["training"]["curves"]["held_out_loss"] == [[2, 0.4]]
    assert fields["training"]["seconds"] == {"steps": 4.0, "save": 0.25}


def test_names_from_outside_never_become_html(out: Path, fields: Any) -> None:
    html = (out / "index.html").read_text()
    assert "<b>bad" not in html and "<i>&" not in html
    assert fields["failures"][0]["file"] == "<b>bad</b>.png" and fields["photos"][3]["id"] == "dir/<i>&'p3"
    assert {path.name for path in (out / "files").iterdir()} >= {"eval-3.js", "eval-3.jpg"}


def test_photos_are_small_pictures_of_the_photos(out: Path) -> None:
    image = np.asarray(Image.open(out / "files/eval-2.jpg"))
    assert image.shape == (*SIZE, 3) and abs(int(image[20, 20, 0]) - 100) <= 2


def test_a_report_replaces_the_one_before(world: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for name in ("files/eval-77.js", "files/eval-77.jpg", "files/mine.txt"):
        (tmp_path / name).write_text("old")
    assert reported(world / "data", world / "run", tmp_path, "--photos=2") == 0
    left = {path.name for path in (tmp_path / "files").iterdir()}
    assert "mine.txt" in left and not any("77" in name for name in left)
    assert len([photo for photo in fields_of(tmp_path)["photos"] if photo["split"] == "eval"]) == 2


def test_without_truth_pictures_or_evaluation(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_data(tmp_path / "data", with_truth=False)
    shutil.rmtree(data / "labels")
    (data / "failures.jsonl").unlink()
    run = write_run(tmp_path / "run", str(tmp_path / "gone"))
    (run / "metrics.jsonl").unlink()
    assert reported(data, run, tmp_path / "out") == 0
    fields = fields_of(tmp_path / "out")
    assert fields["sentence"] == "" and fields["splits"] == [] and fields["failures"] == []
    assert fields["training"] == {"curves": {}, "seconds": {}}
    assert len(fields["photos"]) == 7 and not any(photo["picture"] for photo in fields["photos"])
    assert list(numbers_of(tmp_path / "out", "eval-0")["maps"]) == ["dense", "head", "refined"]
    assert [c for c, _ in fields["photos"][0]["found"]] == [0, 1]
    assert not list((tmp_path / "out").glob("files/*.jpg"))
    assert "7 photos, without the pictures, which are not at photos.root any more" in capsys.readouterr().out


def test_one_class_alone(tmp_path: Path) -> None:
    one = Ontology(("<all>",), ("a", "b", "c", "d"), (0, 0, 0, 0), ("",))
    data = write_data(tmp_path / "data", one)
    run = write_run(tmp_path / "run", "", one)
    evaluated(data, run)
    assert reported(data, run, tmp_path / "out") == 0
    fields = fields_of(tmp_path / "out")
    assert "over 1 class," in fields["sentence"] and fields["classes"][0]["name"] == "<all>"
    assert fields["splits"][0]["confusion"]["pairs"] == []
    assert "<all>" not in (tmp_path / "out/index.html").read_text()


def test_an_evaluation_without_matrices_still_has_figures(world: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(world / "run", tmp_path / "run"))
    (run / "eval/eval.npz").unlink()
    assert reported(world / "data", run, tmp_path / "out") == 0
    fields = fields_of(tmp_path / "out")
    assert fields["splits"][0]["confusion"] is None and len(fields["photos"]) == 7


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda w: (w / "run/eval/eval.npz").write_bytes(b"PK"), "eval.npz: cannot be read; write it anew"),
        (lambda w: (w / "run/eval/eval.json").write_text("{"), "eval.json: not JSON; evaluate again"),
        (
            lambda w: write_words(
                w / "data/labels/default", Ontology(("a",), tuple("1234"), (0,) * 4, ("",)), PROTOTYPES
            ),
            "labels/default: has other classes than the RUN was trained with; label again",
        ),
        (lambda w: shutil.rmtree(w / "run/checkpoints"), "no checkpoints in it; train first"),
        (lambda w: (w / "out").write_text("a file"), "there is a file where a folder is wanted"),
    ],
)
def test_what_cannot_be_reported_is_said(
    world: Path, tmp_path: Path, spoil: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("data", "run"):
        shutil.copytree(world / name, tmp_path / name)
    spoil(tmp_path)
    assert reported(tmp_path / "data", tmp_path / "run", tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_an_oracle_has_the_same_classes(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(world / "run/eval", tmp_path / "oracle/eval")
    for path in (tmp_path / "oracle/eval").glob("*.json"):
        path.write_text(path.read_text().replace('"ball"', '"bowl"'))
    assert reported(world / "data", world / "run", tmp_path / "out", f"--oracle={tmp_path / 'oracle'}") == 2
    assert "oracle was evaluated with the classes" in capsys.readouterr().err


def test_an_oracle_must_be_evaluated(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reported(world / "data", world / "run", tmp_path / "out", f"--oracle={tmp_path}") == 2
    assert "no figures there; run fmbseg_jax.evaluate with --workdir=" in capsys.readouterr().err


def test_quality_is_shown_in_the_order_of_the_stages(world: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(world / "data", tmp_path / "data"))
    row = {"miou": 0.5, "pixel_accuracy": 0.5, "coverage": 1.0, "groups": {"stuff": 0.4}, "per_class": {}}
    names = ("merged", "stage 1.2", "dense CLIP, naclip", "stage 1.1")
    quality = {"train": {"readings": dict.fromkeys(names, row), "presence": {"precision": 0.7, "recall": 0.9}}}
    write_json(data / "labels/default/quality.json", quality)
    assert reported(data, world / "run", tmp_path / "out") == 0
    (labels,) = fields_of(tmp_path / "out")["labels"]
    assert [r["name"] for r in labels["readings"]] == ["dense CLIP, naclip", "stage 1.1", "stage 1.2", "merged"]
    assert labels["presence"]["recall"] == 0.9 and json.dumps(labels["groups"]) == '["stuff"]'
