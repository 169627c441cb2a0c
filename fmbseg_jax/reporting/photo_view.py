"""One photo of the report: everything between its pixels and its masks, made again from DATA and RUN by array work.

Data flow: rows of DATA -> `Looker` -> `Look` -> the photo's script, which the page loads when it comes into view. A
page that is opened from disk may not read the pixels of an image file, so what lies under the pointer is not asked of
a picture: label maps, similarity maps and masks travel as numbers.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmbseg_jax.inference.label_maps import Background, pixel_classes, refined
from fmbseg_jax.inference.other_words import Asked
from labelgen.core.geometry import WORKING_PX
from labelgen.core.ontology import Ontology, class_scores, ignore_value
from labelgen.data import rle
from labelgen.data.records import EvidenceRow, LabelRow
from labelgen.labels.free_labels import LabelSettings, Stages, at_most, label_stages, nearest
from labelgen.labels.presence import Calibration, Presence, dense_map, detect
from labelgen.labels.scores import confusion, scores

Array = NDArray[np.float32]
LabelMap = NDArray[np.integer]
SHOWN_PX = 512
"""Longest side of what the page shows; larger photos are sampled."""
SIMILARITIES = 12
"""Classes of which a photo's similarity maps are shown, at most."""
MISTAKES = 5
"""Pairs of classes named as a photo's mistakes, at most."""
COMPARED = ("stage11", "stage12", "labels", "dense", "head", "refined")
"""The label maps, in the order in which they come about; the truth stands after them."""


class Labelling(NamedTuple):
    """How labels/NAME were made."""

    settings: LabelSettings
    ontology: Ontology
    prototypes: Array
    calibration: Calibration


class Points(NamedTuple):
    """Query points and the masks they gave: classes int [n], points_xy float [n, 2] as shares of the photo's width and
    height, masks int [n] into bitmaps bool [m, H, W]."""

    classes: NDArray[np.int64]
    points_xy: NDArray[np.float64]
    masks: NDArray[np.int64]
    bitmaps: NDArray[np.bool_]


