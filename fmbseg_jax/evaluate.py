"""A trained head against truth, beside dense CLIP on the same photos and words.

    python -m fmbseg_jax.evaluate --config=configs/voc.py --data=DATA --workdir=RUN

Restores from RUN alone; DATA gives patch features, evidence and truth. One row of the table is one reading: dense CLIP
of each variant, unfiltered and within the classes found present; the head; the head with a vote inside SAM's masks
(`refined`); with eval.sharpen the head with edges by the photo's colours, for which the photos must be where the config
says. Every reading is resized bilinearly to the photo's size and counted in one confusion matrix a split.
Writes RUN/eval/SPLIT.json, the protocol beside the scores, and SPLIT.npz, the matrices and each photo's scores. Over
several hosts (--config.distributed) each counts its share of the photos and the matrices are summed: the same figures
to the last digit.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from fmbseg_jax.inference.embedder import Embedder, check_fits
from fmbseg_jax.inference.label_maps import Background, pixel_classes, refined, sharpened_classes
from fmbseg_jax.inference.other_words import Asked, split_words
from fmbseg_jax.reporting.evaluation import Tally, class_names, protocol, summary
from fmbseg_jax.reporting.readings import HEAD, REFINED, SHARPENED, Reading, dense_clip, ratios
from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.checkpoint import Restored, restore_run
from fmbseg_jax.runs.run_folder import Run, open_run
from fmbseg_jax.runs.settings import hosts_config
from labelgen.core.command import command, command_line, parser, table
from labelgen.core.config import load_config
from labelgen.core.errors import PhotoError, UserError
from labelgen.core.files import write_json
from labelgen.core.progress import Progress, StageTimes
from labelgen.data.dataset import Dataset
from labelgen.data.records import EvidenceRow, FeatureRow, check_same_photo
from labelgen.data.staging import open_data
from labelgen.data.thumbnail import is_same
from labelgen.formats.exporter import split_source
from labelgen.labels.free_labels import LabelSettings
from labelgen.labels.presence import PresenceSettings, detect
from labelgen.labels.scores import TruthReader, check_groups, scores

Array = NDArray[np.float32]
LabelMap = NDArray[np.uint16]


class Pictures:
    """The photos of a split as they were encoded, for eval.sharpen."""

    def __init__(self, photos: ConfigDict, split: str) -> None:
        """UserError where they are not there any more."""
        self._where = f"the photos of {split} at photos.root = {photos.root!r}"
        self._source = split_source(photos, split)
        if self._source is None:
            raise UserError(f"eval.sharpen: {self._where} cannot be found; {_WITHOUT}")

    def __call__(self, row: FeatureRow) -> NDArray[np.uint8]:
        """uint8 [H, W, 3]. UserError where it is gone, or another one than was encoded."""
        assert self._source is not None
        try:
            image = self._source.load(row.photo_id).image
        except (PhotoError, KeyError):
            raise UserError(f"eval.sharpen: {self._where} lack {row.photo_id}; {_WITHOUT}") from None
        if not is_same(image, row.size_hw, row.thumbnail):
            raise UserError(f"eval.sharpen: {self._where}: {row.photo_id} is another than was encoded; {_WITHOUT}")
        return image


_WITHOUT = "put the photos back, or evaluate without: --config.eval.sharpen=False"


@dataclass(frozen=True)
class Readings:
    """Label maps of one photo, reading by reading."""

    vocabulary: Asked
    presence: PresenceSettings
    refine_min_iou: float
    times: StageTimes
    background: Background | None = None
    """By a threshold, for the head; dense CLIP has the same with presence.dense_temperature."""
    pictures: Pictures | None = None
    """For eval.sharpen."""
    temperature: float = 1.0
    """Of the head's probabilities."""

    def __call__(
        self, row: FeatureRow, z: Array, dense_z: Array | None, evidence: EvidenceRow
    ) -> dict[Reading, LabelMap]:
        """Reading -> class per pixel [H, W], from the photo's evidence and its embeddings [h', w', E] by the head and,
        where words are new to it, by the RUN's dense map."""
        size, ontology, prototypes = evidence.size_hw, self.vocabulary.ontology, self.vocabulary.prototypes
        maps: dict[Reading, LabelMap] = {}
        dense = self.background and Background(self.background.threshold, self.presence.dense_temperature)
        with self.times("dense CLIP"):
            present = detect(evidence, prototypes, ontology, self.presence).present
            for variant, tokens in evidence.dense.items():
                patches, reading = tokens.astype(np.float32), dense_clip(variant)
                maps[reading] = pixel_classes(patches, prototypes, ontology.word_class, size, None, dense)
                within = pixel_classes(patches, prototypes, ontology.word_class, size, present, dense)
                maps[reading.within_present] = within
        with self.times("head"):
            answered = self.vocabulary(z, dense_z)
            maps[HEAD] = pixel_classes(*answered, size, None, self.background)
            maps[HEAD.within_present] = pixel_classes(*answered, size, present, self.background)
        with self.times("refine"):
            maps[REFINED] = refined(maps[HEAD], evidence.masks, self.refine_min_iou)
        if self.pictures:
            with self.times("read"):
                image = self.pictures(row)
            threshold = self.background.threshold if self.background else 0.0
            with self.times("sharpen"):
                maps[SHARPENED] = sharpened_classes(*answered, image, self.temperature, threshold)
        return maps


