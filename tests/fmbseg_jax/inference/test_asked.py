"""Words that a head was not trained with: which are known, and probabilities against the rule written out in loops."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs.default import get_config
from fmbseg_jax import evaluate, predict
from fmbseg_jax.inference.embedder import Towers
from fmbseg_jax.inference.other_words import Asked, groups, known_words
from fmbseg_jax.runs.checkpoint import Restored, restore_run
from labelgen.core.command import command
from labelgen.core.ontology import parse_words
from tests.worlds import tiny
from tests.worlds.labelling import ONTOLOGY, PROTOTYPES
from tests.worlds.run import write_run

DENSE_MAP = np.zeros((6, 5), np.float32)


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory) -> Restored:
    return restore_run(write_run(tmp_path_factory.mktemp("run"), get_config(), dense_map=DENSE_MAP))


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), np.float32)


def test_a_word_is_known_that_is_nearer_to_a_trained_one_than_those_are_to_each_other() -> None:
    trained = parse_words(["a: one, two", "b: three"], "words")
    taught = unit(np.array([[1.0, 0, 0], [0, 1, 0], [0, 1, 1]]))  # two and three: cosine .707
    asked = parse_words(["x: ONE", "y: near two", "z: between", "n: elsewhere, near three"], "words")
    prototypes = unit(np.array([[0.0, 0, 1], [0.2, 1, 0], [0, 1, 0.4142], [1, 1, 1], [0.1, 1, 0.9]]))
    known = known_words(trained, taught, asked, prototypes)
    assert known.tolist() == [[True, False], [True, False], [True, False], [False, True], [False, True]]
    elsewhere = unit(np.array([[0, 0, 1.0], [1, 0, 1.1], [1, 0, 2], [-1, 0, 0], [0, 0, 1]]))
    far = known_words(trained, taught, asked, elsewhere)
    assert far.tolist() == [[True, False]] + [[False, False]] * 4, "the same word is known wherever it lies"


def test_classes_that_share_a_trained_one_are_of_one_group() -> None:
    near = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]], bool)
    found = groups(near)
    assert found[1] == -1 and found[0] == found[2] == found[3] != found[4]
    assert len({found[0], found[4], -1}) == 3


def test_trained_words_are_answered_by_the_head_alone(restored: Restored) -> None:
    asked, z = Asked(restored, ONTOLOGY, PROTOTYPES), np.ones((1, 1, 5), np.float32)
    assert asked.by_head and asked.new == ()
    patches, prototypes, word_class = asked(z, None)
    assert patches is z and prototypes is PROTOTYPES and word_class == ONTOLOGY.word_class


def test_a_run_without_a_dense_map_asks_the_head_whatever_the_words(restored: Restored) -> None:
    words = parse_words(["grass", "cloud"], "words")
    asked = Asked(replace(restored, dense_map=None), words, np.eye(5, dtype=np.float32)[[0, 4]])
    assert asked.by_head and asked.new == ()


def test_probabilities_are_dealt_in_three_steps(restored: Restored) -> None:
    """grass is asked as two classes, ball as itself, cloud is new; box is not asked."""
    words = parse_words(["meadow: grass", "garden: lawn, blossom", "ball", "cloud"], "words")
    rng = np.random.default_rng(0)
    prototypes = np.eye(5, dtype=np.float32)[[0, 1, 4, 2, 3]]  # blossom lies nowhere near, cloud where box was
    prototypes[4] = unit(np.array([0, 0, 0, 0.0, -1]))
    asked = Asked(restored, words, prototypes)
    assert asked.new == ("cloud",) and not asked.by_head
    z, dense = (unit(rng.normal(size=(2, 3, 5))) for _ in range(2))
    patches, eye, word_class = asked(z, dense)
    assert np.array_equal(eye, np.eye(4)) and word_class == (0, 1, 2, 3)
    t, t0 = restored.temperature, restored.config.presence.dense_temperature
    for y in range(2):
        for x in range(3):
            cosines = prototypes.astype(np.float64) @ dense[y, x]
            first = np.exp(np.array([cosines[0], max(cosines[1], cosines[2]), cosines[3], cosines[4]]) / t0)
            first /= first.sum()
            head = prototypes.astype(np.float64) @ z[y, x]
            by_group = np.exp(np.array([max(head[0], head[1]), head[3]]) / t)  # blossom is not the head's
            by_group /= by_group.sum()
            known, grass = first[:3].sum(), first[:2].sum()
            wanted = [
                known * by_group[0] * first[0] / grass,
                known * by_group[0] * first[1] / grass,
                known * by_group[1],
                first[3],
            ]
            got = np.exp(patches[y, x].astype(np.float64) / t)
            np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-9)
            assert got.sum() == pytest.approx(1, rel=1e-4)


def test_nothing_but_new_words_is_the_dense_map_alone(restored: Restored) -> None:
    words, prototypes = parse_words(["sky", "cloud"], "words"), -np.eye(5, dtype=np.float32)[[0, 2]]
    asked = Asked(restored, words, prototypes)
    assert asked.new == ("sky", "cloud")
    dense = unit(np.random.default_rng(1).normal(size=(2, 2, 5)))
    scores = asked(dense[::-1], dense)[0]
    assert np.array_equal(scores.argmax(-1), (dense @ prototypes.T).argmax(-1))


def test_words_new_to_the_head_are_found_by_the_dense_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The head was trained without box and calls every patch grass; the features' axes, which are the map, say box."""
    dense, only_grass = np.eye(6, 5, dtype=np.float32), np.outer(np.ones(5), np.eye(5)[1])
    trained = parse_words(["grass: grass, lawn", "ball"], "words")
    data = tiny.write_data(tmp_path / "data")
    run = write_run(tmp_path / "run", get_config(), only_grass, trained, PROTOTYPES[:3], dense_map=dense)
    known = dict(zip(ONTOLOGY.words, PROTOTYPES, strict=True))
    monkeypatch.setattr(Towers, "text", lambda self, words: np.stack([known[word] for word in words]))
    (tmp_path / "words.txt").write_text("grass: grass, lawn\nball\nbox\n")
    places = [f"--workdir={run}", f"--data={data}", f"--words={tmp_path / 'words.txt'}", f"--out={tmp_path / 'out'}"]
    assert command(predict.main, predict.arguments(), places) == 0
    assert "new to the head, found by CLIP's dense maps alone: box" in capsys.readouterr().out
    for i in range(5):
        mask = np.asarray(Image.open(tmp_path / f"out/masks/eval/p{i}.png"))
        wanted = np.where(tiny.classes_of(i) == 2, 2, 0)  # what the map gives to grass and ball the head calls grass
        wanted[0, 0] = 0  # that patch's features say ball
        assert np.array_equal(mask[4::8, 4::8], wanted)


