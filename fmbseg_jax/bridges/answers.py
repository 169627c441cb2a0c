"""What a tool asks for: the classes of one picture, by a RUN, or by the file's name as the labels of a DATA are."""

import importlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmbseg_jax.inference.segmenter import Labels, Segmenter, Words, as_ontology
from labelgen.core.errors import UserError
from labelgen.core.ontology import BACKGROUND, ignore_value
from labelgen.data.records import LabelRow, photo_id_of
from labelgen.data.staging import open_data
from labelgen.formats.palette import palette
from labelgen.labels.matching import PhotoKey, match

LabelMap = NDArray[np.int32]


class Piece(NamedTuple):
    """The pixels of one class of a picture."""

    value: int
    """Its index among the names."""
    name: str
    mask: NDArray[np.bool_]
    """[H, W]."""
    confidence: float
    """0 to 1."""


@dataclass(frozen=True, eq=False)
class Answer:
    """The class of each pixel of a picture."""

    names: tuple[str, ...]
    label_map: LabelMap
    """[H, W] indices into `names`, -1 unlabelled."""
    confidence: Mapping[int, float]
    """Of each class that has a pixel, 0 to 1."""

    def pieces(self, at_least: float = 0.0) -> list[Piece]:
        """One for each class that has a pixel and this confidence, in the order of the classes."""
        sure = [i for i in sorted(self.confidence) if self.confidence[i] >= at_least]
        return [Piece(i, self.names[i], self.label_map == i, self.confidence[i]) for i in sure]


class Labeller(Protocol):
    """Answers by picture."""

    @property
    def names(self) -> tuple[str, ...]:
        """All classes that an answer may have, in the order of its indices."""

    @property
    def version(self) -> str:
        """Another one where answers may be others."""

    @property
    def complete(self) -> bool:
        """Whether every pixel of every picture has a class."""

    def __call__(self, name: str, image: Image.Image) -> Answer:
        """name: the picture's file, with folders in front or without. UserError where it cannot be answered."""


def answer(labels: Labels) -> Answer:
    """Of a Segmenter's result; a class is as sure as at its surest patch (`Labels.scores`)."""
    label_map = labels.label_map.astype(np.int32)
    scores = labels.scores
    # The background of a threshold is where nothing is sure: it has no score of its own.
    confidence = {int(i): scores.get(labels.names[i], 0.0) for i in np.unique(label_map)}
    return Answer(labels.names, label_map, confidence)


class RunLabeller:
    """By a RUN; the name does not matter. For several threads: one picture at a time."""

    complete = True

    def __init__(
        self, run: str, words: Words | None = None, background_threshold: float = 0.0, weights_dir: str = ""
    ) -> None:
        """As Segmenter.restore and Segmenter.__call__ take them. UserError when there is nothing to restore."""
        self._segmenter = Segmenter.restore(run, weights_dir=weights_dir)
        ontology = self._segmenter.ontology if words is None else as_ontology(words)
        self._words, self._threshold = None if words is None else words, background_threshold
        known = any(name.casefold() == BACKGROUND for name in ontology.names)
        self.names = ontology.names if known or not background_threshold else (*ontology.names, BACKGROUND)
        self.version = f"step {self._segmenter.step}, words {ontology.digest[:8]}, threshold {background_threshold:g}"
        self._alone = threading.Lock()

    def __call__(self, name: str, image: Image.Image) -> Answer:
        """See Labeller."""
        with self._alone:
            return answer(self._segmenter(image, self._words, self._threshold))


class DataLabeller:
    """By labels/NAME of a DATA: the photo whose SPLIT/ID the file's name ends with, as corrections are matched."""

    complete = False

    def __init__(self, data: str, labels: str = "default") -> None:
        """UserError where these labels are not complete."""
        self._data, self._labels = open_data(data), labels
        info = self._data.labels_info(labels)
        self.names = self._data.labels(labels).ontology.names
        self.version = f"labels {labels} {info['digest'][:8]}"
        self._readers = {split: self._data.label_reader(labels, split) for split in info["splits"]}
        self._alone = threading.Lock()

    @cached_property
    def _rows(self) -> dict[PhotoKey, int]:
        return {
            (split, photo_id_of(reader[i])): i for split, reader in self._readers.items() for i in range(len(reader))
        }

    def __call__(self, name: str, image: Image.Image) -> Answer:
        """See Labeller. UserError for a name of no photo or of several, and for a picture of another size."""
        with self._alone:
            (split, photo_id), _ = next(iter(match(_Asked(name), self._rows).items()))
            row = LabelRow.decode(self._readers[split][self._rows[split, photo_id]])
        if row.label_map.shape != (image.height, image.width):
            height, width = row.label_map.shape
            raise UserError(
                f"{name}: {image.width} x {image.height} px, but {split}/{photo_id} was labelled with {width} x "
                f"{height}; give the tool the photos that DATA was made of"
            )
        label_map = np.where(row.label_map == ignore_value(row.label_map), -1, row.label_map.astype(np.int32))
        there = [int(i) for i in np.unique(label_map) if i >= 0]
        return Answer(self.names, label_map, {i: float(row.confidence[label_map == i].mean()) / 255 for i in there})


class _Asked:
    """One name, as labelgen.labels.matching takes them."""

    def __init__(self, name: str) -> None:
        self._name = name

    def names(self) -> Sequence[str]:
        return [self._name]

    def where(self, name: str) -> str:
        return name


def open_labeller(
    run: str = "",
    data: str = "",
    labels: str = "default",
    words: str = "",
    background_threshold: float = 0.0,
    weights_dir: str = "",
) -> Labeller:
    """By a RUN, or by labels/NAME of a DATA. UserError unless one of the two is given."""
    if bool(run) == bool(data):
        raise UserError("give a RUN, or a DATA whose labels are wanted; one of the two")
    if run:
        return RunLabeller(run, words or None, background_threshold, weights_dir)
    if words or background_threshold:
        raise UserError("words and background_threshold are for a RUN; the labels of a DATA have theirs")
    return DataLabeller(data, labels)


def colours(names: Sequence[str]) -> list[str]:
    """#rrggbb of each class, as in the masks of `predict` and `labelgen.export`."""
    table = palette(max(256, len(names)))
    return ["#" + table[i].tobytes().hex() for i in range(len(names))]


def package(name: str, install: str) -> Any:
    """A package that only some people have. UserError, with what to install, for the others."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise UserError(f"{error.name} is not installed; pip install {install}") from None
