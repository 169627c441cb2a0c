"""Labels that a person has corrected take the place of the free ones.

Data flow: corrected files + photos of DATA -> a label map a photo -> LabelRow, which the label stage writes and
training reads like any other. All files are looked at before the first photo is labelled.

What is read is what labelgen.formats writes (PNGs, LabelMe's files or a COCO json, in the classes of the words), and
what tools make of it: names of pictures with other folders in front, other ids, other orders of classes. UserErrors
name the file.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.core.files import read_json
from labelgen.core.geometry import HW, WORKING_PX
from labelgen.core.ontology import UNLABELLED, Ontology, label_dtype
from labelgen.data.records import SLOTS, EvidenceRow, LabelRow
from labelgen.data.shards import Shard
from labelgen.data.tfrecord import ShardReader
from labelgen.labels.free_labels import nearest, patch_targets
from labelgen.sources.coco import AS_PUBLISHED, Annotation, read_annotations
from labelgen.sources.coco_masks import mask_of, polygon_mask
from labelgen.sources.photos import read_mask

DrawnMap = NDArray[np.int32]
"""[H, W] class of the words, -1 unlabelled."""
PhotoKey = tuple[str, str]
"""(split, photo id)."""


class CorrectedFrom(NamedTuple):
    """What the command line says of corrected labels."""

    folder: Path
    only: bool
    """Photos that have none are left unlabelled, instead of having the free labels."""


class Corrections(Protocol):
    """Label maps by name: a name is the photo's file, with folders in front of it or without."""

    def names(self) -> Sequence[str]:
        """All there are, sorted."""

    def where(self, name: str) -> str:
        """What messages call it."""

    def load(self, name: str) -> DrawnMap:
        """int32 [H, W] class of the words, -1 unlabelled. UserError for classes that the words lack."""


@dataclass(frozen=True)
class Corrected:
    """Corrected label maps of some photos."""

    source: Corrections
    names: Mapping[PhotoKey, str]
    """Photo -> what `source` calls its label map."""
    digest: str
    only: bool
    classes: int
    grid_hw: HW
    """The fixed patch grid of DATA."""

    def settings(self) -> dict[str, Any]:
        """What labels/NAME depends on, for config.json and labels.json."""
        others = "unlabelled" if self.only else "free labels"
        return {"corrected": {"photos": len(self.names), "sha256": self.digest, "other_photos": others}}

    def said(self) -> str:
        """For the last line of the command."""
        return f", {len(self.names)} photos as corrected" + ", the others unlabelled" * self.only

    def record(self, split: str, evidence: bytes, label: Callable[[bytes], bytes]) -> bytes:
        """The LabelRow's record of an EvidenceRow's; label: makes the free one, where it is wanted."""
        row = EvidenceRow.decode(evidence)
        name = self.names.get((split, row.photo_id))
        if name is None and not self.only:
            return label(evidence)
        start = unlabelled_row(row, self.classes, self.grid_hw) if self.only else LabelRow.decode(label(evidence))
        return start.encode() if name is None else corrected_row(start, self.source.load(name), row.grid_hw).encode()


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


def open_corrected(origin: CorrectedFrom, words: Ontology, data: Path, shards: Sequence[Shard]) -> Corrected:
    """shards: those of DATA that are to be labelled, all of them encoded.

    UserError, naming the file, when there is none, and for one that belongs to no photo or to several, has another
    size, or has classes that the words lack.
    """
    source = open_corrections(origin.folder, words)
    photos = dict(sizes(data, shards))
    names = match(source, photos)
    content = hashlib.sha256()
    for key, name in sorted(names.items()):
        label_map, size_hw = source.load(name), photos[key]
        if label_map.shape != size_hw:
            raise UserError(
                f"{source.where(name)}: {label_map.shape[1]} x {label_map.shape[0]} px, but its photo {'/'.join(key)} "
                f"has {size_hw[1]} x {size_hw[0]}; draw on the photo upright and in its size"
            )
        content.update("/".join(key).encode() + b"\0" + label_map.tobytes())
    height, width = read_json(data / "encoders.json", "nothing is encoded there: run the encode stage first")["grid_hw"]
    return Corrected(source, names, content.hexdigest(), origin.only, len(words.names), (height, width))


def sizes(data: Path, shards: Sequence[Shard]) -> Iterator[tuple[PhotoKey, HW]]:
    """((split, photo id), size_hw) of every photo of these shards."""
    for shard in shards:
        evidence = ShardReader(data / "evidence" / shard.name)
        for i in range(len(evidence)):
            row = EvidenceRow.decode(evidence[i])
            yield (shard.split, row.photo_id), row.size_hw