def main(args: argparse.Namespace) -> int:
    """Evaluate every split of eval.splits."""
    times = StageTimes()
    config = load_config(args.config, args.overrides)
    hosts.start(**vars(hosts_config(config)))
    look = command_line("fmbseg_jax.predict", f"--workdir={args.workdir}", f"--data={args.data}", "--out=MASKS")
    if not config.eval.splits:
        raise UserError(
            "eval.splits is empty, there is no truth to compare with: name splits that have masks, or look at what "
            f"was learnt: {look}"
        )
    data = open_data(args.data, config.data_cache)
    with times("restore"):
        run = open_run(args.workdir)
        restored = restore_run(run)
    check_fits(restored, data)
    embed = Embedder(restored, config.eval.batch_size)
    failed = [evaluate_split(config, data, split, run, restored, embed, times) for split in config.eval.splits]
    hosts.say(f"time: {times.summary()}")
    if error := next(filter(None, failed), None):
        raise error  # once all tables are printed
    hosts.say(f"wrote {run.name}/eval; next: {look}")
    return 0


def evaluate_split(
    config: ConfigDict, data: Dataset, split: str, run: Run, restored: Restored, embed: Embedder, times: StageTimes
) -> OSError | UserError | None:
    """Counts a split, prints its table and writes its two files into RUN/eval; why it could not, if so.

    All hosts must call it.
    """
    data.stage(split, ("features", "evidence", "truth"), hosts.own_rows(data.count(split)))
    words, threshold = split_words(data, restored, config, split), config.eval.background_threshold
    names = class_names(words.ontology, threshold)
    check_groups(names, config.eval.groups)
    truth = TruthReader(data, split, names, config.eval.truth)
    vocabulary = Asked(restored, words.ontology, words.prototypes)
    presence = LabelSettings.from_config(config).presence
    background = Background(threshold, restored.temperature) if threshold else None
    pictures = Pictures(config.photos, split) if config.eval.sharpen else None
    min_iou, temperature = config.eval.refine_min_iou, restored.temperature
    readings = Readings(vocabulary, presence, min_iou, times, background, pictures, temperature)
    before = times.total("sharpen")
    tally = count_split(data, split, embed, readings, truth, len(names), config.eval.batch_size)
    new = f"; new to the head: {', '.join(vocabulary.new)}" if vocabulary.new else ""
    meaning = protocol(data, split, restored, names, words.source + new, config)
    beyond = int(hosts.total(np.array([sum(truth.beyond.values())]))[0])
    meaning["truth"] = ", ".join(filter(None, [meaning["truth"], truth.said(beyond)]))
    failed = write_split(run, split, tally, names, meaning, config.eval.groups)
    if pictures:
        spent = hosts.total(np.array([times.total("sharpen") - before]))[0]
        hosts.say(f"  {spent / max(1, data.count(split)):.2f} s a photo to sharpen")
    return failed


def write_split(
    run: Run, split: str, tally: Tally, names: tuple[str, ...], meaning: dict[str, Any], groups: Mapping[str, Any]
) -> OSError | UserError | None:
    """The table, and RUN/eval/SPLIT.json and SPLIT.npz; why these could not be written, as into a read-only RUN.

    meaning: the protocol; groups: eval.groups.
    """
    rows = {
        reading: scores(counts, names, groups, tally.bands[reading]).to_json()
        for reading, counts in tally.counts.items()
    }
    quotients = ratios({reading: row["miou"] for reading, row in rows.items()})
    titled = {reading.title: row for reading, row in rows.items()}
    rounded = {name: round(value, 4) for name, value in quotients.items()}
    hosts.say(table(f"{split}, {meaning['photos']} photos", titled))
    hosts.say("  " + ", ".join(f"{name} {value:.2f}" for name, value in rounded.items()))
    hosts.say("  " + summary(meaning))
    path = run.path / "eval" / f"{split}.json"
    try:
        if hosts.is_first():
            path.parent.mkdir(exist_ok=True)
            write_json(path, {"protocol": meaning, "readings": titled, "ratios": rounded})
            tally.write(path.with_suffix(".npz"), names)
            run.send()
    except (OSError, UserError) as error:
        return error
    return None


def count_split(
    data: Dataset, split: str, embed: Embedder, readings: Readings, truth: TruthReader, classes: int, batch_size: int
) -> Tally:
    """Confusion matrix of each reading over all photos of a split, counted by all hosts together."""
    features, evidence = (data.reader(family, split) for family in ("features", "evidence"))
    tally = Tally(classes)
    own = hosts.own_rows(len(features))
    progress = Progress(len(own), "photos", f"evaluate {split}", hosts.errors())
    for start in range(0, len(own), batch_size):
        numbers = own[start : start + batch_size]
        with readings.times("read"):
            rows = [FeatureRow.decode(features[i]) for i in numbers]
        with readings.times("head"):
            embedded = embed(rows)
        for i, row, z in zip(numbers, rows, embedded, strict=True):
            with readings.times("read"):
                seen, true = EvidenceRow.decode(evidence[i]), truth[i]
                check_same_photo(split, i, row.photo_id, seen.photo_id, true.photo_id)
            maps = readings(row, z, None if readings.vocabulary.by_head else embed.dense(row), seen)
            with readings.times("count"):
                tally.add(i, row.photo_id, true.label_map, maps)
            progress.add()
    progress.close()
    return tally.of_all_hosts()


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m fmbseg_jax.evaluate`."""
    flags = parser(__doc__ or "")
    flags.add_argument("--data", required=True, metavar="DATA", help="folder or url that labelgen.run wrote")
    flags.add_argument("--workdir", required=True, metavar="RUN", help="folder or url that fmbseg_jax.train wrote")
    return flags


if __name__ == "__main__":
    hosts.leave(command(main, arguments()))
