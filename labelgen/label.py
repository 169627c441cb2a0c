"""Free labels of one photo from its evidence and the words: presence, stage 1.1, stage 1.2, merge. Array work only.

Other words on encoded photos come through here alone; no model runs.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from labelgen.calibration import Calibration
from labelgen.core.ontology import Ontology, label_dtype
from labelgen.coverage import coverage
from labelgen.data import rle
from labelgen.data.records import EvidenceRow, LabelRow
from labelgen.masks import name_masks, paint, strongest
from labelgen.merge import merge, patch_targets
from labelgen.points import NamedMasks, prompt_masks
from labelgen.presence import Presence, PresenceSettings, dense_logits, detect, patch_probabilities

Array = NDArray[np.float32]
LabelMap = NDArray[np.int64]
WORKING_PX = 1024
"""Larger photos are labelled at this longest side; SAM itself sees no more of them."""


@dataclass(frozen=True)
class LabelSettings:
    """What the labelling of a photo depends on besides its evidence and the words."""

    variant: str
    presence: PresenceSettings
    points_per_class: int
    mask_min_confidence: float
    merge_min_confidence: float

    @classmethod
    def from_config(cls, config: ConfigDict) -> "LabelSettings":
        """Read at the edge, from the fields labels, presence, points, masks and merge."""
        return cls(
            config.labels.variant,
            PresenceSettings(**config.presence.to_dict()),
            config.points.per_class,
            config.masks.min_confidence,
            config.merge.min_confidence,
        )


@dataclass(frozen=True)
class Stages:
    """Everything between evidence and labels, for the labels themselves, `quality` and the report.

    probabilities: float32 [h, w, C]; label maps: int [H, W], class or -1; confidence: float32 [H, W] in 0..1.
    """

    presence: Presence
    probabilities: Array
    prompted: NamedMasks
    named: NamedMasks
    stage11: LabelMap
    stage12: LabelMap
    full: LabelMap
    merged: LabelMap
    confidence: Array


def label_stages(
    evidence: EvidenceRow,
    settings: LabelSettings,
    ontology: Ontology,
    prototypes: Array,
    calibration: Calibration,
    present: NDArray[np.bool_] | None = None,
) -> Stages:
    """All stages of one photo. `present` bool [C] replaces detection (the ceiling of naming in `quality`)."""
    presence = detect(evidence, prototypes, ontology, settings.presence)
    if present is not None:
        presence = Presence(presence.scores, present, presence.gate)
    logits = calibration.apply(dense_logits(evidence, settings.variant, prototypes, ontology))
    probabilities = patch_probabilities(logits, presence, settings.presence)

    masks = evidence.masks
    inside = coverage(masks, evidence.grid_hw)
    prompted = prompt_masks(probabilities, presence.present, masks, inside, settings.points_per_class)
    named = name_masks(probabilities, masks, inside, settings.mask_min_confidence)
    stage11, stage12 = strongest(prompted, masks), paint(named, masks)
    classes = np.flatnonzero(presence.present)
    full, merged, confidence = merge(probabilities, classes, [stage11, stage12], settings.merge_min_confidence)
    return Stages(presence, probabilities, prompted, named, stage11[0], stage12[0], full, merged, confidence)


def at_most(evidence: EvidenceRow, longest_px: int) -> EvidenceRow:
    """The evidence of the photo made smaller, to longest_px at most: masks are unpacked by the hundred."""
    if max(evidence.size_hw) <= longest_px:
        return evidence
    height, width = (max(1, side * longest_px // max(evidence.size_hw)) for side in evidence.size_hw)
    return replace(evidence, size_hw=(height, width), masks=rle.resized(evidence.masks, (height, width)))


def nearest(values: NDArray[Any], size_hw: tuple[int, int]) -> NDArray[Any]:
    """Values [h, w] at the nearest pixel of another size [H, W]."""
    rows, columns = ((np.arange(out) + 0.5) * side // out for out, side in zip(size_hw, values.shape, strict=True))
    return np.asarray(values[rows.astype(int)[:, None], columns.astype(int)])


def label_photo(
    evidence: EvidenceRow,
    settings: LabelSettings,
    ontology: Ontology,
    prototypes: Array,
    calibration: Calibration,
    grid_hw: tuple[int, int],
) -> LabelRow:
    """The labels row of one photo; grid_hw is the DATA's fixed patch grid. Pure: same evidence, same bytes."""
    seen = at_most(evidence, WORKING_PX)
    stages = label_stages(seen, settings, ontology, prototypes, calibration)
    label_map, confidence = (nearest(values, evidence.size_hw) for values in (stages.merged, stages.confidence))
    classes = np.flatnonzero(stages.presence.present)
    dtype = label_dtype(len(ontology.names))
    target_classes, target_shares = patch_targets(stages.merged, evidence.grid_hw, grid_hw)
    return LabelRow(
        photo_id=evidence.photo_id,
        classes=classes.astype(np.int32),
        scores=stages.presence.scores[classes],
        label_map=np.where(label_map < 0, np.iinfo(dtype).max, label_map).astype(dtype),
        confidence=np.round(confidence * 255).astype(np.uint8),
        target_classes=target_classes,
        target_shares=target_shares,
    )
