"""What files of labels that others drew have in common: a label map by the name of a photo, in the classes of words."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.core.geometry import HW
from labelgen.core.ontology import UNLABELLED, Ontology
from labelgen.core.walking import walk

DrawnMap = NDArray[np.int32]
"""[H, W] class of the words, -1 unlabelled."""
WITHOUT = "listed without an annotation"
"""Remark on photos of which a file says nothing."""
FLAT = "shapes without an area left out"
"""Remark on points, lines, cuboids, skeletons and tags."""


class Corrections(Protocol):
    """Label maps by name: a name is the photo's file, with folders in front of it or without."""

    @property
    def remarks(self) -> Counter[str]:
        """What was left out or taken as something else, and how often (0: never); whole once all were loaded once."""

    def names(self) -> Sequence[str]:
        """All there are, sorted; those with nothing drawn are left out where a format lists photos."""

    def where(self, name: str) -> str:
        """What messages call it."""

    def load(self, name: str, size_hw: HW | None = None) -> DrawnMap:
        """int32 [H, W] class of the words, -1 unlabelled. size_hw: the photo's, for files that do not say theirs.

        UserError for classes that the words lack.
        """


class Classes:
    """Classes of the words by name; __ignore__ is -1."""

    def __init__(self, words: Ontology) -> None:
        self._names = words.names
        self._index = {name: i for i, name in enumerate(words.names)} | {UNLABELLED: -1}

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def index(self, where: str, name: str) -> int:
        """UserError, naming `where`, for a class that the words lack."""
        if name not in self._index:
            fix = "fix it, or take the file of words that the labels were exported with"
            raise UserError(f"{where}: class {name!r}, which the words do not have ({', '.join(self._names)}); {fix}")
        return self._index[name]


def label_files(folder: Path, *suffixes: str) -> list[Path]:
    """Files of these suffixes, in any case, at any depth, sorted; folders behind links too, each once.

    Hidden ones are no labels, as macOS' `._x.png` are not. UserError for a folder that cannot be read.
    """
    names = walk(folder, refuse=lambda path: "macOS' own" * (path.name == "__MACOSX"))
    return [folder / name for name in sorted(names) if name.rpartition(".")[2].lower() in suffixes]
