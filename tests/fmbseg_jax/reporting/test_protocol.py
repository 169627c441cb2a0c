"""What figures mean: the classes that are counted, the background's rule, and that the result says so."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmbseg_jax import evaluate
from fmbseg_jax.reporting.evaluation import class_names
from labelgen.core.command import command
from labelgen.core.config import load_config
from labelgen.core.errors import UserError
from labelgen.core.ontology import Ontology
from tests.worlds import tiny
from tests.worlds.labelling import ONTOLOGY, PROTOTYPES
from tests.worlds.paths import ROOT
from tests.worlds.reference import confusion, pixel_logits
from tests.worlds.run import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), load_config(str(ROOT / "configs/default.py")))


def data_of(folder: Path, *classes: str, **encoder: int) -> Path:
    """The tiny DATA whose truth has these classes, and whose encoder saw the photos so."""
    data = tiny.write_data(folder)
    info = json.loads((data / "dataset.json").read_text())
    for split in info["splits"].values():
        split["truth_classes"] = classes
    info["config"]["encoder"].update(encoder)
    (data / "dataset.json").write_text(json.dumps(info))
    return data


def evaluated(data: Path, run: Path, folder: Path, truth: dict[str, str], *overrides: str) -> int:
    config = folder / "config.py"
    config.write_text(
        "from ml_collections import ConfigDict\nfrom configs.default import get_config as default\n\n"
        "def get_config():\n    config = default()\n    config.eval.splits = ('eval',)\n"
        f"    config.eval.truth = ConfigDict({truth!r})\n    return config\n"
    )
    fields = [f"--config.{o}" for o in overrides]
    arguments = [f"--config={config}", f"--data={data}", f"--workdir={run}", *fields]
    return command(evaluate.main, evaluate.arguments(), arguments)


def result(run: Path) -> Any:
    return json.loads((run / "eval/eval.json").read_text())


def by_hand(threshold: float, place: list[int]) -> dict[int, float]:
    """IoU of each class: softmax of the head's pixels at the run's temperature, truth values moved to `place`."""
    counts = np.zeros((4, 4))
    temperature = load_config(str(ROOT / "configs/default.py")).train.temperature
    for p in range(5):
        logits = pixel_logits(tiny.embeddings(p), PROTOTYPES, ONTOLOGY.word_class, tiny.features(p).size_hw)
        shares = np.exp(logits / temperature) / np.exp(logits / temperature).sum(0)
        said = np.where(shares.max(0) < threshold, 3, logits.argmax(0))
        counts += confusion(np.array([*place, *[255] * 253])[tiny.truth(p).label_map], said, 4)
    hits = np.diag(counts)
    return dict(enumerate(hits / np.maximum(1, counts.sum(0) + counts.sum(1) - hits)))


def test_background_by_a_threshold_is_one_class_more(tmp_path: Path, run: Path, capsys: Any) -> None:
    data = data_of(tmp_path, "background", "ball", "box")
    assert evaluated(data, run, tmp_path, {}, "eval.background_threshold=0.95") == 0
    fields = result(run)
    expected = by_hand(0.95, [3, 1, 2])
    head = fields["readings"]["head"]["per_class"]
    found = [head[name] for name in ("grass", "ball", "box", "background")]
    assert found == pytest.approx(list(expected.values()), abs=1e-5) and 0 < expected[3] < 1 and expected[1] > 0
    assert fields["protocol"]["classes"] == 4
    assert fields["protocol"]["background"].startswith("best class below 0.95 of the softmax")
    said = capsys.readouterr().out
    assert "protocol: 4 classes" in said and "background: best class below 0.95" in said


def test_classes_of_the_truth_can_be_left_out_and_the_result_says_so(tmp_path: Path, run: Path) -> None:
    data = data_of(tmp_path, "lawn", "ball", "crate")
    assert evaluated(data, run, tmp_path, {"lawn": "ignore", "crate": "box"}) == 0
    fields = result(run)
    assert fields["readings"]["head"]["per_class"]["grass"] in (0, None)
    assert fields["protocol"]["truth"].endswith("lawn left out, crate counts as box")
    assert fields["protocol"]["background"] == "none"


def test_a_class_of_the_truth_without_words_is_refused(tmp_path: Path, run: Path, capsys: Any) -> None:
    assert evaluated(data_of(tmp_path, "grass", "ball", "bird"), run, tmp_path, {}) == 2
    assert "classes that the words lack: bird; add them to the file of words" in capsys.readouterr().err


def test_present_classes_are_a_reading_of_the_head_too(tmp_path: Path, run: Path) -> None:
    assert evaluated(data_of(tmp_path, "grass", "ball", "box"), run, tmp_path, {}) == 0
    rows = result(run)["readings"]
    assert rows["head, present classes"]["miou"] >= rows["head"]["miou"]
    assert result(run)["protocol"]["split"] == "eval"


def test_windows_are_said(tmp_path: Path, run: Path) -> None:
    data = data_of(tmp_path, "grass", "ball", "box", size_px=64, height_px=32, window_px=32, stride_px=16)
    assert evaluated(data, run, tmp_path, {}) == 0
    protocol = result(run)["protocol"]
    assert protocol["head sees"] == "the photo fitted into 64 x 32 px, windows of 32 px every 16 px"
    assert protocol["dense CLIP sees"] == "short side 448 px, windows of 224 px every 112 px"


def test_words_with_a_background_need_no_threshold() -> None:
    words = Ontology(("background", "cat"), ("sky", "cat"), (0, 1), ("background", ""))
    assert class_names(words, 0) == ("background", "cat")
    with pytest.raises(UserError, match="background_threshold = 0.4, but the words name a background themselves"):
        class_names(words, 0.4)
