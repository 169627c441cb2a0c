"""The label stage: words and evidence to labels/NAME. No image tower runs, and with ready text embeddings no model."""

import contextlib
import hashlib
import io
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from labelgen.core.config import identity
from labelgen.core.errors import UserError
from labelgen.core.files import check_same, read_json, write_atomic, write_json
from labelgen.core.ontology import Ontology, read_words
from labelgen.core.progress import Progress, StageTimes
from labelgen.data.dataset import read_prototypes
from labelgen.data.manifest import check_dtype, claim, finish_labels
from labelgen.data.records import EvidenceRow, photo_id_of
from labelgen.data.shards import Finished, Shard, is_finished, plan
from labelgen.data.tfrecord import ShardBusyError, ShardReader, ShardWriter
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


def prepare(config: ConfigDict, data: Path) -> list[Shard]:
    """The shards of DATA. UserError when it is of another config, or not begun."""
    marker = read_json(data / "config.json", "nothing is encoded there: run the encode stage first, or fix --out")
    check_same(marker["config"], identity(config), str(data), "label with the config that it was encoded with")
    check_dtype(config, data)
    counts = {split: fields["count"] for split, fields in marker["photos"].items()}
    return plan(counts, config.encode.photos_per_shard)


def settings(config: ConfigDict, words: Ontology) -> dict[str, Any]:
    """What labels/NAME depends on besides the evidence."""
    fields = config.to_dict()
    ready = config.labels.text_embeddings
    return {
        "ontology": words.to_json(),
        "text_embeddings": _file_digest(ready) if ready else "",
        "templates": [] if ready else fields["labels"]["templates"],
        "variant": config.labels.variant,
        "calibration_photos": config.labels.calibration_photos,
        **{name: fields[name] for name in ("presence", "points", "masks", "merge")},
    }


def label(
    config: ConfigDict,
    data: Path,
    words: Ontology,
    mine: Sequence[Shard],
    shards: Sequence[Shard],
    times: StageTimes,
    corrected_from: CorrectedFrom | None = None,
) -> str:
    """Labels the shards of `mine`, and finishes labels/NAME when nobody's are left; what was done, in words.

    UserError when a photo of labels.splits is not encoded yet: calibration reads photos of all shards.
    """
    begun = begin(config, data, words, shards, times, corrected_from)
    left = unlabelled(begun, config, mine)
    progress = Progress(sum(shard.stop - shard.start for shard in left), "photos", "label")
    for shard in left:
        with contextlib.suppress(ShardBusyError):  # its owner finishes it, and labels/NAME if it is the last
            label_shard(begun, shard, times, progress)
    progress.close()
    return complete(begun, config, shards)


class Begun(NamedTuple):
    """labels/NAME, ready for its shards."""

    data: Path
    folder: Path
    fields: dict[str, Any]
    """What config.json there says."""
    labeller: Labeller
    corrected: Corrected | None
    """What a person drew, in place of the free labels."""

    def record(self, split: str, evidence: bytes) -> bytes:
        """A LabelRow's record of an EvidenceRow's."""
        free = self.labeller.label
        return self.corrected.record(split, evidence, free) if self.corrected else free(evidence)


def begin(
    config: ConfigDict,
    data: Path,
    words: Ontology,
    shards: Sequence[Shard],
    times: StageTimes,
    corrected_from: CorrectedFrom | None = None,
) -> Begun:
    """Claims labels/NAME and makes what all its shards need: the words' embeddings and the classes' scale."""
    folder = data / "labels" / config.labels.name
    fix = f"choose another name: --config.labels.name=NAME, or delete {folder} to label anew"
    there = Finished(data, ["evidence"])
    missing = [shard for shard in _labelled(config, shards) if not there.has(shard, ["evidence"])]
    if missing:
        raise UserError(f"{data}/evidence/{missing[0].name}: not encoded yet; run the encode stage to its end first")
    corrected = corrected_from and open_corrected(corrected_from, words, data, _labelled(config, shards))
    folder.mkdir(parents=True, exist_ok=True)
    claimed = (folder / "prototypes.npy").exists()
    wanted = settings(config, words) | (corrected.settings() if corrected else {})
    fields = claim(folder / "config.json", wanted, str(folder), fix, claimed)
    return Begun(data, folder, fields, _labeller(config, data, folder, words, shards, times), corrected)


def unlabelled(begun: Begun, config: ConfigDict, shards: Sequence[Shard]) -> list[Shard]:
    """Those of `shards` that are to be labelled and are not, or not as their evidence is now."""
    there = Finished(begun.folder, [""])
    return [shard for shard in _labelled(config, shards) if not _done(begun, shard, there)]


