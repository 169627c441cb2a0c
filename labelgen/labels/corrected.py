"""Labels that a person has corrected take the place of the free ones.

Data flow: corrected files + photos of DATA -> a label map a photo -> LabelRow, which the label stage writes and
training reads like any other. All files are looked at before the first photo is labelled.

labelgen.sources.corrections reads the files, whatever kind they are. UserErrors name the file.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.core.files import read_json
from labelgen.core.geometry import HW, WORKING_PX
from labelgen.core.ontology import Ontology, label_dtype
from labelgen.data.records import SLOTS, EvidenceRow, LabelRow
from labelgen.data.shards import Shard
from labelgen.data.tfrecord import ShardReader
from labelgen.labels.free_labels import nearest, patch_targets
from labelgen.labels.matching import PhotoKey, match
from labelgen.sources.corrections import open_corrections
from labelgen.sources.drawn import WITHOUT, Corrections, DrawnMap
from labelgen.sources.legends import Colour


class CorrectedFrom(NamedTuple):
    """What the command line says of corrected labels."""

    folder: Path
    only: bool
    """Photos that have none are left unlabelled, instead of having the free labels."""


@dataclass(frozen=True)
class Corrected:
    """Corrected label maps of some photos."""

    source: Corrections
    names: Mapping[PhotoKey, str]
    """Photo -> what `source` calls its label map."""
    digest: str
    remarks: Mapping[str, int]
    """What the files have that is no label, or is taken as something else, and how often."""
    only: bool
    classes: int
    grid_hw: HW
    """The fixed patch grid of DATA."""

    def settings(self) -> dict[str, Any]:
        """What labels/NAME depends on, for config.json and labels.json."""
        others = "unlabelled" if self.only else "free labels"
        fields = {"photos": len(self.names), "sha256": self.digest, "other_photos": others}
        return {"corrected": fields}

    def said(self) -> str:
        """For the last line of the command."""
        kept = "which stay unlabelled" if self.only else "which keep their free labels"
        remarks = "".join(
            f"; {count} {remark}{f', {kept}' * (remark == WITHOUT)}" for remark, count in sorted(self.remarks.items())
        )
        return f", {len(self.names)} photos as corrected" + ", the others unlabelled" * self.only + remarks

    def record(self, split: str, evidence: bytes, label: Callable[[bytes], bytes]) -> bytes:
        """The LabelRow's record of an EvidenceRow's; label: makes the free one, where it is wanted."""
        row = EvidenceRow.decode(evidence)
        name = self.names.get((split, row.photo_id))
        if name is None and not self.only:
            return label(evidence)
        start = unlabelled_row(row, self.classes, self.grid_hw) if self.only else LabelRow.decode(label(evidence))
        return (
            start.encode()
            if name is None
            else corrected_row(start, self.source.load(name, row.size_hw), row.grid_hw).encode()
        )


def unlabelled_row(evidence: EvidenceRow, classes: int, grid_hw: HW) -> LabelRow:
    """The row of a photo of which nothing is known; grid_hw: the fixed patch grid."""
    dtype = label_dtype(classes)
    return LabelRow(
        evidence.photo_id,
        np.zeros(0, np.int32),
        np.zeros(0, np.float32),
        np.full(evidence.size_hw, np.iinfo(dtype).max, dtype),
        np.zeros(evidence.size_hw, np.uint8),
        np.zeros((*grid_hw, SLOTS), np.uint16),
        np.zeros((*grid_hw, SLOTS), np.uint8),
    )


def corrected_row(row: LabelRow, label_map: DrawnMap, grid_hw: HW) -> LabelRow:
    """The row with label_map [H, W] (class, -1 unlabelled) in its map's place; the row itself where they are the same.

    Classes are those with a pixel, with score 1; confidence is 1 where the map was changed, 0 where a label was taken
    away; patch targets are made as those of free labels. grid_hw: the photo's valid patches.
    """
    dtype = row.label_map.dtype
    packed = np.where(label_map < 0, np.iinfo(dtype).max, label_map).astype(dtype)
    changed = packed != row.label_map
    if not changed.any():
        return row
    classes = np.unique(label_map[label_map >= 0]).astype(np.int32)
    fixed_hw = row.target_classes.shape[0], row.target_classes.shape[1]
    target_classes, target_shares = patch_targets(_at_working_size(label_map), grid_hw, fixed_hw)
    return LabelRow(
        row.photo_id,
        classes,
        np.ones(len(classes), np.float32),
        packed,
        np.where(changed, np.where(label_map < 0, 0, 255), row.confidence).astype(np.uint8),
        target_classes,
        target_shares,
    )


def _at_working_size(label_map: DrawnMap) -> NDArray[np.int64]:
    """At the size at which free labels are made."""
    height, width = label_map.shape
    longest = max(height, width)
    if longest > WORKING_PX:
        label_map = nearest(label_map, (max(1, height * WORKING_PX // longest), max(1, width * WORKING_PX // longest)))
    return label_map.astype(np.int64)


def open_corrected(
    origin: CorrectedFrom, words: Ontology, data: Path, shards: Sequence[Shard], colours: Sequence[Colour] = ()
) -> Corrected:
    """shards: those of DATA that are to be labelled, all of them encoded; colours: of PNGs of labelgen.export's.

    UserError, naming the file, when there is none, and for one that belongs to no photo or to several, has another
    size, or has classes that the words lack.
    """
    source = open_corrections(origin.folder, words, colours)
    photos = dict(sizes(data, shards))
    names = match(source, photos)
    if origin.only and not names:
        raise UserError(f"{origin.folder}: nothing is drawn there, so --only_corrected would leave all unlabelled")
    content = hashlib.sha256()
    for key, name in sorted(names.items()):
        size_hw = photos[key]
        label_map = source.load(name, size_hw)
        if label_map.shape != size_hw:
            raise UserError(
                f"{source.where(name)}: {label_map.shape[1]} x {label_map.shape[0]} px, but its photo {'/'.join(key)} "
                f"has {size_hw[1]} x {size_hw[0]}; draw on the photo upright and in its size"
            )
        content.update("/".join(key).encode() + b"\0" + label_map.tobytes())
    height, width = read_json(data / "encoders.json", "nothing is encoded there: run the encode stage first")["grid_hw"]
    digest, remarks = content.hexdigest(), {remark: count for remark, count in source.remarks.items() if count}
    return Corrected(source, names, digest, remarks, origin.only, len(words.names), (height, width))


def sizes(data: Path, shards: Sequence[Shard]) -> Iterator[tuple[PhotoKey, HW]]:
    """((split, photo id), size_hw) of every photo of these shards."""
    for shard in shards:
        evidence = ShardReader(data / "evidence" / shard.name)
        for i in range(len(evidence)):
            row = EvidenceRow.decode(evidence[i])
            yield (shard.split, row.photo_id), row.size_hw