@dataclass(frozen=True)
class Look:
    """What the report says of one photo."""

    photo_id: str
    size_hw: tuple[int, int]
    maps: dict[str, LabelMap]
    """Names of COMPARED and `truth` -> class per pixel [H, W], -1 where none, at the photo's own size."""
    detections: list[tuple[int, float]]
    """Classes detected, with their scores, the surest first."""
    before: Array
    """[h, w, C] cosines of dense CLIP with each class."""
    after: Array
    """[h, w, C] the same of the head."""
    points: Points | None

    def scores(self, classes: int) -> dict[str, float]:
        """Map -> mIoU over the classes that it or the truth has in this photo; nothing without truth."""
        return {name: scores(counts, range_names(classes)).miou for name, counts in self._counts(classes).items()}

    def per_class(self, classes: int) -> dict[int, float]:
        """Class -> IoU of the head in this photo; nothing without truth."""
        counts = self._counts(classes).get("head")
        if counts is None:
            return {}
        ious = scores(counts, range_names(classes)).per_class
        return {int(name): round(iou, 4) for name, iou in ious.items() if iou is not None}

    def mistakes(self, classes: int) -> list[tuple[int, int, float]]:
        """(true class, class said by the head, share of the annotated pixels), the largest first."""
        counts = self._counts(classes).get("head")
        if counts is None or not counts.sum():
            return []
        wrong = counts.astype(np.float64) / counts.sum()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:MISTAKES]
        pairs = [(int(at) // (classes + 1), int(at) % (classes + 1)) for at in order]
        return [(true, said, round(float(wrong[true, said]), 4)) for true, said in pairs if wrong[true, said] > 0.001]

    def _counts(self, classes: int) -> dict[str, NDArray[np.int64]]:
        if "truth" not in self.maps:
            return {}
        truth = self.maps["truth"]
        return {name: confusion(truth, self.maps[name], classes) for name in COMPARED if name in self.maps}


def range_names(classes: int) -> list[str]:
    """Names for `labelgen.labels.scores` where indices are wanted."""
    return [str(c) for c in range(classes)]


@dataclass(frozen=True)
class Looker:
    """What looking at a photo takes beside its rows."""

    vocabulary: Asked
    settings: LabelSettings
    """Of the RUN, for dense CLIP and, where there are no labels, for what is detected."""
    labelling: Labelling | None
    refine_min_iou: float
    background: Background | None

    def __call__(
        self,
        z: Array,
        dense_z: Array | None,
        evidence: EvidenceRow,
        labels: LabelRow | None,
        truth: LabelMap | None,
    ) -> Look:
        """The photo whose embeddings are z [h', w', E] by the head and, where words are new to it, dense_z by the dense
        map; labels: as DATA has them; truth: [H, W], -1 unknown."""
        ontology, prototypes, size = self.vocabulary.ontology, self.vocabulary.prototypes, evidence.size_hw
        patches, rows, classes = self.vocabulary(z, dense_z)
        dense = dense_map(evidence, self.settings.variant)
        dense_background = self.background and Background(
            self.background.threshold, self.settings.presence.dense_temperature
        )
        maps: dict[str, LabelMap] = {}
        points, presence = None, None
        if self.labelling:
            stages, seen = self._stages(evidence, self.labelling)
            maps = stage_maps(stages, labels, size)
            points, presence = query_points(stages, seen), stages.presence
        maps["dense"] = pixel_classes(dense, prototypes, ontology.word_class, size, None, dense_background)
        maps["head"] = pixel_classes(patches, rows, classes, size, None, self.background)
        maps["refined"] = refined(maps["head"].astype(np.uint16), evidence.masks, self.refine_min_iou)
        if truth is not None:
            maps["truth"] = truth
        presence = presence or detect(evidence, prototypes, ontology, self.settings.presence)
        before = class_scores(dense @ prototypes.T, ontology.word_class)
        after = class_scores(patches @ rows.T, classes)
        return Look(evidence.photo_id, size, maps, detected(presence), before, after, points)

    @staticmethod
    def _stages(evidence: EvidenceRow, labelling: Labelling) -> tuple[Stages, EvidenceRow]:
        seen = at_most(evidence, WORKING_PX)
        return label_stages(seen, *labelling), seen


def stage_maps(stages: Stages, labels: LabelRow | None, size_hw: tuple[int, int]) -> dict[str, LabelMap]:
    """The stages and the final labels, those of DATA where it has them, at the photo's size."""
    if labels is None:
        final: LabelMap = nearest(stages.merged, size_hw)
    else:
        label_map = labels.label_map.astype(np.int64)
        final = np.where(label_map == ignore_value(labels.label_map), -1, label_map)
    stage11, stage12 = (nearest(label_map, size_hw) for label_map in (stages.stage11, stages.stage12))
    return {"stage11": stage11, "stage12": stage12, "labels": final}


def query_points(stages: Stages, evidence: EvidenceRow) -> Points:
    """The prompts of stage 1.1 and their masks, each mask once."""
    prompted, (height, width) = stages.prompted, evidence.size_hw
    ids, masks = np.unique(prompted.ids, return_inverse=True)
    return Points(
        prompted.classes,
        prompted.points_xy.astype(np.float64) / (width, height),
        masks,
        rle.decode(evidence.masks, ids),
    )


def detected(presence: Presence) -> list[tuple[int, float]]:
    """(class, score) of the classes present, the surest first."""
    order = np.argsort(-presence.scores, kind="stable")
    return [(int(c), round(float(presence.scores[c]), 4)) for c in order if presence.present[c]]


def shown_size(size_hw: tuple[int, int]) -> tuple[int, int]:
    """The size at which the page shows a photo: its own, or with the longest side SHOWN_PX."""
    longest = max(size_hw)
    if longest <= SHOWN_PX:
        return size_hw
    return max(1, size_hw[0] * SHOWN_PX // longest), max(1, size_hw[1] * SHOWN_PX // longest)


def payload(look: Look, classes: int) -> dict[str, Any]:
    """What the page needs to draw the photo, JSON-able; `bytes` are base64 of zlib of, one after the other:

    each label map [H, W] as one byte a pixel (two planes, low and high, where there are 255 classes or more; the
    highest value is "none"), each mask [H, W] as bits, then the similarity maps [n, h, w] before and after alignment
    as bytes between the least and the greatest value of each, which `range` has. Label maps hold the difference from
    the pixel above, modulo 256, and masks whether it is another: what is left is mostly zero.
    """
    size = shown_size(look.size_hw)
    ids = similarity_classes(look)
    ranges, planes = {}, []
    for name, cosines in (("before", look.before), ("after", look.after)):
        picked = cosines[..., ids].transpose(2, 0, 1)
        low, high = picked.min((1, 2), keepdims=True), picked.max((1, 2), keepdims=True)
        ranges[name] = np.round(np.column_stack([low.ravel(), high.ravel()]).astype(float), 4).tolist()
        planes.append(np.round((picked - low) / np.maximum(high - low, 1e-6) * 255).astype(np.uint8).tobytes())
    packed = [map_bytes(nearest(label_map, size), classes) for label_map in look.maps.values()]
    points = look.points
    bitmaps = [] if points is None else [nearest(bitmap, size) for bitmap in points.bitmaps]
    packed += [mask_bytes(bitmap) for bitmap in bitmaps]
    return {
        "size": list(size),
        "grid": list(look.before.shape[:2]),
        "maps": list(look.maps),
        "planes": 1 if classes < 255 else 2,
        "masks": len(bitmaps),
        "points": [] if points is None else point_rows(points),
        "similarity": ids,
        "range": ranges,
        "bytes": base64.b64encode(zlib.compress(b"".join([*packed, *planes]), 6)).decode(),
    }


def point_rows(points: Points) -> list[list[float]]:
    """[class, x, y, mask] of each query point, x and y as shares of the photo."""
    rows = zip(points.classes.tolist(), points.points_xy.tolist(), points.masks.tolist(), strict=True)
    return [[c, round(x, 4), round(y, 4), mask] for c, (x, y), mask in rows]


def similarity_classes(look: Look) -> list[int]:
    """The classes of a photo worth a similarity map: first what its truth has, then the head, then dense CLIP."""
    weight = np.zeros(look.before.shape[-1])
    for name, share in (("truth", 4.0), ("head", 2.0), ("dense", 1.0)):
        label_map = look.maps.get(name, np.zeros((0, 0), np.int64))
        inside = label_map[(label_map >= 0) & (label_map < len(weight))]
        weight += share * np.bincount(inside, minlength=len(weight)) / max(1, inside.size)
    for c, score in look.detections:
        weight[c] += 0.1 * score
    order = np.argsort(-weight, kind="stable")[:SIMILARITIES]
    return sorted(int(c) for c in order if weight[c] > 0)


def map_bytes(label_map: LabelMap, classes: int) -> bytes:
    """A label map [H, W] as `payload` has it."""
    none = 255 if classes < 255 else 65535
    wide = np.where(label_map < 0, none, label_map).astype(np.uint16)
    planes = [(wide & 255).astype(np.uint8)] + ([(wide >> 8).astype(np.uint8)] if none > 255 else [])
    return b"".join(np.concatenate([plane[:1], plane[1:] - plane[:-1]]).tobytes() for plane in planes)


def mask_bytes(bitmap: NDArray[np.bool_]) -> bytes:
    """A mask [H, W] as `payload` has it."""
    return np.packbits(np.concatenate([bitmap[:1], bitmap[1:] ^ bitmap[:-1]])).tobytes()


def summary(look: Look, classes: int) -> dict[str, Any]:
    """What the list of photos sorts and filters by, JSON-able."""
    per_map = {name: round(value, 4) for name, value in look.scores(classes).items() if np.isfinite(value)}
    classes_of: Mapping[str, Sequence[int]] = {
        name: present(look.maps.get(name), classes) for name in ("truth", "head")
    }
    labels = look.maps.get("labels")
    return {
        "id": look.photo_id,
        "size": list(look.size_hw),
        "scores": per_map,
        "iou": look.per_class(classes),
        "found": look.detections,
        "classes": sorted({*classes_of["truth"], *classes_of["head"], *(c for c, _ in look.detections)}),
        **classes_of,
        "mistakes": look.mistakes(classes),
        "labelled": None if labels is None else round(float((labels >= 0).mean()), 4),
    }


def present(label_map: LabelMap | None, classes: int) -> list[int]:
    """Classes of a label map."""
    if label_map is None:
        return []
    return [int(c) for c in np.unique(label_map) if 0 <= c < classes]


def script(key: str, fields: Mapping[str, Any]) -> str:
    """The photo's file: a call that hands `payload` to the page."""
    return f"fmbsegPhoto({json.dumps(key)},{json.dumps(fields, separators=(',', ':'))})\n"
