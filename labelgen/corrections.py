"""Label maps as a person gives them back: PNGs, LabelMe's files or a COCO json, in the classes of the words.

What is read here is what labelgen.formats writes, and what tools make of it: names of pictures with other folders in
front, other ids, other orders of classes. UserErrors name the file.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.core.files import read_json
from labelgen.core.ontology import UNLABELLED, Ontology
from labelgen.sources.coco import AS_PUBLISHED, Annotation, read_annotations
from labelgen.sources.coco_masks import mask_of, polygon_mask
from labelgen.sources.photos import read_mask

LabelMap = NDArray[np.int32]
PhotoKey = tuple[str, str]
"""(split, photo id)."""


class Corrections(Protocol):
    """Label maps by name: a name is the photo's file, with folders in front of it or without."""

    def names(self) -> Sequence[str]:
        """All there are, sorted."""

    def where(self, name: str) -> str:
        """What messages call it."""

    def load(self, name: str) -> LabelMap:
        """int32 [H, W] class of the words, -1 unlabelled. UserError for classes that the words lack."""


class PngFolder:
    """PNGs of class indices at any depth; 255 (16 bits: 65535) is unlabelled.

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

    def load(self, name: str) -> LabelMap:
        values = read_mask(self._folder / name).astype(np.int64)
        highest = 65535 if values.max(initial=0) > 255 else 255
        there = [int(value) for value in np.unique(values) if value != highest]
        lookup = np.full(highest + 1, -1, np.int32)
        for value in there:
            if value not in self._meaning:
                raise UserError(f"{self.where(name)}: class index {value}, which {self._legend} does not have; {_MEND}")
            lookup[value] = _known(self.where(name), self._meaning[value], self._index)
        return lookup[values]


class CocoJson:
    """A json of COCO's form: run lengths or polygons, categories by name; smaller masks lie on larger ones.

    Pixels without annotation are unlabelled, as are those of the category __ignore__.
    """

    def __init__(self, path: Path, words: Ontology) -> None:
        try:
            self._found = read_annotations(path)
        except UserError as error:
            raise UserError(str(error).replace(AS_PUBLISHED, "export it again as COCO's json of instances")) from None
        self._path = path
        self._pictures = {picture.file_name: picture for picture in self._found.pictures.values()}
        self._index = {name: i for i, name in enumerate(words.names)} | {UNLABELLED: -1}

    def names(self) -> Sequence[str]:
        """See Corrections; so the other methods."""
        return sorted(self._pictures)

    def where(self, name: str) -> str:
        return f"{self._path}: image {name!r}"

    def load(self, name: str) -> LabelMap:
        picture = self._pictures[name]
        pieces = [self._piece(name, each, picture.size_hw) for each in self._found.of_image.get(picture.image_id, ())]
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
        return mask, _known(where, self._found.categories[annotation.category_id], self._index)


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

    def load(self, name: str) -> LabelMap:
        where, mend = self.where(name), "draw polygons with LabelMe, and save it again"
        read = read_json(self._folder / name, mend)
        try:
            label_map = np.full((read["imageHeight"], read["imageWidth"]), -1, np.int32)
            shapes = [(shape["label"], shape["shape_type"], shape["points"]) for shape in read["shapes"]]
            drawn = [(label, kind, np.ravel(np.asarray(points, np.float64))) for label, kind, points in shapes]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: not a file of LabelMe's ({error!r}); {mend}") from None
        for label, kind, points in drawn:
            value = _known(where, label, self._index)
            if kind != "polygon" or len(points) < 6 or not np.isfinite(points).all():
                raise UserError(f"{where}: a {kind} of {label!r} with {len(points) // 2} points; {mend}")
            label_map[polygon_mask(points, (label_map.shape[0], label_map.shape[1]))] = value
        return label_map


_MEND = "mend it, or take the file of words that the labels were exported with"


def _known(where: str, name: str, index: Mapping[str, int]) -> int:
    if name not in index:
        raise UserError(f"{where}: class {name!r}, which the words do not have ({', '.join(index)}); {_MEND}")
    return index[name]


def open_corrections(folder: Path, words: Ontology) -> Corrections:
    """What lies in a folder: PNGs, LabelMe's files, or one COCO json, which may be named itself.

    UserError when nothing does, and where there are several kinds, as labelgen.export writes them.
    """
    if folder.is_file():
        return CocoJson(folder, words)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of corrected labels; mend --labels_from")
    jsons = [path for path in sorted(folder.rglob("*.json")) if path.name not in _LEGENDS]
    drawn = [path for path in jsons if _is_labelme(path)]
    coco = [path for path in jsons if path not in drawn]
    parts = {"confidence", "panoptic"}  # of labelgen.export, beside its masks
    pngs = [path for path in folder.rglob("*.png") if not parts & set(path.relative_to(folder).parts)]
    found = [folder / "masks" if (folder / "masks").is_dir() else folder] * bool(pngs)
    found += [folder / "labelme" if (folder / "labelme").is_dir() else folder] * bool(drawn) + coco
    if not found:
        raise UserError(f"{folder}: no PNG, no json of LabelMe or COCO in it; write some with labelgen.export")
    if len(found) > 1:
        named = " and ".join(map(str, found))
        raise UserError(f"{folder}: has labels in {named}; name those that were corrected: --labels_from={found[0]}")
    return PngFolder(found[0], words) if pngs else LabelmeFolder(found[0], words) if drawn else CocoJson(coco[0], words)


_LEGENDS = ("classes.json", "panoptic.json")


def _is_labelme(path: Path) -> bool:
    """By a key that each of LabelMe's files has, and COCO's have not."""
    with open(path, "rb") as file:
        return b'"shapes"' in file.read()


def match(corrections: Corrections, photos: Iterable[PhotoKey]) -> dict[PhotoKey, str]:
    """The name of each photo's label map: SPLIT/ID, ID, or as much of its end as tells it from others, with a suffix or
    without, and whatever folders in front. UserError for a name of no photo, of several, and for two of one photo.
    """
    by_last: dict[str, list[PhotoKey]] = {}
    for key in photos:
        by_last.setdefault(PurePosixPath(key[1]).name, []).append(key)
    found: dict[PhotoKey, str] = {}
    for name in corrections.names():
        keys = _photos_of(name, by_last) or _photos_of(os.path.splitext(name)[0], by_last)
        if len(keys) != 1:
            which = (
                f"may be that of {' or '.join('/'.join(key) for key in keys[:3])}" if keys else "belongs to no photo"
            )
            mend = "call it SPLIT/ID as labelgen.export does" + ("" if keys else ", or take it out")
            raise UserError(f"{corrections.where(name)}: {which} of the labelled splits; {mend}")
        if keys[0] in found:
            other = corrections.where(found[keys[0]])
            raise UserError(f"{corrections.where(name)}: is of the same photo as {other}; take one of them out")
        found[keys[0]] = name
    return found


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
