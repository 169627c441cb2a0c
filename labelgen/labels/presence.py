"""Which classes a photo shows, and roughly where: crops of several scales vote (the paper's "detected categories").

Data flow: evidence (crop embeddings, dense maps) + prototypes -> presence scores, the window gate and class
probabilities over the patch grid, which stages 1.1, 1.2 and the merge read. numpy alone.

Calibration puts the classes of the dense maps on one scale: how strongly does each fire anyway? A word that is similar
to everything says little, one that never reaches high may still be the best there is. So the cosines of a class are
centred and scaled by their mean and spread over the patches of the DATA's photos, as far as there are enough photos to
know them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64

from labelgen.core.arrays import Numpy
from labelgen.core.ontology import Ontology, class_scores
from labelgen.data.records import EvidenceRow

ENOUGH_PHOTOS = 8
"""Photos at which half of the measured difference between classes is believed."""

FLATTEST = 0.25
"""Least spread of a class as a share of the mean: a map without any contrast is not blown up."""


@dataclass(frozen=True)
class PresenceSettings:
    """How crops and dense evidence are read; the fields of `config.presence` (see configs/default.py)."""

    temperature: float
    dense_temperature: float
    threshold: float
    gate: float


@dataclass(frozen=True)
class Presence:
    """What `detect` finds."""

    scores: Float32[Numpy, "C"]
    """0..1."""
    present: Bool[Numpy, "C"]
    gate: Float32[Numpy, "h w C"]
    """Log-probabilities."""


def detect(
    evidence: EvidenceRow, prototypes: Float32[Numpy, "K E"], ontology: Ontology, settings: PresenceSettings
) -> Presence:
    """Presence of each class by its crops; the class of the whole photo's best crop is always present."""
    words = evidence.crops.astype(np.float32) @ prototypes.T
    probability = softmax(class_scores(words, ontology.word_class) / settings.temperature)
    scores = probability.max(0)
    present = scores >= min(settings.threshold, float(scores.max()))
    gate = np.log(_cover(evidence) @ probability + 1e-4)
    return Presence(scores, present, gate.reshape(*evidence.grid_hw, -1).astype(np.float32))


def _cover(evidence: EvidenceRow) -> Float32[Numpy, "N n"]:
    """Weights of the n crops that cover each patch's centre, summing to one: small crops know where."""
    h, w = evidence.grid_hw
    y = ((np.arange(h) + 0.5) / h)[:, None, None]
    x = ((np.arange(w) + 0.5) / w)[None, :, None]
    x0, y0, x1, y1 = evidence.crop_boxes.T
    inside = (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
    weights = inside.reshape(h * w, -1) / ((x1 - x0) * (y1 - y0)) ** 2
    return np.asarray(weights / np.maximum(weights.sum(1, keepdims=True), 1e-9), np.float32)


def patch_probabilities(
    logits: Float32[Numpy, "h w C"], presence: Presence, settings: PresenceSettings
) -> Float32[Numpy, "h w C"]:
    """Gated class probabilities of each patch by its cosines, absent classes zero."""
    gated = logits / settings.dense_temperature + settings.gate * presence.gate
    return softmax(np.where(presence.present, gated, -np.inf))


def dense_logits(
    evidence: EvidenceRow, variant: str, prototypes: Float32[Numpy, "K E"], ontology: Ontology
) -> Float32[Numpy, "h w C"]:
    """Cosines of a variant's dense map with each class (max over its words)."""
    return class_scores(dense_map(evidence, variant) @ prototypes.T, ontology.word_class)


def dense_map(evidence: EvidenceRow, variant: str) -> Float32[Numpy, "h w E"]:
    """The map of a dense variant; of "a+b" the mean of both maps, which are means of unit vectors."""
    maps = [evidence.dense[name].astype(np.float32) for name in variant.split("+")]
    return maps[0] if len(maps) == 1 else np.asarray(np.mean(maps, 0, dtype=np.float32))


def softmax(logits: Float32[Numpy, "*n C"]) -> Float32[Numpy, "*n C"]:
    """Softmax over the last axis; -inf gives zero."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(-1, keepdims=True), np.float32)


@dataclass(frozen=True)
class Calibration:
    """Mean and spread of the cosines of each class over patches."""

    mean: Float32[Numpy, "C"]
    spread: Float32[Numpy, "C"]

    @classmethod
    def none(cls, classes: int) -> "Calibration":
        """Leaves cosines as they are."""
        return cls(np.zeros(classes, np.float32), np.ones(classes, np.float32))

    def apply(self, cosines: Float32[Numpy, "*n C"]) -> Float32[Numpy, "*n C"]:
        """Cosines on one scale: spread of the average class, mean zero."""
        return np.asarray((cosines - self.mean) * (self.spread.mean() / self.spread), np.float32)

    def to_json(self) -> dict[str, Any]:
        """Lists of numbers."""
        return {"mean": self.mean.tolist(), "spread": self.spread.tolist()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Calibration":
        """What to_json gave."""
        return cls(np.array(fields["mean"], np.float32), np.array(fields["spread"], np.float32))


def measure(
    rows: Iterable[EvidenceRow], variant: str, prototypes: Float32[Numpy, "K E"], ontology: Ontology
) -> Calibration:
    """Calibration of one dense variant by these photos; of no photo or one class, none."""
    classes = len(ontology.names)
    total, squares, patches, photos = np.zeros(classes), np.zeros(classes), 0, 0
    for row in rows:
        cosines = dense_logits(row, variant, prototypes, ontology).reshape(-1, classes).astype(np.float64)
        total, squares = total + cosines.sum(0), squares + (cosines**2).sum(0)
        patches, photos = patches + len(cosines), photos + 1
    if not photos or classes == 1:
        return Calibration.none(classes)
    mean = total / patches
    spread = np.sqrt(np.maximum(squares / patches - mean**2, 1e-8))
    belief = photos / (photos + ENOUGH_PHOTOS)
    spread = np.maximum(spread, FLATTEST * spread.mean())
    return Calibration(_shrunk(mean, belief), _shrunk(spread, belief))


def _shrunk(values: Float64[Numpy, "C"], belief: float) -> Float32[Numpy, "C"]:
    """Towards their mean over the classes, where there is little reason to tell them apart."""
    return np.asarray(values.mean() + belief * (values - values.mean()), np.float32)


def sample(photos: int, limit: int) -> list[int]:
    """At most `limit` photo numbers, evenly spread over `photos`."""
    count = min(photos, limit)
    return [i * photos // count for i in range(count)]
