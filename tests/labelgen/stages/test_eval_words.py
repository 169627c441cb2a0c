"""Words by which evaluation asks a split: embedded beside the labels, once, and again when the file changes."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from labelgen.core.ontology import Ontology, read_words
from labelgen.data.dataset import read_prototypes
from labelgen.stages import labelling
from tests.worlds import stub_run

SYNONYMS = "sky: heaven\ngrass: meadow, turf\nball: globe\n"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The words that the text tower was asked to embed; a word's embedding is drawn from its letters."""
    seen: list[tuple[str, ...]] = []

    def embed(config: object, words: Sequence[Ontology], sha256: str) -> list[np.ndarray]:
        seen.extend(ontology.words for ontology in words)
        return [np.stack([embedding(word) for word in ontology.words]) for ontology in words]

    monkeypatch.setattr(labelling, "embed_words", embed)
    return seen


def embedding(word: str) -> np.ndarray:
    return np.random.default_rng(list(word.encode())).normal(size=stub_run.TEXT_WIDTH).astype(np.float32)


def world(folder: Path, words: str) -> Path:
    """The stub's photos, the split `wild` asked by other words."""
    stub_run.write_world(folder, photos=10, held=1)
    (folder / "other.txt").write_text(words)
    config = (folder / "config.py").read_text()
    other = f"    config.eval.ontologies = ConfigDict({{'wild': {str(folder / 'other.txt')!r}}})\n    return config\n"
    (folder / "config.py").write_text(config.replace("    return config\n", other))
    return folder


def label(folder: Path) -> int:
    return stub_run.main([f"--config={folder}/config.py", f"--out={folder / 'data'}"])


def test_other_words_are_embedded_beside_the_labels(tmp_path: Path, asked: list[tuple[str, ...]]) -> None:
    assert label(world(tmp_path, SYNONYMS)) == 0
    assert asked == [("heaven", "meadow", "turf", "globe")]  # the trained words have ready embeddings
    there = tmp_path / "data/labels/default/words-wild"
    assert json.loads((there / "ontology.json").read_text()) == read_words(tmp_path / "other.txt").to_json()
    rows = np.stack([embedding(word) for word in asked[0]])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.allclose(read_prototypes(there / "prototypes.npy", 4, stub_run.TEXT_WIDTH), unit, atol=1e-6)


def test_a_split_without_a_file_is_asked_by_the_words_of_the_labels(
    tmp_path: Path, asked: list[tuple[str, ...]]
) -> None:
    folder = world(tmp_path, SYNONYMS)
    line = [f"--config={folder}/config.py", f"--out={folder / 'data'}", "--config.eval.ontologies.wild="]
    assert stub_run.main(line) == 0
    assert asked == [] and not (folder / "data/labels/default/words-wild").exists()


def test_only_changed_words_are_embedded_again(tmp_path: Path, asked: list[tuple[str, ...]]) -> None:
    assert label(world(tmp_path, SYNONYMS)) == 0
    assert label(tmp_path) == 0
    assert len(asked) == 1
    (tmp_path / "other.txt").write_text("sky: clouds\ngrass\nball\n")
    assert label(tmp_path) == 0
    assert asked[1:] == [("clouds", "grass", "ball")]
    there = tmp_path / "data/labels/default/words-wild"
    assert np.load(there / "prototypes.npy").shape == (3, stub_run.TEXT_WIDTH)


def test_a_missing_file_of_other_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world(tmp_path, SYNONYMS) / "other.txt").unlink()
    assert label(tmp_path) == 2
    assert "other.txt: no such file of words" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()  # said before anything expensive begins
