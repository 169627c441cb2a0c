"""Claim 5: mIoU over the number of training photos."""

from collections.abc import Sequence

import numpy as np

from experiments.bench import Bench
from experiments.runs import best_dense, dense_counts, head_counts, miou, shipped_question, trained
from experiments.verdict import DENSE, Claim, Comparison, Plot, Row
from fmbseg_jax.reporting.readings import HEAD

SHARE = 0.95
ENOUGH = 8
"""Little data: an eighth of the photos."""


def sizes(photos: int) -> list[int]:
    """4, 8, 16 ... and all."""
    return [4 << i for i in range(20) if 4 << i < photos] + [photos]


def reached(counts: Sequence[int], scores: Sequence[float], share: float = SHARE) -> int:
    """The fewest photos from which on the score stays at `share` of its end or above."""
    enough = [score >= share * scores[-1] for score in scores]
    first = next(i for i in range(len(counts)) if all(enough[i:]))
    return counts[first]


def run(bench: Bench) -> Claim:
    """Of one seed, fewer photos are among more; nothing is held out, so that four photos are four."""
    question = shipped_question(bench)
    photos = sizes(bench.data.count(bench.config.train.split))
    curve: list[list[float]] = []
    for seed in range(bench.seeds):
        fields = [{"train.photos": count, "train.holdout": 0.0} for count in photos]
        curve.append([miou(head_counts(bench, trained(bench, its, seed), question)[HEAD]) for its in fields])
    ends = [float(reached(photos, scores)) for scores in curve]
    variant, dense = best_dense(dense_counts(bench, question))
    rows = [Row(f"{count} photos", {"mIoU": [scores[i] for scores in curve]}) for i, count in enumerate(photos)]
    at_16 = [scores[min(2, len(photos) - 1)] for scores in curve]
    return Claim(
        "Little data is enough: the encoders are frozen and the head is small.",
        f"Trained on the free labels of 4, 8, 16 ... photos of {bench.config.train.split}, the same steps each, scored "
        f"on {bench.split}. No photo is held out: the last checkpoint counts. The classes' scale (calibration) still "
        f"comes from up to {bench.config.labels.calibration_photos} photos without labels.",
        [
            *rows,
            Row(f"dense CLIP, {variant}, no training", {"mIoU": [dense] * bench.seeds}, DENSE),
            Row(f"photos from which on mIoU is {SHARE:.0%} of its end", {"photos": ends}),
        ],
        [
            Comparison(
                f"an eighth of the photos or fewer reach {SHARE:.0%} of the end",
                [photos[-1] / ENOUGH] * bench.seeds,
                ends,
                -0.5,
            ),
            Comparison("the head of 16 photos is above dense CLIP", at_16, [dense] * bench.seeds),
        ],
        plots=[
            Plot(
                "little-data",
                "training photos",
                "mIoU",
                list(map(float, photos)),
                {"head": curve, "dense CLIP": [[dense] * len(photos)], "95 % of the end": [_line(curve, photos)]},
                True,
            )
        ],
    )


def _line(curve: list[list[float]], photos: list[int]) -> list[float]:
    return [SHARE * float(np.mean([scores[-1] for scores in curve]))] * len(photos)
