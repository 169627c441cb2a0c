"""Claim 7: words that were never trained on: classes left out, synonyms, a coarser and a finer ontology."""

from collections.abc import Mapping

import numpy as np

from experiments.bench import Bench, embed, label, lines_of, word_lines
from experiments.runs import (
    DENSE_MAP,
    HEAD_ALONE,
    Question,
    best_dense,
    dense_counts,
    head_counts,
    miou,
    shipped_question,
    trained,
)
from experiments.verdict import DENSE, SHIPPED, Claim, Comparison, Row
from fmbseg_jax.reporting.readings import HEAD, dense_clip
from labelgen.core.ontology import BACKGROUND, Ontology, read_words
from labelgen.data.dataset import Labels
from labelgen.labels.scores import Counts

READINGS = {
    HEAD: "head with the dense map, trained without them",
    HEAD_ALONE: "the same head alone",
    DENSE_MAP: "the dense map alone",
}
LEFT_OUT = 4
"""One class of four is left out, at least one."""


def drawn(ontology: Ontology, seed: int) -> list[int]:
    """The classes that a draw leaves out; never the background."""
    classes = [c for c, role in enumerate(ontology.roles) if role != BACKGROUND]
    count = max(1, len(classes) // LEFT_OUT)
    return sorted(np.random.default_rng([seed, 7]).choice(classes, count, replace=False).tolist())


def harmonic(seen: float, unseen: float) -> float:
    """Harmonic mean; 0 where one is 0."""
    return 2 * seen * unseen / (seen + unseen) if seen > 0 and unseen > 0 else 0.0


def by_seen(counts: Counts, unseen: list[int]) -> dict[str, float]:
    """mIoU of the classes trained on, of the others, and their harmonic mean; all classes compete."""
    seen = [c for c in range(len(counts)) if c not in unseen]
    both = miou(counts, seen), miou(counts, unseen)
    return {"seen": both[0], "unseen": both[1], "harmonic mean": harmonic(*both)}


def run(bench: Bench) -> Claim:
    """Three kinds of other words."""
    draws, notes, comparisons = left_out(bench)
    same_classes, compared, said = synonyms(bench)
    other_classes, compared_too = ontologies(bench)
    if not other_classes:
        said.append("Coarser and finer words were not tried: eval.groups has fewer than two groups of classes; set it.")
    return Claim(
        "The head maps patches into CLIP's text space, so that it finds classes by words that it was never trained on.",
        f"Each seed draws one class in {LEFT_OUT} to leave out of the words: the photos are labelled without it and "
        f"the head trained; then {bench.split} is asked for all words. Dense CLIP: its best variant there.",
        [*draws, *same_classes, *other_classes],
        [*comparisons, *compared, *compared_too],
        notes + said,
    )


def left_out(bench: Bench) -> tuple[list[Row], list[str], list[Comparison]]:
    """Seen, unseen and harmonic mean of each draw."""
    question = shipped_question(bench)
    ontology = bench.words.ontology
    dense = dense_counts(bench, question)
    variant = best_dense(dense)[0]
    clip, with_them = dense_clip(variant).title, "head, trained with them"
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in (*READINGS.values(), clip, with_them)}
    notes = []
    for seed in range(bench.seeds):
        unseen = drawn(ontology, seed)
        lines = {name: its for c, (name, its) in enumerate(word_lines(ontology).items()) if c not in unseen}
        label(bench, f"unseen-{seed}", lines_of(lines))
        folder = trained(bench, {"labels.name": f"unseen-{seed}"}, seed)
        answers = {READINGS[reading]: its for reading, its in head_counts(bench, folder, question).items()}
        answers |= {clip: dense[variant], with_them: head_counts(bench, trained(bench, {}, seed), question)[HEAD]}
        for name, counts in answers.items():
            scores[name].append(by_seen(counts, unseen))
        notes.append(f"Draw {seed} left out {', '.join(ontology.names[c] for c in unseen)}.")
    rows = [
        Row(name, {key: [its[key] for its in draws] for key in draws[0]}, DENSE if name == clip else SHIPPED)
        for name, draws in scores.items()
        if len(draws) == bench.seeds
    ]
    ours, theirs = ({row.name: row.figures for row in rows}[name] for name in (READINGS[HEAD], clip))
    comparisons = [
        Comparison(f"{key} of the head with the dense map is above dense CLIP's", ours[key], theirs[key])
        for key in ("unseen", "harmonic mean")
    ]
    return rows, notes, comparisons


