"""Any list of words, asked of a head that was trained with other ones.

Every asked class is either known, near a trained one, or new. Probabilities come in three steps: the dense map, which
knows no words (fmbseg_jax.runs.dense_map), deals a patch among all asked classes; what it gives to known ones is dealt
anew by the head, which tells these apart far better; and where several asked classes are near the same trained one, so
that the head cannot tell them apart, the dense map deals that one's part among them. With nothing but trained words
this is the head alone. Evaluation asks a split by `split_words`: the trained ones, or others for the same classes.
"""

from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray
from scipy.special import log_softmax, logsumexp

from fmbseg_jax.runs.checkpoint import Restored
from labelgen.core.errors import UserError
from labelgen.core.files import read_json
from labelgen.core.ontology import Ontology, class_scores, read_words
from labelgen.data.dataset import Dataset, read_prototypes

Array = NDArray[np.float32]
Logs = NDArray[np.float64]
SAME_WORD = 0.9
"""Cosine from which on a word is a trained one where a single class was trained, so that no distance is known."""


class Asked:
    """Words as a RUN answers them. new: the names of the classes that only the dense map finds."""

    def __init__(self, restored: Restored, ontology: Ontology, prototypes: Array) -> None:
        """prototypes: float32 [K, E] unit rows of the ontology's words."""
        self._restored, self.ontology, self.prototypes = restored, ontology, prototypes
        word_near = known_words(restored.ontology, restored.prototypes, ontology, prototypes)
        class_near = np.zeros((len(ontology.names), word_near.shape[1]), bool)
        np.logical_or.at(class_near, np.asarray(ontology.word_class), word_near)
        self._groups = groups(class_near)
        self._known_words = word_near.any(1)
        found, counts = np.unique(self._groups, return_counts=True)
        plain = (found >= 0).all() and (counts == 1).all()
        self.by_head = bool(plain) or restored.dense_map is None
        """Whether the head alone answers."""
        new = np.flatnonzero(self._groups < 0)
        self.new = () if self.by_head else tuple(ontology.names[c] for c in new)

    def __call__(self, z: Array, dense: Array | None) -> tuple[Array, Array, tuple[int, ...]]:
        """(patches, prototypes, word_class) for label_maps.pixel_classes, whose softmax at the RUN's temperature gives
        the probabilities.

        z: unit rows float32 [h, w, E] of the head; dense: those of the dense map, not looked at where by_head.
        """
        if self.by_head or dense is None:
            return z, self.prototypes, self.ontology.word_class
        classes = len(self.ontology.names)
        logs = self._logs(z, dense) * self._restored.temperature
        return np.asarray(logs, np.float32), np.eye(classes, dtype=np.float32), tuple(range(classes))

    def _logs(self, z: Array, dense: Array) -> Logs:
        """log P float64 [h, w, C]."""
        word_class, settings = np.asarray(self.ontology.word_class), self._restored.config.presence
        scores = class_scores(dense.astype(np.float64) @ self.prototypes.T, word_class)
        logs: Logs = log_softmax(scores / settings.dense_temperature, -1)
        members = [np.flatnonzero(self._groups == group) for group in np.unique(self._groups[self._groups >= 0])]
        if not members:
            return logs
        words = np.where(self._known_words, z.astype(np.float64) @ self.prototypes.T, -np.inf)
        head = class_scores(words, word_class) / self._restored.temperature
        head = log_softmax(np.stack([head[..., its].max(-1) for its in members], -1), -1)
        known = logsumexp(logs[..., self._groups >= 0], -1)
        for i, its in enumerate(members):
            logs[..., its] += (known + head[..., i] - logsumexp(logs[..., its], -1))[..., None]
        return logs


def known_words(trained: Ontology, taught: Array, ontology: Ontology, prototypes: Array) -> NDArray[np.bool_]:
    """bool [K, trained classes]: which trained class each asked word is near, one at most.

    Near is what is nearer than any two trained words of different classes are: there the head has learnt nothing that
    would tell them apart. The very same word is always near. With VOC's 20 classes and CLIP ViT-B/16 the limit is .929
    (bicycle, motorbike): couch is near sofa (.971), motorcycle near motorbike (.989), truck not near car (.924).

    taught, prototypes: unit rows of the words.
    """
    classes = np.asarray(trained.word_class)
    others = (taught @ taught.T)[classes[:, None] != classes[None]]
    nearest = float(others.max()) if others.size else SAME_WORD
    cosines = prototypes @ taught.T
    best = cosines.argmax(1)
    numbers = {word.casefold(): i for i, word in enumerate(trained.words)}
    near = np.zeros((len(prototypes), len(trained.names)), bool)
    for i, word in enumerate(ontology.words):
        same = numbers.get(word.casefold())
        if same is not None or cosines[i, best[i]] > nearest:
            near[i, classes[best[i] if same is None else same]] = True
    return near


def groups(near: NDArray[np.bool_]) -> NDArray[np.int64]:
    """int64 [C]: a number for each set of asked classes that share a trained one, -1 for those that have none.

    near: bool [C, trained classes]; classes that share one with a third are of one group too.
    """
    group = np.where(near.any(1), np.arange(len(near)), -1)
    for trained in near.T:
        shared = np.unique(group[trained])
        if len(shared) > 1:
            group[np.isin(group, shared)] = shared[0]
    return group


@dataclass(frozen=True)
class Words:
    """What the photos of a split are asked for: prototypes are float32 [K, E] unit rows."""

    ontology: Ontology
    prototypes: NDArray[np.float32]
    source: str


def split_words(data: Dataset, restored: Restored, config: ConfigDict, split: str) -> Words:
    """The words of a split: those of eval.ontologies, which labelgen.run embedded into DATA, or the trained ones."""
    source = config.eval.ontologies.get(split, "")
    if not source:
        return Words(restored.ontology, restored.prototypes, "as trained")
    ontology = read_words(source)
    if ontology.names != restored.ontology.names:
        raise UserError(
            f"{source}: its classes are {', '.join(ontology.names)}; eval.ontologies.{split} needs other words of the "
            f"same classes in the same order: {', '.join(restored.ontology.names)}"
        )
    folder = data.path / "labels" / config.labels.name / f"words-{split}"
    fix = f"run labelgen.run --stage=label with eval.ontologies.{split}={source}"
    if read_json(folder / "ontology.json", fix) != ontology.to_json():
        raise UserError(f"{folder}: embeds other words than {source} has now; {fix}")
    prototypes = read_prototypes(folder / "prototypes.npy", len(ontology.words), data.text_width)
    return Words(ontology, prototypes, f"other words of the same classes: {source}")
