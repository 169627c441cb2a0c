"""Evaluation of a head whose every answer is known: scores, readings, words, protocol, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmbseg_jax import evaluate
from fmbseg_jax.inference.label_maps import sharpened_classes
from labelgen.core.command import command
from labelgen.core.config import load_config
from tests.worlds import tiny
from tests.worlds.labelling import ONTOLOGY, PROTOTYPES
from tests.worlds.paths import ROOT
from tests.worlds.reference import band_counts, confusion, pixel_logits
from tests.worlds.run import write_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), load_config(str(ROOT / "configs/default.py")))


def evaluated(data: Path, run: Path, *overrides: str, splits: str = "eval") -> int:
    arguments = [f"--config={ROOT / 'configs/default.py'}", f"--data={data}", f"--workdir={run}"]
    fields = [f"--config.{o}" for o in (f"eval.splits={splits}", "eval.batch_size=2", *overrides)]
    return command(evaluate.main, evaluate.arguments(), arguments + fields)


@pytest.fixture(scope="module")
def result(data: Path, run: Path) -> Any:
    assert evaluated(data, run) == 0
    return json.loads((run / "eval/eval.json").read_text())


def miou(predictions: list[np.ndarray]) -> float:
    """mIoU over all photos, counted pixel by pixel."""
    counts = sum(confusion(tiny.truth(p).label_map, said, 3) for p, said in enumerate(predictions))
    hits = np.diag(counts)
    return float((hits / (counts.sum(0) + counts.sum(1) - hits)).mean())


def argmax(patches: Any, photo: int, present: np.ndarray | None = None) -> np.ndarray:
    logits = pixel_logits(patches, PROTOTYPES, ONTOLOGY.word_class, tiny.features(photo).size_hw)
    if present is not None:
        logits[~np.isin(range(3), present)] = -np.inf
    return logits.argmax(0)


def test_head_is_counted_as_by_hand(result: Any) -> None:
    expected = miou([argmax(tiny.embeddings(p), p) for p in range(5)])
    assert 0.8 < expected < 1
    assert result["readings"]["head"]["miou"] == pytest.approx(expected, abs=1e-5)


def test_edges_are_counted_as_by_hand(result: Any, run: Path) -> None:
    photos = [(tiny.truth(p).label_map, argmax(tiny.embeddings(p), p)) for p in range(5)]
    bands = sum(band_counts(truth, said, 3, 1) for truth, said in photos)  # .02 of 40 px is one pixel
    iou = bands[0] / (bands[1] + bands[2] - bands[0])
    row = result["readings"]["head"]
    assert 0 < iou.mean() < row["miou"]
    assert row["boundary_iou"] == pytest.approx(iou.mean(), abs=1e-5)
    assert [row["per_class_boundary"][name] for name in ONTOLOGY.names] == pytest.approx(iou, abs=1e-5)
    assert result["readings"]["head, refined"]["boundary_iou"] == 1
    with np.load(run / "eval/eval.npz") as file:
        at = file["readings"].tolist().index("head")
        np.testing.assert_array_equal(file["bands"][at], bands)


def test_dense_clip_in_two_readings(result: Any) -> None:
    maps = [tiny.evidence(p).dense["naclip"] for p in range(5)]
    unfiltered = miou([argmax(m, p) for p, m in enumerate(maps)])
    present = miou([argmax(m, p, np.unique(tiny.classes_of(p))) for p, m in enumerate(maps)])
    assert unfiltered < present
    assert result["readings"]["dense CLIP, naclip"]["miou"] == pytest.approx(unfiltered, abs=1e-5)
    assert result["readings"]["dense CLIP, naclip, present classes"]["miou"] == pytest.approx(present, abs=1e-5)
    assert {"dense CLIP, maskclip", "dense CLIP, maskclip, present classes"} <= set(result["readings"])


def test_true_masks_fix_the_head(result: Any) -> None:
    assert result["readings"]["head, refined"]["miou"] == 1
    assert result["ratios"]["refined / head"] == pytest.approx(1 / result["readings"]["head"]["miou"], abs=1e-4)


def test_protocol_says_what_the_figures_mean(result: Any) -> None:
    protocol = result["protocol"]
    assert protocol["photos"] == 5 and protocol["classes"] == 3
    assert protocol["use"] == "unseen photos" and protocol["targets"] == "labels"
    assert protocol["background"] == "none" and protocol["checkpoint"].startswith("step 7,")
    assert protocol["present classes"]["threshold"] == 0.3 and protocol["refined"]["min_iou"] == 0.8


def test_own_photos_are_called_so(data: Path, run: Path) -> None:
    assert evaluated(data, run, splits="train") == 0
    assert json.loads((run / "eval/train.json").read_text())["protocol"]["use"] == "own photos"


def test_a_run_that_cannot_be_written_has_its_tables_printed(
    data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a read-only one; there is a file in the place of the folder here, since root may write anywhere."""
    mine = Path(shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("eval")))
    (mine / "eval").touch()
    capsys.readouterr()
    assert evaluated(data, mine, splits="eval,train") == 2
    printed = capsys.readouterr()
    assert "eval, 5 photos" in printed.out and "train, 2 photos" in printed.out
    assert "wrote" not in printed.out
    assert f"error: {mine}/eval: File exists; there is a file where a folder is wanted" in printed.err


def test_an_untrained_head_is_seen(data: Path, tmp_path: Path, result: Any) -> None:
    kernel = np.random.default_rng(0).normal(size=(5, 5))
    run = write_run(tmp_path, load_config(str(ROOT / "configs/default.py")), kernel)
    assert evaluated(data, run) == 0
    untrained = json.loads((run / "eval/eval.json").read_text())
    assert untrained["readings"]["head"]["miou"] < 0.5 < result["readings"]["head"]["miou"]


