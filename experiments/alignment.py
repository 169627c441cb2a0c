"""Claim 3: how well a class's similarity finds its patches, CLIP before the alignment, the head after."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from experiments.bench import Bench
from experiments.runs import Question, embedded, shipped_question, trained, truth_of
from experiments.verdict import DENSE, Claim, Comparison, Row
from fmbseg_jax.runs.checkpoint import restore_run
from labelgen.core.ontology import class_scores
from labelgen.data.records import EvidenceRow
from labelgen.labels.free_labels import patch_targets
from labelgen.labels.presence import dense_logits

Array = NDArray[np.float32]
PICTURE = "similarity.png"
CELL_PX, SHOWN = 96, 4


class Shown(NamedTuple):
    """A photo of the picture: its patches' classes [h, w], the first of them among all photos' patches."""

    evidence: EvidenceRow
    classes: NDArray[np.int64]
    start: int


def average_precision(scores: Array, positive: NDArray[np.bool_]) -> float:
    """Mean of the precision at every positive, highest score first; NaN where there is none. Ties: order of place."""
    hit = positive[np.argsort(-scores, kind="stable")]
    if not hit.any():
        return float("nan")
    precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    return float(precision[hit].mean())


def mean_precision(scores: Array, classes: NDArray[np.int64]) -> float:
    """Mean average precision of [P, C] over the classes that patches [P] have; -1 is no class, and no negative."""
    known = classes >= 0
    found = [average_precision(scores[known, c], classes[known] == c) for c in range(scores.shape[1])]
    return float(np.nanmean(found))


def patch_classes(truth: NDArray[np.int64], grid_hw: tuple[int, int]) -> NDArray[np.int64]:
    """The class that has half of a patch or more [h, w], else -1."""
    classes, shares = patch_targets(truth, grid_hw, grid_hw, 1)
    return np.where(shares[..., 0] >= 128, classes[..., 0].astype(np.int64), -1)


def run(bench: Bench) -> Claim:
    """All patches of the split one is judged on."""
    question = shipped_question(bench)
    with bench.times("average precision"):
        classes, before, pictures = clip_scores(bench, question)
        after = {seed: head_scores(bench, question, seed) for seed in range(bench.seeds)}
        figures = {variant: [mean_precision(scores, classes)] * bench.seeds for variant, scores in before.items()}
        head = [mean_precision(after[seed], classes) for seed in range(bench.seeds)]
        draw(bench, pictures, after[0])
    best = max(figures, key=lambda variant: figures[variant][0])
    rows = [Row(f"before: dense CLIP, {variant}", {"mAP": values}, DENSE) for variant, values in figures.items()]
    return Claim(
        "Aligned patch features say where a class is better than CLIP's own patches.",
        f"Average precision of each class's cosine over all patches of {bench.split}, mean over classes; a patch is of "
        "the class that has half of it. One ranking over all photos.",
        [*rows, Row("after: head", {"mAP": head})],
        [Comparison(f"the head's mAP is above that of the best dense CLIP ({best})", head, figures[best])],
        [f"The picture: the first {SHOWN} photos with a class, one each: similarity before and after, truth."],
        pictures=[PICTURE],
    )


def clip_scores(bench: Bench, question: Question) -> tuple[NDArray[np.int64], dict[str, Array], list[Shown]]:
    """(class of each patch [P], variant -> cosines [P, C], the first photos with a class of the words)."""
    truth, evidence = truth_of(bench, question), bench.data.reader("evidence", question.split)
    classes: list[NDArray[np.int64]] = []
    cosines: dict[str, list[Array]] = {}
    first: list[Shown] = []
    start = 0
    for i in range(len(evidence)):
        seen = EvidenceRow.decode(evidence[i])
        patches = patch_classes(truth[i].label_map, seen.grid_hw)
        # The background of a threshold is no class of the words.
        named = np.where(patches < len(question.words.ontology.names), patches, -1)
        if len(first) < SHOWN and (named >= 0).any():
            first.append(Shown(seen, named, start))
        start += patches.size
        classes.append(patches.ravel())
        for variant in seen.dense:
            logits = dense_logits(seen, variant, question.words.prototypes, question.words.ontology)
            cosines.setdefault(variant, []).append(logits.reshape(-1, logits.shape[-1]))
    return np.concatenate(classes), {variant: np.concatenate(parts) for variant, parts in cosines.items()}, first


def head_scores(bench: Bench, question: Question, seed: int) -> Array:
    """The head's cosines [P, C] of all patches."""
    restored = restore_run(trained(bench, {}, seed))
    ontology, prototypes = question.words
    parts = [
        class_scores(z @ prototypes.T, ontology.word_class).reshape(-1, len(ontology.names))
        for _, _, _, z in embedded(bench.data, question, restored, bench.config.eval.batch_size)
    ]
    return np.concatenate(parts)


def draw(bench: Bench, photos: list[Shown], after: Array) -> None:
    """OUT/pictures/similarity.png: a row a photo, similarity before, after, and the truth."""
    words, tiles = bench.words, []
    for seen, classes, start in photos:
        shown = rarest(classes)
        before = dense_logits(seen, bench.config.labels.variant, words.prototypes, words.ontology)
        head = after[start : start + classes.size].reshape(*classes.shape, -1)
        maps = [before[..., shown], head[..., shown], classes == shown]
        tiles.append(np.concatenate([tile(values) for values in maps], 1))
    folder = bench.out / "pictures"
    folder.mkdir(exist_ok=True)
    Image.fromarray(np.concatenate(tiles)).save(folder / PICTURE)


def rarest(classes: NDArray[np.int64]) -> int:
    """The class of fewest patches, of those with four or more; where none has, that of most."""
    counts = np.bincount(classes[classes >= 0])
    enough = [c for c in range(len(counts)) if counts[c] >= 4]
    return min(enough, key=lambda c: int(counts[c])) if enough else int(counts.argmax())


def tile(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """A map [h, w] as grey of its own range, CELL_PX wide, with a white border."""
    numbers = np.asarray(values, np.float64)
    scaled = (numbers - numbers.min()) / max(float(np.ptp(numbers)), 1e-9) * 255
    image = Image.fromarray(scaled.astype(np.uint8)).resize((CELL_PX, CELL_PX), Image.Resampling.NEAREST)
    return np.pad(np.asarray(image), 2, constant_values=255)
