"""Claim 8: free labels of the very photos that one is judged on, against photos never seen."""

import numpy as np

from benchmarks.claim.bench import Bench
from benchmarks.claim.dealt import Labelled, own_labels, photos
from benchmarks.claim.runs import miou, shipped_question
from benchmarks.claim.verdict import Claim, Comparison, Row
from benchmarks.claim.zero_shot import head_miou
from fmbseg_jax.feed import split_rows
from labelgen.calibration import Calibration
from labelgen.label import LabelSettings
from labelgen.metrics import Counts, confusion
from labelgen.quality import Vocabulary


def run(bench: Bench) -> Claim:
    """Labels the split one is judged on, without its truth, and trains on them."""
    question, name = shipped_question(bench), own_labels(bench)
    own = {"train.split": bench.split, "labels.name": name}
    count = len(split_rows(bench.data.count(bench.split), bench.config.train.holdout)[0])
    figures = {
        "head, trained on other photos": head_miou(bench, {}, question),
        f"head, trained on as many other photos ({count})": head_miou(bench, {"train.photos": count}, question),
        "head, trained on these photos": head_miou(bench, own, question),
        "free labels of these photos, no head": [labels_miou(bench, name)] * bench.seeds,
    }
    others, few, same, labels = figures.values()
    return Claim(
        "Labels cost nothing, so the photos that one wants segmented may be labelled and trained on themselves.",
        f"All scored on {bench.split}, whose truth no training reads.",
        [Row(row, {"mIoU": values}) for row, values in figures.items()],
        [
            Comparison("training on the very photos beats as many others", same, few),
            Comparison("training on the very photos beats all others", same, others),
            Comparison("the head trained on them beats their free labels", same, labels),
        ],
    )


def labels_miou(bench: Bench, name: str) -> float:
    """Of the merged labels, all pixels."""
    data = bench.data
    vocabulary = Vocabulary(*data.labels(name), Calibration.from_json(data.labels_file(name, "calibration.json")))
    where = Labelled(data, bench.split, vocabulary, LabelSettings.from_config(bench.config))
    classes = len(vocabulary.ontology.names)
    total: Counts = np.zeros((classes, classes + 1), np.int64)
    with bench.times("label stages"):
        for photo in photos(bench, where):
            total += confusion(photo.truth, photo.stages.full, classes)
    return miou(total)
