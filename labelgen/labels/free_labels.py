"""Free labels of one photo from its evidence and the words: presence, stage 1.1, stage 1.2, merge, patch targets.

Data flow: EvidenceRow + words, their prototypes and calibration -> LabelRow. Array work only, no model runs: other
words on photos that are encoded come through here alone. From the paper's section 3.1, in its order:

    presence    which classes the photo has (labelgen.labels.presence), and the dense map's probabilities of them
    stage 1.1   a class's most similar patches, spread out, are its query points, and prompt SAM. SAM answered every
                point of its grid when the photo was encoded (it knows no words), so a prompt is looked up
    stage 1.2   every automatic mask is named by the dense evidence pooled in it: small objects and parts that no
                query point of stage 1.1 met get their label here
    merge       the dense map and both stages vote; agreement is confidence, low confidence is ignore
    targets     how much of each patch each class has, for training
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, Shaped, UInt8, UInt16
from ml_collections import ConfigDict
from scipy.sparse import csr_matrix

from labelgen.core.arrays import Numpy
from labelgen.core.geometry import WORKING_PX, area_matrix, to_pixels
from labelgen.core.ontology import Ontology, label_dtype
from labelgen.data import rle
from labelgen.data.records import SLOTS, EvidenceRow, LabelRow
from labelgen.data.rle import MaskSet
from labelgen.labels.presence import Calibration, Presence, PresenceSettings, dense_logits, detect, patch_probabilities

LabelMap = Int64[Numpy, "H W"]
"""Classes, -1 where there is none."""
Confidence = Float32[Numpy, "H W"]
"""0..1."""
Painted = tuple[LabelMap, Confidence]
"""Classes, and the confidence of the mask that says so."""


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
class NamedMasks:
    """Masks with a class."""

    ids: Int64[Numpy, "n"]
    """Into the MaskSet."""
    classes: Int64[Numpy, "n"]
    confidence: Float32[Numpy, "n"]
    """0..1."""
    points_xy: Float32[Numpy, "p 2"]
    """The prompts in photo pixels; none where masks were not prompted."""


@dataclass(frozen=True)
class Stages:
    """Everything between evidence and labels, for the labels themselves, `quality` and the report."""

    presence: Presence
    probabilities: Float32[Numpy, "h w C"]
    prompted: NamedMasks
    named: NamedMasks
    stage11: LabelMap
    stage12: LabelMap
    full: LabelMap
    merged: LabelMap
    confidence: Confidence


def label_photo(
    evidence: EvidenceRow,
    settings: LabelSettings,
    ontology: Ontology,
    prototypes: Float32[Numpy, "K E"],
    calibration: Calibration,
    grid_hw: tuple[int, int],
) -> LabelRow:
    """The labels row of one photo; grid_hw is the DATA's fixed patch grid. Pure: same evidence, same bytes."""
    seen = at_most(evidence, WORKING_PX)
    stages = label_stages(seen, settings, ontology, prototypes, calibration)
    classes = np.flatnonzero(stages.presence.present)
    dtype = label_dtype(len(ontology.names))
    label_map = np.where(stages.merged < 0, np.iinfo(dtype).max, stages.merged).astype(dtype)
    confidence = np.round(stages.confidence * 255).astype(np.uint8)
    target_classes, target_shares = patch_targets(stages.merged, evidence.grid_hw, grid_hw)
    return LabelRow(
        photo_id=evidence.photo_id,
        classes=classes.astype(np.int32),
        scores=stages.presence.scores[classes],
        label_map=nearest(label_map, evidence.size_hw),
        confidence=nearest(confidence, evidence.size_hw),
        target_classes=target_classes,
        target_shares=target_shares,
    )


