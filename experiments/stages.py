"""Claim 2: stage 1.2 finds what 1.1 misses, by size of the object, number of instances and number of query points."""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from experiments.bench import Bench
from experiments.dealt import Photo, labelled_split, photos
from experiments.runs import miou
from experiments.verdict import LABELS, Claim, Comparison, Plot, Row
from labelgen.core.ontology import BACKGROUND
from labelgen.labels.free_labels import coverage, prompt_masks, strongest
from labelgen.labels.scores import confusion

LabelMap = NDArray[np.int64]
COCO_PHOTO = 640 * 480
SIZES = {"small": (16 / COCO_PHOTO, 32**2 / COCO_PHOTO), "medium": (32**2 / COCO_PHOTO, 96**2 / COCO_PHOTO)}
SIZES["large"] = (96**2 / COCO_PHOTO, 1.1)
"""Shares of the photo's area: COCO's 32 and 96 px squared, which it states for photos of about 640 x 480 px."""

POINTS = (1, 2, 4, 8, 16)
STAGES = ("stage 1.1", "stage 1.2", "merged")


class Object(NamedTuple):
    """A connected part of a true class: bool [H, W], and how many its class has in the photo."""

    class_index: int
    mask: NDArray[np.bool_]
    instances: int

    @property
    def size(self) -> str:
        """small, medium or large."""
        share = self.mask.mean()
        return next(name for name, (low, high) in SIZES.items() if low <= share < high)


def objects(truth: LabelMap, left_out: frozenset[int] = frozenset()) -> Iterator[Object]:
    """The objects of a photo, slivers below SIZES left out."""
    least = SIZES["small"][0] * truth.size
    for c in np.unique(truth[truth >= 0]):
        if int(c) in left_out:
            continue
        parts, count = ndimage.label(truth == c)
        areas = np.bincount(parts.ravel())
        kept = [i for i in range(1, count + 1) if areas[i] >= least]
        for i in kept:
            yield Object(int(c), parts == i, len(kept))


def recall(label_map: LabelMap, thing: Object) -> float:
    """Share of the object's pixels that have its class."""
    return float((label_map[thing.mask] == thing.class_index).mean())


def object_iou(label_map: LabelMap, thing: Object) -> float:
    """IoU with the connected part of its class, as labelled, that fits it best."""
    parts, count = ndimage.label(label_map == thing.class_index)
    inside, areas = np.bincount(parts[thing.mask], minlength=count + 1)[1:], np.bincount(parts.ravel())[1:]
    return float((inside / (areas + thing.mask.sum() - inside)).max(initial=0.0))


class Pass:
    """What one pass over the photos adds up, part by part."""

    def __init__(self, parts: int, classes: int):
        self.objects: dict[tuple[str, str, str], list[list[float]]] = defaultdict(lambda: [[] for _ in range(parts)])
        """(group, stage, figure) -> a value an object."""
        self.by_points = np.zeros((parts, len(POINTS), classes, classes + 1), np.int64)
        self.missed = np.zeros((parts, 2, 2))
        """[:, 0]: pixels that 1.1 has not right, and those of them that 1.2 has; [:, 1]: the other way round."""

    def add(self, photo: Photo, left_out: frozenset[int]) -> None:
        """One photo."""
        stages = dict(zip(STAGES, (photo.stages.stage11, photo.stages.stage12, photo.stages.full), strict=True))
        for thing in objects(photo.truth, left_out):
            instances = "3 or more instances" if thing.instances > 2 else f"{thing.instances} of a class"
            for stage, label_map in stages.items():
                figures = {"recall": recall(label_map, thing), "IoU": object_iou(label_map, thing)}
                for group in (thing.size, instances):
                    for figure, value in figures.items():
                        self.objects[group, stage, figure][photo.part].append(value)
        annotated = photo.truth >= 0
        right = [(stages[stage] == photo.truth) & annotated for stage in STAGES[:2]]
        for turn, (one, other) in enumerate((right, right[::-1])):
            wrong = annotated & ~one
            self.missed[photo.part, turn] += wrong.sum(), (wrong & other).sum()
        for i, count in enumerate(POINTS):
            self.by_points[photo.part, i] += confusion(photo.truth, stage11(photo, count), self.by_points.shape[2])


def stage11(photo: Photo, points: int) -> LabelMap:
    """Stage 1.1 with another number of query points a class."""
    masks, stages = photo.evidence.masks, photo.stages
    inside = coverage(masks, photo.evidence.grid_hw)
    prompted = prompt_masks(stages.probabilities, stages.presence.present, masks, inside, points)
    return strongest(prompted, masks)[0]


