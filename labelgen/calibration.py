"""How strongly each class fires anyway: the dense maps of many photos put the classes on one scale.

A word that is similar to everything says little, one that never reaches high may still be the best there is. So the
cosines of a class are centred and scaled by their mean and spread over the patches of the DATA's photos, as far as
there are enough photos to know them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.core.ontology import Ontology
from labelgen.data.records import EvidenceRow
from labelgen.presence import dense_logits

Array = NDArray[np.float32]
ENOUGH_PHOTOS = 8
"""Photos at which half of the measured difference between classes is believed."""

FLATTEST = 0.25
"""Least spread of a class as a share of the mean: a map without any contrast is not blown up."""


@dataclass(frozen=True)
class Calibration:
    """mean, spread: float32 [C] of the cosines of each class over patches."""

    mean: Array
    spread: Array

    @classmethod
    def none(cls, classes: int) -> "Calibration":
        """Leaves cosines as they are."""
        return cls(np.zeros(classes, np.float32), np.ones(classes, np.float32))

    def apply(self, cosines: Array) -> Array:
        """Cosines [..., C] on one scale: spread of the average class, mean zero."""
        return np.asarray((cosines - self.mean) * (self.spread.mean() / self.spread), np.float32)

    def to_json(self) -> dict[str, Any]:
        """Lists of numbers."""
        return {"mean": self.mean.tolist(), "spread": self.spread.tolist()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> "Calibration":
        """What to_json gave."""
        return cls(np.array(fields["mean"], np.float32), np.array(fields["spread"], np.float32))


def measure(rows: Iterable[EvidenceRow], variant: str, prototypes: Array, ontology: Ontology) -> Calibration:
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


def sample(photos: int, most: int) -> list[int]:
    """At most `most` photo numbers, evenly spread over `photos`."""
    count = min(photos, most)
    return [i * photos // count for i in range(count)]


def _shrunk(values: NDArray[np.float64], belief: float) -> Array:
    """Towards their mean over the classes, where there is little reason to tell them apart."""
    return np.asarray(values.mean() + belief * (values - values.mean()), np.float32)