def synonyms(bench: Bench) -> tuple[list[Row], list[Comparison], list[str]]:
    """The words of eval.ontologies beside those trained on, on the same photos."""
    rows: list[Row] = []
    comparisons: list[Comparison] = []
    notes: list[str] = []
    for split, file in bench.config.eval.ontologies.items():
        other = read_words(file)
        if other.names != bench.words.ontology.names:
            continue
        words = embed(bench, f"synonyms-{split}", lines_of(word_lines(other)))
        for photos in dict.fromkeys((bench.split, split)):
            asked = [shipped_question(bench, photos), Question(photos, words, bench.config.eval.truth.to_dict())]
            head = [head_miou(bench, {}, question) for question in asked]
            variant, dense = best_dense(dense_counts(bench, asked[1]))
            rows += [
                Row(f"{photos}, words as trained: head", {"mIoU": head[0]}),
                Row(f"{photos}, synonyms never trained on: head", {"mIoU": head[1]}),
                Row(f"{photos}, synonyms: dense CLIP, {variant}", {"mIoU": [dense] * bench.seeds}, DENSE),
            ]
            notes = [near(bench.words, words)]
            said = f"on {photos}, asked by synonyms, the head is above dense CLIP"
            comparisons.append(Comparison(said, head[1], [dense] * bench.seeds))
    if not rows:
        notes = ["Synonyms were not tried: no other words of the same classes; set eval.ontologies.SPLIT to a file."]
    return rows, comparisons, notes


def near(trained_words: Labels, others: Labels) -> str:
    """How much of another word a synonym is: where CLIP puts both in one place, little is asked of the head."""
    cosines = trained_words.prototypes @ others.prototypes.T
    same = np.equal.outer(trained_words.ontology.word_class, others.ontology.word_class)
    own, across = float(cosines[same].mean()), float(cosines[~same].mean())
    return (
        f"CLIP's cosine between a trained word and a synonym of its class is {own:.3f}, of another class {across:.3f}."
    )


def head_miou(bench: Bench, fields: Mapping[str, object], question: Question) -> list[float]:
    """mIoU of a variant, seed by seed."""
    return [miou(head_counts(bench, trained(bench, fields, s), question)[HEAD]) for s in range(bench.seeds)]


def coarse_rules(bench: Bench) -> dict[str, str]:
    """Truth's class -> the group that it counts as, or ignore."""
    data, base = bench.data, bench.config.eval.truth.to_dict()
    group = {name: g for g, members in bench.config.eval.groups.items() for name in members}
    if bench.config.eval.background_threshold:
        group[BACKGROUND] = BACKGROUND
    classes = data.truth_classes(bench.split) or bench.words.ontology.names
    return {name: group.get(base.get(name, name), "ignore") for name in classes}


def ontologies(bench: Bench) -> tuple[list[Row], list[Comparison]]:
    """eval.groups as coarser classes: trained on one ontology, asked by the other. Nothing without groups."""
    if len(bench.config.eval.groups) < 2:
        return [], []
    words = word_lines(bench.words.ontology)
    coarse = {g: [word for name in members for word in words[name]] for g, members in bench.config.eval.groups.items()}
    named: Labels = label(bench, "coarse", lines_of(coarse))
    questions = {"coarser": Question(bench.split, named, coarse_rules(bench)), "finer": shipped_question(bench)}
    rows, comparisons = [], []
    for kind, question in questions.items():
        variant, dense = best_dense(dense_counts(bench, question))
        by_training = {
            "finer": head_miou(bench, {}, question),
            "coarser": head_miou(bench, {"labels.name": "coarse"}, question),
        }
        rows += [
            Row(f"asked {kind}: head trained on {name} classes", {"mIoU": its}) for name, its in by_training.items()
        ]
        rows.append(Row(f"asked {kind}: dense CLIP, {variant}", {"mIoU": [dense] * bench.seeds}, DENSE))
        other = "finer" if kind == "coarser" else "coarser"
        said = f"trained on the {other} classes and asked for the {kind} ones, the head is above dense CLIP"
        comparisons.append(Comparison(said, by_training[other], [dense] * bench.seeds))
    return rows, comparisons