def label_stages(
    evidence: EvidenceRow,
    settings: LabelSettings,
    ontology: Ontology,
    prototypes: Float32[Numpy, "K E"],
    calibration: Calibration,
    present: Bool[Numpy, "C"] | None = None,
) -> Stages:
    """All stages of one photo. `present` replaces detection (the ceiling of naming in `quality`)."""
    presence = detect(evidence, prototypes, ontology, settings.presence)
    if present is not None:
        presence = Presence(presence.scores, present, presence.gate)
    logits = calibration.apply(dense_logits(evidence, settings.variant, prototypes, ontology))
    probabilities = patch_probabilities(logits, presence, settings.presence)
    masks = evidence.masks
    inside = coverage(masks, evidence.grid_hw)

    prompted = prompt_masks(probabilities, presence.present, masks, inside, settings.points_per_class)
    stage11 = strongest(prompted, masks)
    named_masks = name_masks(probabilities, masks, inside, settings.mask_min_confidence)
    stage12 = paint(named_masks, masks)
    classes = np.flatnonzero(presence.present)
    full, merged, confidence = merge(probabilities, classes, [stage11, stage12], settings.merge_min_confidence)
    return Stages(presence, probabilities, prompted, named_masks, stage11[0], stage12[0], full, merged, confidence)


def prompt_masks(
    probabilities: Float32[Numpy, "h w C"],
    present: Bool[Numpy, "C"],
    masks: MaskSet,
    coverage: Float32[Numpy, "M h w"],
    per_class: int,
) -> NamedMasks:
    """Stage 1.1: the masks that SAM gives for each present class's query points.

    coverage: share of each patch inside each mask. Of a point's masks the one of highest predicted IoU x net evidence
    (class inside less other classes inside) is taken.
    """
    ids, classes, confidence, points = [], [], [], []
    for c in np.flatnonzero(present):
        similarity = probabilities[..., c]
        for point in _grid_points(query_points(similarity, per_class), similarity.shape, masks):
            candidates = masks.point_masks[point]
            candidates = candidates[candidates >= 0]
            if not len(candidates):
                continue
            inside = (coverage[candidates] * similarity).sum((1, 2))
            area = coverage[candidates].sum((1, 2))
            best = int(np.argmax(masks.iou[candidates] * (inside - 0.5 * area)))
            if area[best] <= 0:
                continue
            ids.append(candidates[best])
            classes.append(c)
            confidence.append(inside[best] / area[best])
            points.append(masks.points_xy[point])
    return NamedMasks(
        np.array(ids, np.int64),
        np.array(classes, np.int64),
        np.array(confidence, np.float32),
        np.array(points, np.float32).reshape(-1, 2),
    )


def query_points(similarity: Float32[Numpy, "h w"], count: int, floor: float = 0.5) -> Int64[Numpy, "n 2"]:
    """Patches (row, column) of highest similarity, none near another; n <= count.

    A patch must reach `floor` times the maximum. Spread: after each pick, patches within a radius that shares the
    qualifying area evenly among `count` points are left out.
    """
    h, w = similarity.shape
    open_map = np.where(similarity >= floor * similarity.max(), similarity, -np.inf)
    radius2 = max(2.0, np.isfinite(open_map).sum() / (count * np.pi))
    rows, columns = np.mgrid[:h, :w]
    picked = []
    for _ in range(count):
        row, column = divmod(int(open_map.argmax()), w)
        if not np.isfinite(open_map[row, column]):
            break
        picked.append((row, column))
        open_map[(rows - row) ** 2 + (columns - column) ** 2 <= radius2] = -np.inf
    return np.array(picked, np.int64).reshape(-1, 2)


def _grid_points(patches: Int64[Numpy, "n 2"], grid_hw: tuple[int, ...], masks: MaskSet) -> Int64[Numpy, "p"]:
    """The SAM grid point nearest to each patch's centre, without repeats, in the order given."""
    height, width = masks.size_hw
    h, w = grid_hw
    if not len(masks.points_xy) or not len(patches):
        return np.zeros(0, np.int64)
    centres_xy = (patches[:, ::-1] + 0.5) * (width / w, height / h)
    distance = ((centres_xy[:, None] - masks.points_xy[None]) ** 2).sum(-1)
    return np.array(list(dict.fromkeys(distance.argmin(1).tolist())), np.int64)


