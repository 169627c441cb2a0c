"""Claim 10: one material in all its forms against everything else, as two classes of many words."""

from experiments.bench import Bench, label, lines_of, word_lines
from experiments.runs import Question, dense_counts, head_counts, ious, miou, shipped_question, trained
from experiments.verdict import DENSE, SHIPPED, Claim, Comparison, Row
from fmbseg_jax.reporting.readings import HEAD
from labelgen.core.ontology import BACKGROUND, read_words
from labelgen.labels.scores import Counts

MATERIAL, REST = "water", "everything else"


def words(bench: Bench) -> dict[str, list[str]]:
    """Two classes with the words, and the synonyms, of all."""
    lists = [bench.words.ontology]
    lists += [read_words(file) for file in bench.config.eval.ontologies.values()]
    classes: dict[str, list[str]] = {material(bench): [], REST: []}
    for ontology in lists:
        for name, its in word_lines(ontology).items():
            known = classes[name if name in classes else REST]
            known += [word for word in its if word not in known]
    return classes


def material(bench: Bench) -> str:
    """Water where there is such a class, else the first class that is no background."""
    ontology = bench.words.ontology
    named = [name for name, role in zip(ontology.names, ontology.roles, strict=True) if role != BACKGROUND]
    return MATERIAL if MATERIAL in named else named[0]


def run(bench: Bench) -> Claim:
    """Labels and trains anew for two classes."""
    name, both = material(bench), words(bench)
    asked = label(bench, "material", lines_of(both))
    base = bench.config.eval.truth.to_dict()
    classes = bench.data.truth_classes(bench.split) or bench.words.ontology.names
    counts_as = {c: base.get(c, c) for c in classes}
    rules = {c: "ignore" if to == "ignore" else name if to == name else REST for c, to in counts_as.items()}
    rows, comparisons = [], []
    for split in bench.config.eval.splits:
        question = Question(split, asked, rules, background=False)
        head = answers(bench, {"labels.name": "material"}, question)
        all_classes = answers(bench, {}, question)
        variant, dense = max(dense_counts(bench, question).items(), key=lambda pair: iou(pair[1]))
        at = bench.words.ontology.names.index(name)
        shipped = answers(bench, {}, shipped_question(bench, split))
        rows += [
            row(f"{split}: head trained on the two classes", head),
            row(f"{split}: head trained on all classes, asked the two", all_classes),
            row(f"{split}: dense CLIP, {variant}", [dense] * bench.seeds, DENSE),
            Row(f"{split}: head trained on and asked all classes", {"IoU": [iou(its, at) for its in shipped]}),
        ]
        said = f"on {split} the head's IoU of {name} is above dense CLIP's"
        comparisons.append(Comparison(said, [iou(its) for its in head], [iou(dense)] * bench.seeds))
        said = f"so is that of the head trained on all classes, on {split}"
        comparisons.append(Comparison(said, [iou(its) for its in all_classes], [iou(dense)] * bench.seeds))
    return Claim(
        f"One ontology of two classes and many words finds one material ({name}) in every appearance.",
        f"`{name}` by {len(both[name])} words against everything else by {len(both[REST])}, labelled and trained anew.",
        rows,
        comparisons,
    )


def answers(bench: Bench, fields: dict[str, str], question: Question) -> list[Counts]:
    """Confusion of each seed."""
    return [head_counts(bench, trained(bench, fields, s), question)[HEAD] for s in range(bench.seeds)]


def iou(counts: Counts, at: int = 0) -> float:
    """IoU of one class; NaN where neither truth nor prediction has it."""
    value = ious(counts, [str(c) for c in range(len(counts))])[str(at)]
    return float("nan") if value is None else value


def row(name: str, counts: list[Counts], chosen_by: str = SHIPPED) -> Row:
    """IoU of the material, and the mean of both classes."""
    return Row(name, {"IoU": [iou(its) for its in counts], "mIoU": [miou(its) for its in counts]}, chosen_by)