def words_config(tmp_path: Path, words: str) -> Path:
    """A config whose split `eval` is asked by other words."""
    (tmp_path / "words.txt").write_text(words)
    (tmp_path / "config.py").write_text(
        "from ml_collections import ConfigDict\nfrom configs.default import get_config as default\n\n"
        "def get_config():\n    config = default()\n    config.eval.splits = ('eval',)\n"
        f"    config.eval.ontologies = ConfigDict({{'eval': {str(tmp_path / 'words.txt')!r}}})\n    return config\n"
    )
    return tmp_path / "config.py"


def asked_by(data: Path, run: Path, config: Path) -> int:
    return command(evaluate.main, evaluate.arguments(), [f"--config={config}", f"--data={data}", f"--workdir={run}"])


def test_a_split_asked_by_other_words(data: Path, run: Path, tmp_path: Path, result: Any) -> None:
    assert asked_by(data, run, words_config(tmp_path, "grass: turf\nball: globe\nbox: crate\n")) == 0
    other = json.loads((run / "eval/eval.json").read_text())
    assert other["readings"]["head"] == result["readings"]["head"]  # the synonyms' prototypes are the words' own
    assert "words.txt" in other["protocol"]["words"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("grass: turf\nbox: crate\nball: globe\n", "needs other words of the same classes in the same order"),
        ("grass: turf\nball: orb\nbox: crate\n", "embeds other words than"),
    ],
)
def test_other_words_that_do_not_fit(
    data: Path, run: Path, tmp_path: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked_by(data, run, words_config(tmp_path, words)) == 2
    assert message in capsys.readouterr().err


def test_data_of_another_encoder(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tiny.write_data(tmp_path)
    info = json.loads((data / "dataset.json").read_text())
    info["encoders"]["encoder"]["sha256"] = "1" * 64
    (data / "dataset.json").write_text(json.dumps(info))
    assert evaluated(data, run) == 2
    assert "encoder.sha256 is 111" in capsys.readouterr().err


def test_rows_of_different_photos(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tiny.write_data(tmp_path)
    for path in (data / "truth").glob("eval-00001*"):
        path.unlink()
    for path in (data / "truth").glob("train-*"):
        path.rename(path.with_name(path.name.replace("train-00000-of-00001", "eval-00001-of-00002")))
    assert evaluated(data, run) == 2
    assert "another photo in each family (p3, p3, p0)" in capsys.readouterr().err


def with_photos(folder: Path) -> tuple[str, dict[int, np.ndarray]]:
    """A config with eval.sharpen whose photos lie in FOLDER/photos, and these."""
    (folder / "photos").mkdir()
    rng, photos = np.random.default_rng(0), {}
    for p in range(5):
        photos[p] = rng.integers(0, 256, (*tiny.features(p).size_hw, 3), np.uint8)
        Image.fromarray(photos[p]).save(folder / f"photos/p{p}.png")
    config = folder / "config.py"
    config.write_text(
        "from ml_collections import ConfigDict\nfrom configs.default import get_config as default\n\n"
        "def get_config():\n    config = default()\n    config.eval.splits = ('eval',)\n"
        "    config.eval.sharpen = True\n"
        f"    config.photos.root = {str(folder)!r}\n"
        "    config.photos.splits = ConfigDict({'eval': {'photos': 'photos', 'masks': ''}})\n    return config\n"
    )
    return str(config), photos


def test_the_sharpened_head_is_a_row(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, photos = with_photos(tmp_path)
    run = write_run(tmp_path / "run", load_config(config))
    where = [f"--config={config}", f"--data={data}", f"--workdir={run}"]
    assert command(evaluate.main, evaluate.arguments(), where) == 0
    out = capsys.readouterr().out
    assert "  head, sharpened" in out and " s a photo to sharpen" in out
    found = json.loads((run / "eval/eval.json").read_text())
    temperature = load_config(config).train.temperature
    asked = ((tiny.embeddings(p), PROTOTYPES, ONTOLOGY.word_class, photos[p], temperature) for p in range(5))
    wanted = miou([sharpened_classes(*each) for each in asked])
    assert found["readings"]["head, sharpened"]["miou"] == pytest.approx(wanted, abs=1e-5)
    assert wanted != pytest.approx(found["readings"]["head"]["miou"], abs=1e-3)
    assert "PAMR, 10 iterations" in found["protocol"]["sharpened"]
    assert command(evaluate.main, evaluate.arguments(), [*where, "--config.eval.sharpen=False"]) == 0
    assert "sharpened" not in (run / "eval/eval.json").read_text()


def test_sharpening_wants_the_very_photos(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, photos = with_photos(tmp_path)
    run = write_run(tmp_path / "run", load_config(config))
    where = [f"--config={config}", f"--data={data}", f"--workdir={run}"]
    fix = "put the photos back, or evaluate without: --config.eval.sharpen=False"
    Image.fromarray(photos[3][:-1]).save(tmp_path / "photos/p3.png")
    assert command(evaluate.main, evaluate.arguments(), where) == 2
    assert f"p3 is another than was encoded; {fix}" in capsys.readouterr().err
    (tmp_path / "photos/p3.png").unlink()
    assert command(evaluate.main, evaluate.arguments(), where) == 2
    assert f"lack p3; {fix}" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "photos")
    assert command(evaluate.main, evaluate.arguments(), where) == 2
    assert f"cannot be found; {fix}" in capsys.readouterr().err
