"""Readings: who says the class of each pixel, and among which classes. Files and tables have them by their titles."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

T = TypeVar("T")
DENSE_CLIP = "dense CLIP"
_REFINED, _SHARPENED, _PRESENT = "refined", "sharpened", "present classes"
_HOW = (_REFINED, _SHARPENED, _PRESENT)


@dataclass(frozen=True)
class Reading:
    """One way to read a photo."""

    model: str
    """Who says it: dense CLIP, the head, or the oracle, which is the head of a RUN that was trained on truth."""
    variant: str = ""
    """Of dense CLIP."""
    refined: bool = False
    """With a vote inside SAM's masks."""
    sharpened: bool = False
    """With edges by the photo's colours."""
    present: bool = False
    """Within the classes found present, else among all."""

    @property
    def title(self) -> str:
        """`dense CLIP, maskclip, present classes`: what it is called in RUN/eval and in tables."""
        how = zip(_HOW, (self.refined, self.sharpened, self.present), strict=True)
        return ", ".join(filter(None, (self.model, self.variant, *(name * said for name, said in how))))

    @staticmethod
    def parse(title: str) -> "Reading":
        """The reading of a title."""
        model, *parts = title.split(", ")
        variant = next((part for part in parts if part not in _HOW), "")
        return Reading(model, variant, *(name in parts for name in _HOW))

    @property
    def within_present(self) -> "Reading":
        """The same within the classes found present."""
        return replace(self, present=True)


HEAD, ORACLE = Reading("head"), Reading("oracle")
REFINED = replace(HEAD, refined=True)
SHARPENED = replace(HEAD, sharpened=True)


def dense_clip(variant: str) -> Reading:
    """The unfiltered dense CLIP of a variant."""
    return Reading(DENSE_CLIP, variant)


def by_reading(titled: Mapping[str, T]) -> dict[Reading, T]:
    """The values of a file's titles."""
    return {Reading.parse(title): value for title, value in titled.items()}


def best_dense(miou: Mapping[Reading, float | None], present: bool = False) -> Reading:
    """The dense CLIP of highest mIoU, unfiltered or within present classes; of several the last by its title."""
    compared = (reading for reading in miou if reading.model == DENSE_CLIP and reading.present == present)
    return max(compared, key=lambda reading: (miou[reading] or 0.0, reading.title))


def ratios(miou: Mapping[Reading, float | None]) -> dict[str, float]:
    """How the head's mIoU compares with dense CLIP's best and its own once refined, where there is something to compare
    with."""
    pairs = {
        "head / best dense CLIP": (HEAD, best_dense(miou)),
        "head / best dense CLIP within present classes": (HEAD, best_dense(miou, present=True)),
        "refined / head": (REFINED, HEAD),
    }
    values = {name: (miou[above], miou[below]) for name, (above, below) in pairs.items()}
    return {name: above / below for name, (above, below) in values.items() if below and above is not None}
