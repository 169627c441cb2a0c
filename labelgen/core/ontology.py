"""Words that a person writes become classes: the file of words, and scores of classes from scores of words.

The order of the file is the order of the classes: class c of label maps, truth and logits is line c.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.core import shipped
from labelgen.core.errors import UserError
from labelgen.core.files import read_text

UNLABELLED = "__ignore__"
"""Label of unlabelled pixels, as LabelMe has it."""


BACKGROUND, THING, STUFF = "background", "thing", "stuff"


@dataclass(frozen=True)
class Ontology:
    """Classes and the words that name them. K words, C classes, K >= C."""

    names: tuple[str, ...]
    """C class names, in the order of the file."""
    words: tuple[str, ...]
    """K words, those of class 0 first, then class 1 ..."""
    word_class: tuple[int, ...]
    """K class indices in 0..C-1, ascending."""
    roles: tuple[str, ...]
    """C roles: "" or "background"; "thing" or "stuff" where that is known."""

    @property
    def digest(self) -> str:
        """Hex sha256 of the four fields: equal digests mean interchangeable label maps and prototypes."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dict of the four fields."""
        return {
            "names": list(self.names),
            "words": list(self.words),
            "word_class": list(self.word_class),
            "roles": list(self.roles),
        }

    @staticmethod
    def from_json(fields: dict[str, Any], source: str = "ontology.json") -> "Ontology":
        """The ontology that `to_json` wrote. UserError, naming `source`, where fields are missing or do not fit."""
        try:
            ontology = Ontology(
                tuple(map(str, fields["names"])),
                tuple(map(str, fields["words"])),
                tuple(map(int, fields["word_class"])),
                tuple(map(str, fields["roles"])),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{source}: not an ontology ({error!r}); write it again from the file of words") from None
        classes = len(ontology.names)
        if (
            sorted(set(ontology.word_class)) != list(range(classes))
            or len(ontology.words) != len(ontology.word_class)
            or len(ontology.roles) != classes
        ):
            raise UserError(f"{source}: names, words and roles do not fit together; write it again from the words")
        return ontology


def read_words(path: str | Path) -> Ontology:
    """The ontology of a file of words.

    One class a line, `name: word, word`; a line without colon, and without commas, has one word, its name;
    `background: word, word` names what is none of them; `#` starts a comment. UserError for a missing, unreadable or
    empty file, and for duplicate or empty names and words, with the line.
    """
    if not str(path):
        raise UserError("no file of words is named; set `ontology` to a text file, one class a line")
    try:
        text = read_text(shipped.find(path))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"{path}: no such file of words; set `ontology` to a text file, one class a line") from None
    return parse_words(text.splitlines(), str(path))


def parse_words(lines: Iterable[str], source: str) -> Ontology:
    """`read_words` for lines at hand; `source` is what errors call them."""
    names: list[str] = []
    words: list[str] = []
    word_class: list[int] = []
    taken: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        if any("\ud800" <= letter <= "\udfff" for letter in line):
            raise UserError(f"{source}:{number}: {line!r} has half a letter (a lone surrogate); type it again")
        name, *class_words = _parse_line(line, f"{source}:{number}")
        if name.casefold() in (known.casefold() for known in names):
            raise UserError(f"{source}:{number}: class {name!r} is named twice; write one line with all its words")
        for word in class_words:
            if word.casefold() in taken:
                raise UserError(
                    f"{source}:{number}: word {word!r} stands already in line {taken[word.casefold()]}; "
                    "a word names one class, once: remove one of the two"
                )
            taken[word.casefold()] = number
        word_class += [len(names)] * len(class_words)
        names.append(name)
        words += class_words
    if not names:
        raise UserError(f"{source}: no class in it; write one class a line, `name: word, word`")
    roles = tuple(BACKGROUND if name.casefold() == BACKGROUND else "" for name in names)
    return Ontology(tuple(names), tuple(words), tuple(word_class), roles)


_COLON, _COMMA = re.compile("[:\uff1a]"), re.compile("[,;\uff0c\uff1b\u3001]")
"""Those of Chinese and Japanese keyboards too."""


def _parse_line(line: str, where: str) -> list[str]:
    """The class name, then its words."""
    name, *rest = (" ".join(part.split()) for part in _COLON.split(line, maxsplit=1))
    words = [" ".join(word.split()) for word in _COMMA.split(rest[0])] if rest else [name]
    if not rest and _COMMA.search(name):
        raise UserError(
            f"{where}: {line!r} has no colon, so it would be one class of that name; write one class a line, or "
            "`name: word, word` where several words name one class"
        )
    if not name:
        raise UserError(f"{where}: empty class name in {line!r}; write `name: word, word`")
    if not all(words):
        raise UserError(f"{where}: empty word for class {name!r} in {line!r}; write `name: word, word`")
    return [name, *words]


def class_scores(
    word_scores: NDArray[np.floating[Any]], word_class: Sequence[int] | NDArray[np.integer[Any]]
) -> NDArray[np.floating[Any]]:
    """[..., C] of word_scores [..., K]: a class scores as its best word.

    word_class: [K] ascending class indices, every class once or more.
    """
    starts = np.flatnonzero(np.diff(np.asarray(word_class), prepend=-1))
    return np.maximum.reduceat(word_scores, starts, axis=-1)


def ignore_value(label_map: NDArray[Any]) -> int:
    """The value that means "no class here": 255 for uint8 maps, 65535 for uint16 ones."""
    return int(np.iinfo(label_map.dtype).max)


def label_dtype(classes: int) -> np.dtype[Any]:
    """uint8 while the class indices leave 255 free, else uint16."""
    return np.dtype(np.uint8 if classes <= 255 else np.uint16)
