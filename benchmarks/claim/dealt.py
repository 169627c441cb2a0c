"""What labels alone are judged by: photos with free labels and truth, dealt into as many parts as there are seeds.

Labels know no seed: their spread is that over the parts.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.claim.bench import Bench, label, lines_of, word_lines
from labelgen.calibration import Calibration
from labelgen.dataset import Dataset
from labelgen.label import LabelSettings, Stages, label_stages
from labelgen.quality import Vocabulary
from labelgen.records import EvidenceRow
from labelgen.truth import TruthReader

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
    split: str
    words: Vocabulary
    settings: LabelSettings


def labelled_split(bench: Bench) -> Labelled:
    """The first labelled split that has truth; where none has, the photos one is judged on, labelled for this."""
    splits = [split for split in bench.config.labels.splits if bench.data.has_truth(split)]
    name = bench.config.labels.name
    if not splits:
        name, splits = own_labels(bench), [bench.split]
    calibration = Calibration.from_json(bench.data.labels_file(name, "calibration.json"))
    words = Vocabulary(*bench.data.labels(name), calibration)
    return Labelled(bench.data, splits[0], words, LabelSettings.from_config(bench.config))


def own_labels(bench: Bench) -> str:
    """Labels the photos one is judged on; the labels' name."""
    label(bench, OWN, lines_of(word_lines(bench.words.ontology)), {"labels.splits": bench.split})
    return OWN


def photos(bench: Bench, where: Labelled) -> Iterator[Photo]:
    """All photos of a split, photo i in part i modulo the seeds."""
    evidence = where.data.reader("evidence", where.split)
    truth = TruthReader(where.data, where.split, where.words.ontology.names, bench.config.eval.truth)
    for i in range(len(evidence)):
        seen = EvidenceRow.decode(evidence[i])
        yield Photo(i % bench.seeds, seen, truth[i].label_map, label_stages(seen, where.settings, *where.words))