def strongest(named_masks: NamedMasks, masks: MaskSet) -> Painted:
    """The most confident mask wins each pixel."""
    return _on_top(named_masks, masks, np.argsort(named_masks.confidence, kind="stable"))


def name_masks(
    probabilities: Float32[Numpy, "h w C"], masks: MaskSet, coverage: Float32[Numpy, "M h w"], min_confidence: float
) -> NamedMasks:
    """Stage 1.2: automatic masks with the class of highest pooled probability, where that reaches `min_confidence`.

    coverage: share of each patch inside each mask.
    """
    ids = np.flatnonzero(masks.automatic)
    weights = coverage[ids].reshape(len(ids), probabilities.shape[0] * probabilities.shape[1])
    area = weights.sum(1, keepdims=True)
    pooled = weights @ probabilities.reshape(-1, probabilities.shape[-1]) / np.maximum(area, 1e-6)
    keep = (pooled.max(1) >= min_confidence) & (area[:, 0] > 0)
    return NamedMasks(
        ids[keep], pooled.argmax(1)[keep], pooled.max(1)[keep].astype(np.float32), np.zeros((0, 2), np.float32)
    )


def paint(named_masks: NamedMasks, masks: MaskSet) -> Painted:
    """Small masks over large ones."""
    return _on_top(named_masks, masks, np.argsort(-rle.areas(masks)[named_masks.ids], kind="stable"))


def _on_top(named_masks: NamedMasks, masks: MaskSet, order: Int64[Numpy, "n"]) -> Painted:
    """The masks laid one over the other in an order of their places in `named_masks`."""
    top = rle.stacked(masks, named_masks.ids[order])
    # -1 meets the element after the last one: no mask, no confidence.
    return np.append(named_masks.classes[order], -1)[top], np.append(named_masks.confidence[order], np.float32(0))[top]


def merge(
    probabilities: Float32[Numpy, "h w C"], classes: Int64[Numpy, "n"], stages: list[Painted], min_confidence: float
) -> tuple[LabelMap, LabelMap, Confidence]:
    """Vote of the dense map and the stages, each with weight one.

    probabilities: of patches; classes: the present ones; stages: class per pixel (-1: no vote) with confidence.
    Returns the class per pixel, the same with -1 where the mean vote stays below `min_confidence`, and that mean vote.
    """
    size_hw = stages[0][0].shape
    votes = to_pixels(np.ascontiguousarray(probabilities[..., classes].transpose(2, 0, 1)), (size_hw[0], size_hw[1]))
    place = np.full(probabilities.shape[-1], -1)
    place[classes] = np.arange(len(classes))
    for label_map, confidence in stages:
        pixels = np.flatnonzero((label_map >= 0) & (place[label_map] >= 0))
        voters = place[label_map.ravel()[pixels]]
        votes.reshape(len(classes), -1)[voters, pixels] += confidence.ravel()[pixels]
    confidence = votes.max(0) / (1 + len(stages))
    full = classes[votes.argmax(0)]
    return full, np.where(confidence >= min_confidence, full, -1), confidence


