"""The label stage: words and evidence to labels/NAME. No image tower runs, and with ready text embeddings no model."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from labelgen.core.config import identity
from labelgen.core.errors import UserError
from labelgen.core.files import check_same, read_json, write_atomic, write_json
from labelgen.core.ontology import Ontology, read_words
from labelgen.core.progress import Progress, StageTimes
from labelgen.data.arrivals import later_counts
from labelgen.data.dataset import read_prototypes
from labelgen.data.manifest import check_dtype, claim, finish_labels, name_truth
from labelgen.data.records import EvidenceRow, photo_id_of
from labelgen.data.shards import Finished, Shard, is_finished, plan
from labelgen.data.tfrecord import ShardReader, ShardWriter
from labelgen.formats.classes import class_infos
from labelgen.labels import presence
from labelgen.labels.corrected import Corrected, CorrectedFrom, open_corrected
from labelgen.labels.free_labels import LabelSettings, label_photo
from labelgen.labels.presence import Calibration

Prototypes = NDArray[np.float32]


class Labeller(NamedTuple):
    """What labels a photo, besides its evidence."""

    settings: LabelSettings
    words: Ontology
    prototypes: Prototypes
    calibration: Calibration
    grid_hw: tuple[int, int]

    def label(self, record: bytes) -> bytes:
        """The LabelRow's record of an EvidenceRow's."""
        return label_photo(EvidenceRow.decode(record), *self).encode()


@dataclass(frozen=True)
class LabelStage:
    """Evidence and words to labels/NAME."""

    name: ClassVar[str] = "label"
    config: ConfigDict
    data: Path
    words: Ontology
    corrected_from: CorrectedFrom | None = None

    def begin(self, times: StageTimes) -> "Labelling":
        """Claims labels/NAME and makes what all its shards need: the words' embeddings and the classes' scale.

        UserError when a photo of labels.splits is not encoded yet: calibration reads photos of all shards.
        """
        config, data, words = self.config, self.data, self.words
        shards = shards_of(config, data)
        to_label = _labelled(config, shards)
        finished = Finished(data, ["evidence"])
        missing = [shard for shard in to_label if not finished.has(shard, ["evidence"])]
        if missing:
            raise UserError(
                f"{data}/evidence/{missing[0].name}: not encoded yet; run the encode stage to its end first"
            )
        folder = data / "labels" / config.labels.name
        corrected = self.corrected_from and self._corrected(self.corrected_from, to_label)
        named = name_truth(data, words.names)
        folder.mkdir(parents=True, exist_ok=True)
        fix = f"choose another name: --config.labels.name=NAME, or delete {folder} to label anew"
        fields = settings(config, words) | (corrected.settings() if corrected else {})
        marker = claim(folder / "config.json", fields, str(folder), fix, (folder / "prototypes.npy").exists())
        labeller = _labeller(config, data, folder, words, to_label, times)
        return Labelling(self, shards, folder, marker, labeller, corrected, times, named)

    def _corrected(self, origin: CorrectedFrom, shards: Sequence[Shard]) -> Corrected:
        colours = [info.colour for info in class_infos(self.words, self.words.names)]
        return open_corrected(origin, self.words, self.data, shards, colours)


@dataclass(frozen=True)
class Labelling:
    """The label stage begun: labels/NAME, ready for its shards. See labelgen.stages.engine.Work."""

    stage: LabelStage
    shards: Sequence[Shard]
    folder: Path
    marker: dict[str, Any]
    """What config.json there says."""
    labeller: Labeller
    corrected: Corrected | None
    """What a person drew, in place of the free labels."""
    times: StageTimes
    named: Sequence[str]
    """Splits whose truth has its classes' names from these words."""

    def unfinished(self, shards: Sequence[Shard]) -> list[Shard]:
        """Those of `shards` that are to be labelled and are not, or not as their evidence is now."""
        finished = Finished(self.folder, [""])
        return [shard for shard in _labelled(self.stage.config, shards) if not self._done(shard, finished)]

    def open(self, shards: Sequence[Shard]) -> None:
        """See Work; so the other methods. All is open."""

    def do(self, shard: Shard, progress: Progress, spare: bool = False) -> None:
        evidence = ShardReader(self.stage.data / "evidence" / shard.name)
        with ShardWriter(self.folder / shard.name, spare) as writer:
            pairs = zip(writer.records(), range(len(evidence)), strict=False)
            fits = (photo_id_of(record) == photo_id_of(evidence[row]) for record, row in pairs)
            writer.truncate(sum(takewhile(bool, fits)))
            progress.skip(shard.stop - shard.start - len(evidence) + writer.count)
            for row in range(writer.count, len(evidence)):
                with self.times("label"):
                    record = self._record(shard.split, evidence[row])
                with self.times("write labels"):
                    writer.append(record)
                progress.add(1)
            writer.finish()

    def complete(self) -> str:
        """Writes labels.json when every shard of labels.splits is labelled."""
        words, finished = self.labeller.words, Finished(self.folder, [""])
        by_split: dict[str, list[Shard]] = {}
        for shard in self.shards:
            by_split.setdefault(shard.split, []).append(shard)
        done = sorted(s for s, members in by_split.items() if all(self._done(shard, finished) for shard in members))
        if not set(self.stage.config.labels.splits) <= set(done):
            return f"{self.folder}: this worker's share is labelled"
        remarks = self.corrected.remarks if self.corrected else {}
        finish_labels(self.folder, self.shards, done, self.marker, self.labeller.grid_hw, remarks)
        done_by = f"with {len(words.words)} words for {len(words.names)} classes"
        corrected = self.corrected.said() if self.corrected else ""
        named = f"; truth of {', '.join(self.named)} is in these classes from now on" * bool(self.named)
        return f"{self.folder}: labelled {', '.join(done)} {done_by}{self._scale()}{corrected}{named}"

    def _scale(self) -> str:
        """What must be said of the classes' scale, where photos came after it was measured: it is kept, so that labels
        stay as they are."""
        shards = _labelled(self.stage.config, self.shards)
        evidence = [(shard, len(ShardReader(self.stage.data / "evidence" / shard.name))) for shard in shards]
        first = sum(rows for shard, rows in evidence if not shard.arrival)
        measured = read_json(self.folder / "calibration.json", "label anew").get("photos", first)
        if measured == (total := sum(rows for _, rows in evidence)):
            return ""
        return (
            f"; the classes' scale is that of the first {measured} of {total} photos, so that their labels stay: "
            "to measure it anew label under another name, --config.labels.name=NAME"
        )

    def _record(self, split: str, evidence: bytes) -> bytes:
        """A LabelRow's record of an EvidenceRow's."""
        free = self.labeller.label
        return self.corrected.record(split, evidence, free) if self.corrected else free(evidence)

    def _done(self, shard: Shard, finished: Finished) -> bool:
        evidence = self.stage.data / "evidence" / shard.name
        both = finished.has(shard, [""]) and is_finished(evidence)
        return both and len(ShardReader(self.folder / shard.name)) == len(ShardReader(evidence))