def complete(begun: Begun, config: ConfigDict, shards: Sequence[Shard]) -> str:
    """Writes labels.json when every shard of labels.splits is labelled; the line that says what there is."""
    folder, words, there = begun.folder, begun.labeller.words, Finished(begun.folder, [""])
    by_split: dict[str, list[Shard]] = {}
    for shard in shards:
        by_split.setdefault(shard.split, []).append(shard)
    done = sorted(s for s, members in by_split.items() if all(_done(begun, shard, there) for shard in members))
    if not set(config.labels.splits) <= set(done):
        return f"{folder}: this worker's share is labelled"
    finish_labels(folder, shards, done, begun.fields, begun.labeller.grid_hw)
    done_by = f"with {len(words.words)} words for {len(words.names)} classes"
    return f"{folder}: labelled {', '.join(done)} {done_by}{begun.corrected.said() if begun.corrected else ''}"


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
            rows = _sample(data, _labelled(config, shards), config.labels.calibration_photos)
            write_json(path, presence.measure(rows, config.labels.variant, prototypes, words).to_json())
    scale = Calibration.from_json(read_json(path, fix=f"delete {path}"))
    return Labeller(LabelSettings.from_config(config), words, prototypes, scale, (height, width))


def _sample(data: Path, shards: Sequence[Shard], most: int) -> Iterator[EvidenceRow]:
    """Photos of all shards alike, at most `most`."""
    readers = [ShardReader(data / "evidence" / shard.name) for shard in shards]
    places = [(reader, row) for reader in readers for row in range(len(reader))]
    for i in presence.sample(len(places), most):
        reader, row = places[i]
        yield EvidenceRow.decode(reader[row])


def _prototypes(
    config: ConfigDict, folder: Path, words: Ontology, encoders: dict[str, Any], times: StageTimes
) -> Prototypes:
    """The words' unit embeddings [K, E]: those in the folder, else the ready ones, else the text tower's.

    Beside them, in words-SPLIT, those of the words by which evaluation asks a split (eval.ontologies).
    """
    ready, width = config.labels.text_embeddings, encoders["text_width"]
    if ready and not (folder / "prototypes.npy").exists():
        _keep_words(folder, words, read_prototypes(ready, len(words.words), width))
    wanted = {folder: words}
    wanted |= {folder / f"words-{split}": read_words(path) for split, path in config.eval.ontologies.items()}
    missing = {where: asked for where, asked in wanted.items() if not _has_words(where, asked)}
    if missing:
        with times("embed words"):
            embedded = embed_words(config, list(missing.values()), encoders["encoders"]["clip"]["sha256"])
        for (where, asked), prototypes in zip(missing.items(), embedded, strict=True):
            _keep_words(where, asked, prototypes)
    return read_prototypes(folder / "prototypes.npy", len(words.words), width)


def embed_words(config: ConfigDict, words: Sequence[Ontology], sha256: str) -> list[Prototypes]:
    """[K, E] each by the text tower of the CLIP that encoded the photos; sha256: the digest of that one's weights."""
    from labelgen.models.clip import load_clip  # torch: only where words are embedded here

    clip = load_clip(config.clip, config.weights_dir, config.device, config.dtype)
    if clip.identity()["sha256"] != sha256:
        raise UserError(
            f"{config.weights_dir}/{clip.identity()['weights']}: is not the CLIP that encoded the photos "
            f"(sha256 {sha256}); put that one back, or encode into another --out"
        )
    return [clip.text(asked.words, config.labels.templates) for asked in words]


def _has_words(folder: Path, words: Ontology) -> bool:
    """Whether the folder has these words' embeddings; those of words that have changed since are taken away."""
    there = folder / "prototypes.npy"
    if there.exists() and read_json(folder / "ontology.json", f"delete {folder}") != words.to_json():
        there.unlink()
    return there.exists()


def _keep_words(folder: Path, words: Ontology, prototypes: Prototypes) -> None:
    """ontology.json and, last, prototypes.npy with unit rows."""
    folder.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    np.save(buffer, prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True))
    write_json(folder / "ontology.json", words.to_json())
    write_atomic(folder / "prototypes.npy", buffer.getvalue())


def label_shard(begun: Begun, shard: Shard, times: StageTimes, progress: Progress, spare: bool = False) -> None:
    """Labels one shard. ShardBusyError when another process of this machine has it, unless `spare`: then beside it."""
    evidence = ShardReader(begun.data / "evidence" / shard.name)
    with ShardWriter(begun.folder / shard.name, spare) as writer:
        pairs = zip(writer.records(), range(len(evidence)), strict=False)
        fits = (photo_id_of(record) == photo_id_of(evidence[row]) for record, row in pairs)
        writer.truncate(sum(takewhile(bool, fits)))
        progress.skip(shard.stop - shard.start - len(evidence) + writer.count)
        for row in range(writer.count, len(evidence)):
            with times("label"):
                record = begun.record(shard.split, evidence[row])
            with times("write labels"):
                writer.append(record)
            progress.add(1)
        writer.finish()


def _done(begun: Begun, shard: Shard, there: Finished) -> bool:
    evidence = begun.data / "evidence" / shard.name
    both_finished = there.has(shard, [""]) and is_finished(evidence)
    return both_finished and len(ShardReader(begun.folder / shard.name)) == len(ShardReader(evidence))


def _file_digest(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        raise UserError(f"{path}: no such file of text embeddings; fix labels.text_embeddings") from None
