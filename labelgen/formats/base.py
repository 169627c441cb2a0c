"""What a format is given of a photo, and what it does with it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from labelgen.core.files import write_atomic
from labelgen.formats.regions import Outlines, outlines


class ClassInfo(NamedTuple):
    """A class of the label maps."""

    name: str
    colour: tuple[int, int, int]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Annotated:
    """One photo and its label map."""

    number: int
    """Its place among all photos, from 0: what ids are made of."""
    name: str
    """ID, or SPLIT/ID: the name of the photo's own files, without suffix."""
    file: str
    """The picture as tools are to find it in their folder of photos; `name` where that is not known."""
    path: Path | None
    """Where the picture lies now; None where that is not known."""
    label_map: NDArray[np.int32]
    """[H, W] class, -1 unlabelled."""
    confidence: NDArray[np.uint8] | None = None
    """[H, W], 255 = certain; None where there is none to tell."""

    @cached_property
    def outlines(self) -> Outlines:
        """Its polygons; computed once for all formats that have polygons."""
        return outlines(self.label_map, self.confidence)

    @property
    def classes(self) -> list[int]:
        """Classes that have a pixel, ascending."""
        there = np.unique(self.label_map)
        return [int(value) for value in there if value >= 0]

    def class_confidence(self, mask: NDArray[np.bool_]) -> float | None:
        """Mean confidence of the pixels of a mask bool [H, W], 0 to 1."""
        return None if self.confidence is None else float(self.confidence[mask].mean()) / 255


@dataclass
class State:
    """What a format keeps of the photos until the end, JSON-able: over several hosts they are put together."""

    records: list[tuple[int, Any]] = field(default_factory=list)
    """(the photo's number, what the files about all photos say of it)."""
    counts: Counter[str] = field(default_factory=Counter)
    """How often something could not be said as it is."""


class Writer(Protocol):
    """A format. FOLDER and the classes are given to the constructor."""

    state: State

    def add(self, photo: Annotated) -> None:
        """Writes the photo's own files, and keeps what is for the others."""

    def finish(self, records: Sequence[Any]) -> None:
        """Writes the files about all photos; records: in the order of the photos."""

    def remarks(self, counts: Counter[str]) -> list[str]:
        """What the files do not say, or say in a way that a reader must know of."""


def save(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)


def rounded(confidence: float | None) -> float | None:
    """Three digits: what it was measured in has 255 steps."""
    return None if confidence is None else round(confidence, 3)