def run(bench: Bench) -> Claim:
    """One pass over the labelled photos."""
    subset = labelled_split(bench)
    ontology = subset.words.ontology
    sums = Pass(bench.seeds, len(ontology.names))
    left_out = frozenset(c for c, role in enumerate(ontology.roles) if role == BACKGROUND)
    with bench.times("label stages"):
        for photo in photos(bench, subset):
            sums.add(photo, left_out)
    groups = [*SIZES, "1 of a class", "2 of a class", "3 or more instances"]
    by_group = {
        (group, stage): Row(f"{group}: {stage}", group_figures(sums, group, stage), LABELS)
        for group in groups
        for stage in STAGES
        if (group, stage, "recall") in sums.objects
    }
    return Claim(
        "The second stage finds objects that the query points of the first one miss: small ones, several of a class.",
        f"Every connected part of a true class of {subset.split} is an object (`background` is none). Sizes as COCO's, "
        "relative to the photo: small below 1/300 of its area (32² of 640 x 480 px), large from 3 % on (96²); parts "
        "below 16 of 640 x 480 px are left out. Recall: share of the object's pixels with its class, IoU: with the "
        f"connected part found that fits best. Photos are dealt into {bench.seeds} parts.",
        [*by_group.values(), *point_rows(sums), *missed_rows(sums)],
        comparisons(by_group, sums),
        list(subset.notes),
        plots=[points_plot(sums)],
    )


def group_figures(sums: Pass, group: str, stage: str) -> dict[str, list[float]]:
    """Means over the objects of each part."""
    recalls, ious = sums.objects[group, stage, "recall"], sums.objects[group, stage, "IoU"]
    mean = [[float(np.mean(v)) if v else float("nan") for v in values] for values in (recalls, ious)]
    return {"recall": mean[0], "IoU": mean[1], "objects": [float(len(values)) for values in recalls]}


def point_rows(sums: Pass) -> list[Row]:
    """Stage 1.1 by query points."""
    by_points = [[miou(counts) for counts in sums.by_points[:, i]] for i in range(len(POINTS))]
    return [
        Row(f"stage 1.1, {count} query points a class", {"mIoU": values}, LABELS)
        for count, values in zip(POINTS, by_points, strict=True)
    ]


def missed_rows(sums: Pass) -> list[Row]:
    """How much of what one stage has not right the other has."""
    share = sums.missed[..., 1] / np.maximum(sums.missed[..., 0], 1)
    names = ("of pixels that 1.1 has not right, 1.2 has", "of pixels that 1.2 has not right, 1.1 has")
    return [Row(name, {"share": share[:, i].tolist()}, LABELS) for i, name in enumerate(names)]


def points_plot(sums: Pass) -> Plot:
    """mIoU over query points."""
    by_part = [[miou(counts) for counts in part] for part in sums.by_points]
    return Plot("query-points", "query points a class", "mIoU", list(map(float, POINTS)), {"stage 1.1": by_part}, True)


def comparisons(rows: dict[tuple[str, str], Row], sums: Pass) -> list[Comparison]:
    """Small objects, several instances, and the merge."""

    def figure(group: str, stage: str) -> list[float]:
        return rows[group, stage].figures["recall"]

    def gain(group: str) -> list[float]:
        pairs = zip(figure(group, "stage 1.2"), figure(group, "stage 1.1"), strict=True)
        return [second - first for second, first in pairs]

    one, many, small, large = "1 of a class", "3 or more instances", "small", "large"
    compared = []
    if (small, "stage 1.1") in rows and (large, "stage 1.1") in rows:
        compared += [
            Comparison(
                "recall of small objects is higher in 1.2 than in 1.1",
                figure(small, "stage 1.2"),
                figure(small, "stage 1.1"),
            ),
            Comparison("1.2's gain over 1.1 is larger for small than for large objects", gain(small), gain(large)),
            Comparison(
                "recall of small objects is higher merged than in 1.1",
                figure(small, "merged"),
                figure(small, "stage 1.1"),
            ),
        ]
    if (many, "stage 1.1") in rows and (one, "stage 1.1") in rows:
        compared.append(Comparison("1.2's gain is larger for 3 or more instances than for one", gain(many), gain(one)))
    share = sums.missed[:, 0, 1] / np.maximum(sums.missed[:, 0, 0], 1)
    nothing = [0.1] * len(share)
    return [*compared, Comparison("1.2 has right a tenth or more of what 1.1 has not", share.tolist(), nothing)]