def test_evaluation_finds_new_words_as_prediction_does(tmp_path: Path) -> None:
    """box was trained by another word than the one asked for, and the head calls every patch grass."""
    data, ious = tiny.write_data(tmp_path / "data"), {}
    words = tmp_path / "words.txt"
    words.write_text("".join(f"{n}: {w}\n" for n, w in zip(ONTOLOGY.names, tiny.SYNONYMS.words, strict=True)))
    config = tmp_path / "config.py"
    config.write_text(
        "from ml_collections import ConfigDict\nfrom configs.default import get_config as default\n\n"
        "def get_config():\n    config = default()\n    config.eval.splits = ('eval',)\n"
        f"    config.eval.ontologies = ConfigDict({{'eval': {str(words)!r}}})\n    return config\n"
    )
    taught, only_grass = np.eye(5, dtype=np.float32)[[0, 1, 2, 4]], np.outer(np.ones(5), np.eye(5)[1])
    for name, dense in (("with", np.eye(6, 5, dtype=np.float32)), ("without", None)):
        run = write_run(tmp_path / name, get_config(), only_grass, prototypes=taught, dense_map=dense)
        places = [f"--config={config}", f"--data={data}", f"--workdir={run}"]
        assert command(evaluate.main, evaluate.arguments(), places) == 0
        result = json.loads((run / "eval/eval.json").read_text())
        ious[name] = result["readings"]["head"]["per_class"]["box"]
        assert ("new to the head: box" in result["protocol"]["words"]) == (name == "with")
    assert ious["with"] > 0.8 and ious["without"] < 0.1
