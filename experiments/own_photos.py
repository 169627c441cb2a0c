"""Claim 8: free labels of the very photos that one is judged on, against photos never seen."""

import numpy as np

from experiments.bench import Bench
from experiments.dealt import labelled, own_labels
from experiments.runs import Question, asked_names, miou, shipped_question, truth_of
from experiments.verdict import Claim, Comparison, Row
from experiments.zero_shot import head_miou
from fmbseg_jax.training.feed import split_rows
from labelgen.data.records import EvidenceRow
from labelgen.labels.free_labels import label_stages
from labelgen.labels.scores import Counts, confusion


def run(bench: Bench) -> Claim:
    """Labels the split one is judged on, without its truth, and trains on them."""
    question, name = shipped_question(bench), own_labels(bench)
    own = {"train.split": bench.split, "labels.name": name}
    holdout = bench.config.train.holdout
    counts = [len(split_rows(bench.data.count(split), holdout)[0]) for split in (bench.split, bench.config.train.split)]
    count, fair = min(counts), counts[0] <= counts[1]
    figures = {
        "head, trained on other photos": head_miou(bench, {}, question),
        f"head, trained on {'as many' if fair else 'fewer'} other photos ({count})": head_miou(
            bench, {"train.photos": count}, question
        ),
        "head, trained on these photos": head_miou(bench, own, question),
        "free labels of these photos, no head": [labels_miou(bench, name, question)] * bench.seeds,
    }
    others, few, same, labels = figures.values()
    return Claim(
        "Labels cost nothing, so the photos that one wants segmented may be labelled and trained on themselves.",
        f"All scored on {bench.split}, whose truth no training reads.",
        [Row(row, {"mIoU": values}) for row, values in figures.items()],
        [
            *([Comparison("training on the very photos beats as many others", same, few)] if fair else []),
            Comparison("training on the very photos beats all others", same, others),
            Comparison("the head trained on them beats their free labels", same, labels),
        ],
    )


def labels_miou(bench: Bench, name: str, question: Question) -> float:
    """Of the merged labels, all pixels; with eval.background_threshold the unlabelled ones are background."""
    subset, names = labelled(bench, name, bench.split), asked_names(bench, question)
    background = len(subset.words.ontology.names)
    truth, evidence = truth_of(bench, question), bench.data.reader("evidence", bench.split)
    total: Counts = np.zeros((len(names), len(names) + 1), np.int64)
    with bench.times("label stages"):
        for i in range(len(evidence)):
            stages = label_stages(EvidenceRow.decode(evidence[i]), subset.settings, *subset.words)
            predicted = (
                stages.full if len(names) == background else np.where(stages.merged < 0, background, stages.merged)
            )
            total += confusion(truth[i].label_map, predicted, len(names))
    return miou(total)