def patch_targets(
    label_map: LabelMap, grid_hw: tuple[int, int], fixed_hw: tuple[int, int], keep: int = SLOTS
) -> tuple[UInt16[Numpy, "h w {keep}"], UInt8[Numpy, "h w {keep}"]]:
    """Class shares of each patch: classes, and their shares, 255 = the whole patch.

    label_map: -1 is ignore and has no share; grid_hw: the photo's valid patches; fixed_hw: the grid stored, h x w.
    Largest share first; what exceeds `keep` classes is dropped; unused places are class 0 with share 0.
    """
    height, width = label_map.shape
    rows, columns = area_matrix(grid_hw[0], height), area_matrix(grid_hw[1], width)
    present = np.unique(label_map[label_map >= 0])
    classes = np.zeros((*fixed_hw, keep), np.uint16)
    shares = np.zeros((*fixed_hw, keep), np.uint8)
    if not len(present):
        return classes, shares
    masks = (label_map == present[:, None, None]).astype(np.float32)
    of_patch = rows @ masks @ columns.T
    order = np.argsort(-of_patch, axis=0, kind="stable")[:keep].transpose(1, 2, 0)
    top = np.take_along_axis(of_patch.transpose(1, 2, 0), order, -1)
    quantised = np.floor(top * 255 + 1e-3).astype(np.uint8)
    n = order.shape[-1]
    classes[: grid_hw[0], : grid_hw[1], :n] = np.where(quantised > 0, present[order], 0)
    shares[: grid_hw[0], : grid_hw[1], :n] = quantised
    return classes, shares


def coverage(masks: MaskSet, grid_hw: tuple[int, int]) -> Float32[Numpy, "M h w"]:
    """Share of each patch inside each mask; the grid h x w covers the photo exactly.

    With F(t) the share of the patch's area that the first t pixels of the photo have, row by row, a run of ones from
    pixel s to e covers F(e) - F(s) of it. F is the whole rows before t, plus the beginning of t's row; both are sums of
    few products, so that the cost is that of the runs, not of the pixels.
    """
    height, width = masks.size_hw
    count, (h, w) = len(masks), grid_hw
    mask, pixel, sign = _ends(masks)
    y, x = np.divmod(pixel, width)
    row_shares = np.pad(area_matrix(h, height).T.astype(np.float64), ((0, 1), (0, 0)))  # [H + 1, h]
    whole = csr_matrix((sign, (mask, y)), (count, height + 1)) @ _before(row_shares[:-1])
    within = csr_matrix((sign, (mask * (height + 1) + y, x)), (count * (height + 1), width + 1))
    begun = row_shares.T @ (within @ _before(area_matrix(w, width).T)).reshape(count, height + 1, w)
    return np.asarray(whole[:, :, None] + begun, np.float32)


def _before(
    shares: Float[Numpy, "n cells"],
) -> Float64[Numpy, "n+1 cells"]:
    """The sum of the rows before each place."""
    return np.pad(np.cumsum(shares, 0, dtype=np.float64), ((1, 0), (0, 0)))


def _ends(masks: MaskSet) -> tuple[Int64[Numpy, "ends"], Int64[Numpy, "ends"], Float64[Numpy, "ends"]]:
    """Mask, pixel and sign of the ends of all runs: 1 where ones end, -1 where they begin."""
    counts = np.diff(masks.offsets)
    mask = np.repeat(np.arange(len(masks)), counts)
    within = np.arange(len(mask)) - masks.offsets[:-1][mask]
    pixels = masks.size_hw[0] * masks.size_hw[1]
    pixel = np.cumsum(masks.runs, dtype=np.int64) - mask * pixels
    sign = np.where(within % 2, 1.0, -1.0)
    sign[(pixel == pixels) & (sign < 0)] = 0  # the photo ends with zeros: nothing begins
    return mask, pixel, sign


def at_most(evidence: EvidenceRow, longest_px: int) -> EvidenceRow:
    """The evidence of the photo made smaller, to longest_px at most: masks are unpacked by the hundred."""
    if max(evidence.size_hw) <= longest_px:
        return evidence
    height, width = (max(1, side * longest_px // max(evidence.size_hw)) for side in evidence.size_hw)
    return replace(evidence, size_hw=(height, width), masks=rle.resized(evidence.masks, (height, width)))


def nearest(values: Shaped[Numpy, "h w"], size_hw: tuple[int, int]) -> Shaped[Numpy, "H W"]:
    """Values at the nearest pixel of another size."""
    rows, columns = ((np.arange(out) + 0.5) * side // out for out, side in zip(size_hw, values.shape, strict=True))
    return np.asarray(values.take(columns.astype(int), 1).take(rows.astype(int), 0))