def shards_of(config: ConfigDict, data: Path) -> list[Shard]:
    """The shards of DATA. UserError when it is of another config, or not begun."""
    marker = read_json(data / "config.json", "nothing is encoded there: run the encode stage first, or fix --out")
    check_same(marker["config"], identity(config), str(data), "label with the config that it was encoded with")
    check_dtype(config, data)
    counts = {split: fields["count"] for split, fields in marker["photos"].items()}
    return plan(counts, config.encode.photos_per_shard, later_counts(marker["photos"]))


def settings(config: ConfigDict, words: Ontology) -> dict[str, Any]:
    """What labels/NAME depends on besides the evidence."""
    fields = config.to_dict()
    embeddings_file = config.labels.text_embeddings
    return {
        "ontology": words.to_json(),
        "text_embeddings": _file_digest(embeddings_file) if embeddings_file else "",
        "templates": [] if embeddings_file else fields["labels"]["templates"],
        "variant": config.labels.variant,
        "calibration_photos": config.labels.calibration_photos,
        **{name: fields[name] for name in ("presence", "points", "masks", "merge")},
    }


def _labelled(config: ConfigDict, shards: Sequence[Shard]) -> list[Shard]:
    return [shard for shard in shards if shard.split in config.labels.splits]


def _labeller(
    config: ConfigDict, data: Path, folder: Path, words: Ontology, shards: Sequence[Shard], times: StageTimes
) -> Labeller:
    encoders = read_json(data / "encoders.json", "nothing is encoded there: run the encode stage first")
    height, width = encoders["grid_hw"]
    prototypes = _prototypes(config, folder, words, encoders, times)
    path = folder / "calibration.json"
    if not path.exists():
        with times("calibrate"):
            readers = [ShardReader(data / "evidence" / shard.name) for shard in shards]
            rows = _sample(readers, config.labels.calibration_photos)
            measured = presence.measure(rows, config.labels.variant, prototypes, words).to_json()
            later = any(shard.arrival for shard in shards)
            write_json(path, {**measured, **({"photos": sum(map(len, readers))} if later else {})})
    scale = Calibration.from_json(read_json(path, fix=f"delete {path}"))
    return Labeller(LabelSettings.from_config(config), words, prototypes, scale, (height, width))


