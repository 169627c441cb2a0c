"""Words as a person writes them, and the mistakes a person makes."""

from pathlib import Path

import numpy as np
import pytest

from labelgen.core.errors import UserError
from labelgen.core.ontology import Ontology, class_scores, parse_words, read_words

TEXT = """# what is in my photos
grass: grass, lawn , green  meadow
ball          # no colon: one word
background: wall, sky
"""


def test_file_of_words(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text(TEXT)
    ontology = read_words(path)
    assert ontology.names == ("grass", "ball", "background")
    assert ontology.words == ("grass", "lawn", "green meadow", "ball", "wall", "sky")
    assert ontology.word_class == (0, 0, 0, 1, 2, 2)
    assert ontology.roles == ("", "", "background")
    assert Ontology.from_json(ontology.to_json()) == ontology


def test_digest_follows_words_not_layout() -> None:
    first, same, other = (parse_words(text.split("\n"), "w") for text in ("a: x, y\nb", "# c\na:x,  y\n\nb", "a: x\nb"))
    assert first.digest == same.digest != other.digest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n\nA: b", r"w:3: class 'A' is named twice"),
        ("a: x\nb: y, X", r"w:2: word 'X' stands already in line 1"),
        ("a: x, x", r"w:1: word 'x' stands already in line 1"),
        (": x", r"w:1: empty class name"),
        ("a: x,,y", r"w:1: empty word for class 'a'"),
        ("a:", r"w:1: empty word for class 'a'"),
        ("person, dog, car", r"w:1: 'person, dog, car' has no colon, so it would be one class of that name; write one"),
        ("ok\n猫、犬", r"w:2: '猫、犬' has no colon"),
        ("a; b", r"w:1: 'a; b' has no colon"),
        ("# only a comment\n", r"w: no class in it"),
        ("", r"w: no class in it"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_words(text.splitlines(), "w")


def test_colons_and_commas_of_other_keyboards() -> None:
    ontology = parse_words(["动物\uff1a猫\uff0c犬、 鸟", "b: x; y"], "w")
    assert ontology.names == ("动物", "b") and ontology.words == ("猫", "犬", "鸟", "x", "y")


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file of words"):
        read_words(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("gr\xfcn".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.txt: not UTF-8 text \(byte 2\)"):
        read_words(tmp_path / "latin.txt")


def test_inconsistent_json_is_refused() -> None:
    fields = parse_words(["a: x, y", "b"], "w").to_json()
    with pytest.raises(UserError, match="o.json: names, words and roles do not fit"):
        Ontology.from_json({**fields, "word_class": [0, 0, 2]}, "o.json")
    with pytest.raises(UserError, match="o.json: not an ontology"):
        Ontology.from_json({"names": ["a"]}, "o.json")


def test_class_scores_are_the_best_words() -> None:
    scores = np.array([[0.1, 0.9, 0.3], [0.5, 0.2, -1.0]])
    assert class_scores(scores, (0, 0, 1)).tolist() == [[0.9, 0.3], [0.5, -1.0]]