def open_corrections(folder: Path, words: Ontology) -> Corrections:
    """What lies in a folder: PNGs, LabelMe's files, or one COCO json, which may be named itself.

    UserError when nothing does, and where there are several kinds, as labelgen.export writes them.
    """
    if folder.is_file():
        return CocoJson(folder, words)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of corrected labels; fix --labels_from")
    jsons = [path for path in sorted(folder.rglob("*.json")) if path.name not in _LEGENDS]
    drawn = [path for path in jsons if _is_labelme(path)]
    coco = [path for path in jsons if path not in drawn]
    parts = {"confidence", "panoptic"}  # of labelgen.export, beside its masks
    pngs = [path for path in folder.rglob("*.png") if not parts & set(path.relative_to(folder).parts)]
    paths = [folder / "masks" if (folder / "masks").is_dir() else folder] * bool(pngs)
    paths += [folder / "labelme" if (folder / "labelme").is_dir() else folder] * bool(drawn) + coco
    if not paths:
        raise UserError(f"{folder}: no PNG, no json of LabelMe or COCO in it; write some with labelgen.export")
    if len(paths) > 1:
        named = " and ".join(map(str, paths))
        raise UserError(f"{folder}: has labels in {named}; name those that were corrected: --labels_from={paths[0]}")
    return PngFolder(paths[0], words) if pngs else LabelmeFolder(paths[0], words) if drawn else CocoJson(coco[0], words)


_LEGENDS = ("classes.json", "panoptic.json")


def _is_labelme(path: Path) -> bool:
    """By a key that each of LabelMe's files has, and COCO's have not."""
    with open(path, "rb") as file:
        return b'"shapes"' in file.read()


class PngFolder:
    """PNGs of class indices at any depth; 255 is unlabelled, in one of 16 bits 65535, and 255 where it is no class.

    Indices are those of classes.json in the folder or beside it; without one, lines of the file of words.
    """

    def __init__(self, folder: Path, words: Ontology) -> None:
        self._folder = folder
        legend = next(
            (path for path in (folder / "classes.json", folder.parent / "classes.json") if path.is_file()), None
        )
        self._legend = str(legend) if legend else "the file of words"
        self._meaning = dict(enumerate(words.names))
        if legend:
            fields = read_json(legend, "export the labels again, or take it away where indices are lines of the words")
            try:
                self._meaning = {int(field["index"]): name for name, field in fields.items()}
            except (TypeError, KeyError, ValueError):
                raise UserError(f"{legend}: not name -> {{index: …}}; export the labels again") from None
        self._index = {name: i for i, name in enumerate(words.names)}

    def names(self) -> Sequence[str]:
        """See Corrections; so the other methods."""
        return sorted(path.relative_to(self._folder).as_posix() for path in self._folder.rglob("*.png"))

    def where(self, name: str) -> str:
        return str(self._folder / name)

    def load(self, name: str) -> DrawnMap:
        read = read_mask(self._folder / name)
        values, unlabelled = read.astype(np.int64), {65535} if read.dtype.itemsize > 1 else {255}
        if 255 not in self._meaning:
            unlabelled.add(255)
        there = [int(value) for value in np.unique(values) if value not in unlabelled]
        lookup = np.full(max(unlabelled) + 1, -1, np.int32)
        for value in there:
            if value not in self._meaning:
                raise UserError(f"{self.where(name)}: class index {value}, which {self._legend} does not have; {_FIX}")
            lookup[value] = _known(self.where(name), self._meaning[value], self._index)
        return lookup[values]