def _sample(readers: Sequence[ShardReader], limit: int) -> Iterator[EvidenceRow]:
    """Photos of all shards alike, at most `limit`."""
    places = [(reader, row) for reader in readers for row in range(len(reader))]
    for i in presence.sample(len(places), limit):
        reader, row = places[i]
        yield EvidenceRow.decode(reader[row])


def _prototypes(
    config: ConfigDict, folder: Path, words: Ontology, encoders: dict[str, Any], times: StageTimes
) -> Prototypes:
    """The words' unit embeddings [K, E]: those in the folder, else the ready ones, else the text tower's.

    Beside them, in words-SPLIT, those of the words by which evaluation asks a split (eval.ontologies).
    """
    embeddings_file, width = config.labels.text_embeddings, encoders["text_width"]
    if embeddings_file and not (folder / "prototypes.npy").exists():
        _keep_words(folder, words, read_prototypes(embeddings_file, len(words.words), width))
    folders = {folder: words}
    named = {split: path for split, path in config.eval.ontologies.items() if path}
    folders |= {folder / f"words-{split}": read_words(path) for split, path in named.items()}
    missing = {where: ontology for where, ontology in folders.items() if not _has_words(where, ontology)}
    if missing:
        with times("embed words"):
            embedded = embed_words(config, list(missing.values()), encoders["encoders"]["clip"]["sha256"])
        for (where, ontology), prototypes in zip(missing.items(), embedded, strict=True):
            _keep_words(where, ontology, prototypes)
    return read_prototypes(folder / "prototypes.npy", len(words.words), width)


def embed_words(config: ConfigDict, words: Sequence[Ontology], sha256: str) -> list[Prototypes]:
    """[K, E] each by the text tower of the CLIP that encoded the photos; sha256: the digest of that one's weights."""
    from labelgen.models.clip import TEXT_DTYPE, load_clip  # torch: only where words are embedded here

    clip = load_clip(config.clip, config.weights_dir, config.device, TEXT_DTYPE)
    if clip.identity()["sha256"] != sha256:
        raise UserError(
            f"{config.weights_dir}/{clip.identity()['weights']}: is not the CLIP that encoded the photos "
            f"(sha256 {sha256}); put that one back, or encode into another --out"
        )
    return [clip.text(asked.words, config.labels.templates) for asked in words]


def _has_words(folder: Path, words: Ontology) -> bool:
    """Whether the folder has these words' embeddings; those of words that have changed since are taken away."""
    path = folder / "prototypes.npy"
    if path.exists() and read_json(folder / "ontology.json", f"delete {folder}") != words.to_json():
        path.unlink()
    return path.exists()


def _keep_words(folder: Path, words: Ontology, prototypes: Prototypes) -> None:
    """ontology.json and, last, prototypes.npy with unit rows."""
    folder.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True))
    write_json(folder / "ontology.json", words.to_json())
    write_atomic(folder / "prototypes.npy", buffer.getvalue())


def _file_digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        raise UserError(f"{path}: no such file of text embeddings; fix labels.text_embeddings") from None
