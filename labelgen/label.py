"""Free labels of one photo from its evidence and the words: presence, stage 1.1, stage 1.2, merge. Array work only.

Other words on encoded photos come through here alone; no model runs.
"""

from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from labelgen import rle
from labelgen.calibration import Calibration
from labelgen.masks import name_masks, paint, strongest
from labelgen.merge import merge, patch_targets
from labelgen.ontology import Ontology
from labelgen.points import NamedMasks, prompt_masks
from labelgen.presence import Presence, PresenceSettings, dense_logits, detect, patch_probabilities
from labelgen.records import EvidenceRow, LabelRow, label_dtype
from labelgen.resample import to_patches

Array = NDArray[np.float32]
LabelMap = NDArray[np.int64]


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
    bitmaps = rle.decode(masks, np.arange(len(masks.iou)))
    coverage = to_patches(bitmaps, evidence.grid_hw)
    prompted = prompt_masks(probabilities, presence.present, masks, coverage, settings.points_per_class)
    named = name_masks(probabilities, masks, coverage, settings.mask_min_confidence)
    stage11 = strongest(prompted, bitmaps[prompted.ids])
    stage12 = paint(named, bitmaps[named.ids])
    classes = np.flatnonzero(presence.present)
    full, merged, confidence = merge(probabilities, classes, [stage11, stage12], settings.merge_min_confidence)
    return Stages(presence, probabilities, prompted, named, stage11[0], stage12[0], full, merged, confidence)


def label_photo(
    evidence: EvidenceRow,
    settings: LabelSettings,
    ontology: Ontology,
    prototypes: Array,
    calibration: Calibration,
    grid_hw: tuple[int, int],
) -> LabelRow:
    """The labels row of one photo; grid_hw is the DATA's fixed patch grid. Pure: same evidence, same bytes."""
    stages = label_stages(evidence, settings, ontology, prototypes, calibration)
    classes = np.flatnonzero(stages.presence.present)
    dtype = label_dtype(len(ontology.names))
    target_classes, target_shares = patch_targets(stages.merged, evidence.grid_hw, grid_hw)
    return LabelRow(
        photo_id=evidence.photo_id,
        classes=classes.astype(np.int32),
        scores=stages.presence.scores[classes],
        label_map=np.where(stages.merged < 0, np.iinfo(dtype).max, stages.merged).astype(dtype),
        confidence=np.round(stages.confidence * 255).astype(np.uint8),
        target_classes=target_classes,
        target_shares=target_shares,
    )