class CocoJson:
    """A json of COCO's form: run lengths or polygons, categories by name; smaller masks lie on larger ones.

    Pixels without annotation are unlabelled, as are those of the category __ignore__.
    """

    def __init__(self, path: Path, words: Ontology) -> None:
        try:
            self._annotations = read_annotations(path)
        except UserError as error:
            raise UserError(str(error).replace(AS_PUBLISHED, "export it again as COCO's json of instances")) from None
        self._path = path
        self._pictures = {picture.file_name: picture for picture in self._annotations.pictures.values()}
        self._index = {name: i for i, name in enumerate(words.names)} | {UNLABELLED: -1}

    def names(self) -> Sequence[str]:
        """See Corrections; so the other methods."""
        return sorted(self._pictures)

    def where(self, name: str) -> str:
        return f"{self._path}: image {name!r}"

    def load(self, name: str) -> DrawnMap:
        picture = self._pictures[name]
        pieces = [
            self._piece(name, each, picture.size_hw) for each in self._annotations.of_image.get(picture.image_id, ())
        ]
        label_map = np.full(picture.size_hw, -1, np.int32)
        for mask, value in sorted(pieces, key=lambda piece: -int(piece[0].sum())):
            label_map[mask] = value
        return label_map

    def _piece(self, name: str, annotation: Annotation, size_hw: tuple[int, int]) -> tuple[NDArray[np.bool_], int]:
        where = f"{self.where(name)}: annotation {annotation.annotation_id}"
        try:
            mask = mask_of(annotation.segmentation, size_hw)
        except ValueError as error:
            raise UserError(f"{where}: {error}; export it again") from None
        return mask, _known(where, self._annotations.categories[annotation.category_id], self._index)


class LabelmeFolder:
    """LabelMe's polygons, a file a photo, painted in their order; what none covers, or __ignore__, is unlabelled."""

    def __init__(self, folder: Path, words: Ontology) -> None:
        self._folder = folder
        self._index = {name: i for i, name in enumerate(words.names)} | {UNLABELLED: -1}

    def names(self) -> Sequence[str]:
        """See Corrections; so the other methods."""
        return sorted(path.relative_to(self._folder).as_posix() for path in self._folder.rglob("*.json"))

    def where(self, name: str) -> str:
        return str(self._folder / name)

    def load(self, name: str) -> DrawnMap:
        where, fix = self.where(name), "draw polygons with LabelMe, and save it again"
        read = read_json(self._folder / name, fix)
        try:
            label_map = np.full((read["imageHeight"], read["imageWidth"]), -1, np.int32)
            shapes = [(shape["label"], shape["shape_type"], shape["points"]) for shape in read["shapes"]]
            drawn = [(label, kind, np.ravel(np.asarray(points, np.float64))) for label, kind, points in shapes]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: not a file of LabelMe's ({error!r}); {fix}") from None
        for label, kind, points in drawn:
            value = _known(where, label, self._index)
            if kind != "polygon" or len(points) < 6 or not np.isfinite(points).all():
                raise UserError(f"{where}: a {kind} of {label!r} with {len(points) // 2} points; {fix}")
            label_map[polygon_mask(points, (label_map.shape[0], label_map.shape[1]))] = value
        return label_map


_FIX = "fix it, or take the file of words that the labels were exported with"


def _known(where: str, name: str, index: Mapping[str, int]) -> int:
    if name not in index:
        raise UserError(f"{where}: class {name!r}, which the words do not have ({', '.join(index)}); {_FIX}")
    return index[name]


def match(corrections: Corrections, photos: Iterable[PhotoKey]) -> dict[PhotoKey, str]:
    """The name of each photo's label map: SPLIT/ID, ID, or as much of its end as tells it from others, with a suffix or
    without, and whatever folders in front. UserError for a name of no photo, of several, and for two of one photo.
    """
    by_last: dict[str, list[PhotoKey]] = {}
    for key in photos:
        by_last.setdefault(PurePosixPath(key[1]).name, []).append(key)
    names: dict[PhotoKey, str] = {}
    for name in corrections.names():
        keys = _photos_of(name, by_last) or _photos_of(os.path.splitext(name)[0], by_last)
        if len(keys) != 1:
            which = (
                f"may be that of {' or '.join('/'.join(key) for key in keys[:3])}" if keys else "belongs to no photo"
            )
            fix = "call it SPLIT/ID as labelgen.export does" + ("" if keys else ", or take it out")
            raise UserError(f"{corrections.where(name)}: {which} of the labelled splits; {fix}")
        if keys[0] in names:
            other = corrections.where(names[keys[0]])
            raise UserError(f"{corrections.where(name)}: is of the same photo as {other}; take one of them out")
        names[keys[0]] = name
    return names


def _photos_of(name: str, by_last: Mapping[str, Sequence[PhotoKey]]) -> list[PhotoKey]:
    """Photos whose path ends as the name does; those of a split that the name has in front, where there are such."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    keys = []
    for split, photo_id in by_last.get(parts[-1], ()) if parts else ():
        own = PurePosixPath(photo_id).parts
        shared = min(len(own), len(parts))
        if own[-shared:] == parts[-shared:]:
            keys.append((split, photo_id))
    in_split = [key for key in keys if key[0] in parts[: len(parts) - len(PurePosixPath(key[1]).parts)]]
    return in_split or keys
