"""What labels alone are judged by: photos with free labels and truth, dealt into as many parts as there are seeds.

Labels know no seed: their spread is that over the parts.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.bench import Bench, label, lines_of, word_lines
from labelgen.core.ontology import BACKGROUND
from labelgen.data.dataset import Dataset
from labelgen.data.records import EvidenceRow
from labelgen.labels.free_labels import LabelSettings, Stages, label_stages
from labelgen.labels.presence import Calibration
from labelgen.labels.scores import IGNORE, TruthReader
from labelgen.quality import Vocabulary

OWN = "own-photos"
"""Name of the free labels of the photos that one is judged on."""


class Photo(NamedTuple):
    """A photo with all between evidence and labels; truth int64 [H, W], -1 where nothing is compared."""

    part: int
    evidence: EvidenceRow
    truth: NDArray[np.int64]
    stages: Stages


class Labelled(NamedTuple):
    """A split with free labels and truth."""

    data: Dataset
    name: str
    """Of labels/NAME."""
    split: str
    words: Vocabulary
    settings: LabelSettings
    notes: tuple[str, ...] = ()
    """What the page says of the choice."""


def labelled_split(bench: Bench) -> Labelled:
    """The first labelled split that has truth; where none has, the photos one is judged on, labelled for this."""
    splits = [split for split in bench.config.labels.splits if bench.data.has_truth(split)]
    if not splits:
        return own_photos(bench)
    return labelled(bench, bench.config.labels.name, splits[0])


def own_photos(bench: Bench) -> Labelled:
    """The photos one is judged on, labelled for this."""
    said = f"{', '.join(bench.config.labels.splits)} has no truth: the photos of {bench.split} were given free labels"
    return labelled(bench, own_labels(bench), bench.split, f"{said} for this, by the same words and settings.")


def labelled(bench: Bench, name: str, split: str, *notes: str) -> Labelled:
    """A split of the claims' DATA with its labels/NAME."""
    data = bench.data
    words = Vocabulary(*data.labels(name), Calibration.from_json(data.labels_file(name, "calibration.json")))
    if rules(bench, split) != bench.config.eval.truth.to_dict():
        notes += (f"Pixels whose truth is `{BACKGROUND}` are left out: the words of the labels do not name it.",)
    return Labelled(data, name, split, words, LabelSettings.from_config(bench.config), notes)


def rules(bench: Bench, split: str) -> dict[str, str]:
    """eval.truth, for labels: a background that only eval.background_threshold makes is no class of theirs."""
    unnamed = bench.config.eval.background_threshold and BACKGROUND in (bench.data.truth_classes(split) or ())
    shipped: dict[str, str] = bench.config.eval.truth.to_dict()
    return shipped | ({BACKGROUND: IGNORE} if unnamed else {})


def own_labels(bench: Bench) -> str:
    """Labels the photos one is judged on; the labels' name."""
    label(bench, OWN, lines_of(word_lines(bench.words.ontology)), {"labels.splits": bench.split})
    return OWN


def photos(bench: Bench, subset: Labelled) -> Iterator[Photo]:
    """All photos of a split, photo i in part i modulo the seeds."""
    evidence = subset.data.reader("evidence", subset.split)
    truth = TruthReader(subset.data, subset.split, subset.words.ontology.names, rules(bench, subset.split))
    for i in range(len(evidence)):
        seen = EvidenceRow.decode(evidence[i])
        yield Photo(i % bench.seeds, seen, truth[i].label_map, label_stages(seen, subset.settings, *subset.words))
