"""Free labels against truth, stage by stage, where the source has truth.

    python -m labelgen.quality --config=configs/voc.py --data=DATA --config.labels.splits=val

Each row of the table is one reading of the same photos: dense CLIP by itself (the floor), stages 1.1 and 1.2, their
merge on all pixels and on the pixels it labels, and the merge with the true classes given (the ceiling of naming);
where a person has corrected labels, the labels as they are now too.
Presence is precision and recall over (photo, class) pairs. Writes DATA/labels/NAME/quality.json.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import sys
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from labelgen.core.command import command, command_line, config_flags, figure, parser, table, whole
from labelgen.core.config import load_config
from labelgen.core.errors import UserError
from labelgen.core.files import write_json
from labelgen.core.geometry import to_pixels
from labelgen.core.ontology import Ontology, ignore_value
from labelgen.core.progress import Progress
from labelgen.data.dataset import Dataset
from labelgen.data.records import EvidenceRow, LabelRow
from labelgen.data.staging import open_data
from labelgen.labels.boundaries import BoundaryCounter
from labelgen.labels.free_labels import LabelSettings, Stages, label_stages
from labelgen.labels.presence import Calibration, dense_logits
from labelgen.labels.scores import Counts, TruthReader, check_groups, confusion, scores

Array = NDArray[np.float32]
LabelMap = NDArray[np.integer]


def main(args: argparse.Namespace) -> int:
    """Print and write the quality of every labelled split that has truth."""
    config = load_config(args.config, args.overrides)
    data = open_data(args.data, config.data_cache)
    words = data.labels(config.labels.name)
    calibration = Calibration.from_json(data.labels_file(config.labels.name, "calibration.json"))
    splits = [s for s in config.labels.splits if data.has_truth(s)]
    if not splits:
        raise UserError(
            f"{args.data}: no truth for the labelled splits {', '.join(config.labels.splits)}. quality compares with "
            "truth; set photos.splits.SPLIT.masks and encode again, or look at the labels with predict."
        )
    check_groups(words.ontology.names, config.eval.groups)
    out = data.path / "labels" / config.labels.name / "quality.json"
    report = {}
    for split in splits:
        data.stage(split, ("evidence", "truth"), range(min(data.count(split), args.limit or data.count(split))))
        found = split_quality(data, split, Vocabulary(*words, calibration), config, args.limit)
        report[split] = found
        print(table(split, found["readings"]))
        presence, without = found["presence"], found["photos_without_truth"]
        precision, recall = (figure(presence[name]) for name in ("precision", "recall"))
        print(f"  presence: precision {precision}, recall {recall}")
        if found["truth"]:
            print(f"  {found['truth']}")
        if without:
            print(f"  {without} photos have no pixel of truth in these classes: they count in nothing")
    write_json(out, report)
    train = command_line("fmbseg_jax.train", *config_flags(args), f"--data={args.data}", "--workdir=RUN")
    print(f"wrote {out}; next: {train}")
    return 0


class Vocabulary(NamedTuple):
    """What labelling knows of the words; prototypes float32 [K, E]."""

    ontology: Ontology
    prototypes: Array
    calibration: Calibration


def split_quality(
    data: Dataset, split: str, words: Vocabulary, config: ConfigDict, limit: int | None = None
) -> dict[str, Any]:
    """Of one split: `readings` (reading -> metrics.Scores.to_json), `presence` (precision, recall), how many photos
    have no pixel of truth, and `truth`: what is to be said of how its classes were matched, or ""."""
    settings = LabelSettings.from_config(config)
    names = words.ontology.names
    counts: dict[str, Counts] = {}
    bands: dict[str, Counts] = {}
    pairs, without = np.zeros(3, np.int64), 0
    evidence_rows, truth_rows = data.reader("evidence", split), TruthReader(data, split, names, config.eval.truth)
    photos = min(len(evidence_rows), limit or len(evidence_rows))
    name = config.labels.name
    corrected = data.label_reader(name, split) if "corrected" in data.labels_info(name) else None
    progress = Progress(photos, "photos", f"quality {split}")
    for i in range(photos):
        evidence = EvidenceRow.decode(evidence_rows[i])
        truth = truth_rows[i].label_map
        stages = label_stages(evidence, settings, *words)
        seen = readings(evidence, truth, stages, settings, words)
        if corrected is not None:
            seen = chain(seen, as_they_are(LabelRow.decode(corrected[i]), truth))
        for reading, against, prediction in seen:
            counts[reading] = counts.get(reading, 0) + confusion(against, prediction, len(names))
            bands[reading] = bands.get(reading, 0) + BoundaryCounter(against, len(names)).counts(prediction)
        pairs += presence_pairs(truth, stages.presence.present)
        without += not (truth >= 0).any()
        progress.add(1)
    progress.close()
    rows = {name: scores(c, names, config.eval.groups, bands[name]).to_json() for name, c in counts.items()}
    found, said, true = (int(n) for n in pairs)
    presence = {"precision": _share(found, said), "recall": _share(found, true)}
    return {"readings": rows, "presence": presence, "photos_without_truth": without, "truth": truth_rows.said()}


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 5) if whole else None


def readings(
    evidence: EvidenceRow,
    truth: LabelMap,
    stages: Stages,
    settings: LabelSettings,
    words: Vocabulary,
) -> Iterator[tuple[str, LabelMap, LabelMap]]:
    """(reading, truth it is held against, class per pixel) of one photo, both [H, W]; -1 is no class."""
    size = truth.shape[0], truth.shape[1]
    on_labelled = np.where(stages.merged >= 0, truth, -1)
    for variant in evidence.dense:
        logits = dense_logits(evidence, variant, words.prototypes, words.ontology)
        dense = argmax_pixels(logits, size)
        yield f"dense CLIP, {variant}", truth, dense
        if variant == settings.variant:
            yield "dense CLIP, labelled pixels", on_labelled, dense
    yield "dense CLIP, gated by presence", truth, argmax_pixels(stages.probabilities, size)
    yield "stage 1.1", truth, stages.stage11
    yield "stage 1.2", truth, stages.stage12
    yield "merged, all pixels", truth, stages.full
    yield "merged", truth, stages.merged
    yield "merged, labelled pixels", on_labelled, stages.merged
    given = true_classes(truth, len(words.ontology.names))
    if given.any():
        yield "true classes given", truth, label_stages(evidence, settings, *words, given).full


def as_they_are(row: LabelRow, truth: LabelMap) -> Iterator[tuple[str, LabelMap, LabelMap]]:
    """The readings of labels that are not, or not all, the free ones."""
    label_map = np.where(row.label_map == ignore_value(row.label_map), -1, row.label_map.astype(np.int64))
    yield "with corrections", truth, label_map
    yield "with corrections, labelled pixels", np.where(label_map >= 0, truth, -1), label_map


def argmax_pixels(maps: Array, size_hw: tuple[int, int]) -> LabelMap:
    """Class per pixel [H, W] of patch maps [h, w, C], bilinear."""
    return np.asarray(to_pixels(np.ascontiguousarray(maps.transpose(2, 0, 1)), size_hw).argmax(0))


def true_classes(truth: LabelMap, classes: int) -> NDArray[np.bool_]:
    """bool [C]: which classes the truth has."""
    return np.bincount(truth[truth >= 0], minlength=classes) > 0


def presence_pairs(truth: LabelMap, present: NDArray[np.bool_]) -> Counts:
    """Counts [found and true, said, true] of one photo."""
    true = true_classes(truth, len(present))
    return np.array([(present & true).sum(), present.sum(), true.sum()], np.int64)


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m labelgen.quality`."""
    flags = parser(__doc__ or "")
    flags.add_argument("--data", required=True, metavar="DATA", help="folder that labelgen.run wrote")
    flags.add_argument("--limit", type=whole(1), metavar="N", help="only the first N photos of each split")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
