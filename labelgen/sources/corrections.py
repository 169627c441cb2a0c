"""Label maps that a person drew, in whatever files: PNGs, COCO's json, LabelMe's, Label Studio's, CVAT's xml, and more.

What is read is what labelgen.formats writes, in the classes of the words, and what tools make of it: names of pictures
with other folders in front, other ids, other orders of classes, palettes and legends of their own. UserErrors name the
file.
"""

import contextlib
import json
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelgen.core.errors import UserError
from labelgen.core.geometry import HW
from labelgen.core.ontology import BACKGROUND, Ontology
from labelgen.sources.coco import AS_PUBLISHED, Annotation, read_annotations
from labelgen.sources.coco_masks import mask_of
from labelgen.sources.coco_panoptic import panoptic_truth
from labelgen.sources.cvat import CvatXml
from labelgen.sources.drawn import WITHOUT, Classes, Corrections, DrawnMap, label_files
from labelgen.sources.label_studio import LabelStudioJson
from labelgen.sources.labelme import LabelmeFolder
from labelgen.sources.legends import (
    CLASSES,
    Colour,
    Legend,
    by_legend,
    check_not_voc,
    check_palette,
    find_legend,
    is_foreign,
    is_wide,
    read_drawn,
)

EMPTY = "with an empty segmentation left out"
UNDER = "with background taken as unlabelled, which the words do not have"
EIGHT_BITS = "of 8 bits with 255 taken as unlabelled, which is a class in 16"
_EXPORT = "export it again as COCO's json of instances"
_TASK_PNG = re.compile(r"task-\d+-annotation-\d+-by-")


def open_corrections(place: Path, words: Ontology, colours: Sequence[Colour] = ()) -> Corrections:
    """What lies in a folder: PNGs, LabelMe's or Label Studio's files, or one file of COCO or CVAT. A file may be named.

    colours: of the classes in PNGs of labelgen.export's, where these come without classes.json. UserError when there is
    nothing, and where there are several kinds, as labelgen.export writes them.
    """
    if place.is_file():
        return _of_file(place, words)
    if not place.is_dir():
        raise UserError(f"{place}: no such folder of corrected labels; fix --labels_from")
    kinds = {path: kind for path in label_files(place, "json", "xml") if (kind := _kind(path))}
    drawn = [path for path, kind in kinds.items() if kind == "labelme"]
    tasks = [path for path, kind in kinds.items() if kind == "label-studio"]
    several = ("labelme", "label-studio")
    single = [path for path, kind in kinds.items() if kind not in several and not _beside_semantic(path)]
    pngs = _pngs(place, kinds)
    paths = [_inside(place, "masks", "SegmentationClass")] * bool(pngs)
    paths += [_inside(place, "labelme")] * bool(drawn)
    paths += (tasks if len(tasks) < 2 else [place]) + single
    if not paths:
        raise UserError(
            f"{place}: no PNG, no json of LabelMe, COCO or Label Studio in it; write some with labelgen.export, or "
            "take CVAT's xml"
        )
    if len(paths) > 1:
        raise _several(place, paths)
    if pngs and (strange := _of_tasks(paths[0])):
        raise UserError(
            f"{strange[0]}: a PNG of Label Studio's, which names no photo; export the same as *JSON* (not MIN)"
        )
    if pngs:
        return PngFolder(paths[0], words, colours)
    return (LabelmeFolder if drawn else LabelStudioJson if tasks else _OF_KIND[kinds[paths[0]]])(paths[0], words)


def _several(place: Path, paths: Sequence[Path]) -> UserError:
    """For a folder with labels of several kinds, that lie there."""
    if len(set(paths)) == 1:
        return UserError(
            f"{place}: has files of LabelMe or Label Studio, and grey PNGs that belong to none of them; move those "
            "that are not the labels into another folder"
        )
    other = next((path for path in paths if path != place), None)
    fix = f"name those that were corrected: --labels_from={other}" if other else "give each a folder of its own"
    fix += f", or take {other} away for those in {place}" if other and place in paths else ""
    return UserError(f"{place}: has labels in {' and '.join(map(str, paths))}; {fix}")


def _of_file(path: Path, words: Ontology) -> Corrections:
    """UserError for a file that is of no kind by its ending and first letter."""
    with open(path, "rb") as file:
        opening = file.read(16).replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    kind = _kind(path) or "coco" * (path.suffix.lower() == ".json" or opening[:1] == b"{")
    if kind:
        return _OF_KIND[kind](path, words)
    fix = "name the folder that the masks lie in" if path.suffix.lower() == ".png" else _EXPORT
    raise UserError(f"{path}: no json of COCO's, LabelMe's or Label Studio's, no xml of CVAT's for images; {fix}")


def _inside(place: Path, *names: str) -> Path:
    """A folder in the place that has one of these names, as labelgen.export and Pascal VOC call it; else the place."""
    return next((place / name for name in names if (place / name).is_dir()), place)


def _kind(path: Path) -> str:
    """ "coco", "panoptic", "labelme", "label-studio", "cvat", or "" for what has no labels. What is broken passes for
    what it seems."""
    if path.suffix.lower() == ".xml":
        try:
            first = next(ElementTree.iterparse(path, ["start"]))[1].tag
        except (ElementTree.ParseError, StopIteration):
            first = "annotations"
        return "cvat" if first == "annotations" else ""
    if path.suffix.lower() != ".json" or path.name == CLASSES:
        return ""
    keys: set[str] = set()
    panoptic = False

    def look(record: dict[str, Any]) -> None:
        nonlocal keys, panoptic
        keys, panoptic = set(record), panoptic or "segments_info" in record  # the outermost comes last

    content = path.read_bytes()
    try:
        json.loads(content, object_hook=look)
    except (ValueError, RecursionError):
        keys = {"shapes"} if b'"shapes"' in content else {"annotations"}
    if "shapes" in keys:
        return "labelme"
    if {"data", "annotations"} <= keys - {"images"} or {"annotation_id", "annotator"} <= keys:  # the second is MIN
        return "label-studio"
    return "" if not keys & {"annotations", "images"} else "panoptic" if panoptic else "coco"


def _beside_semantic(path: Path) -> bool:
    """Of labelgen.export, which says the same twice."""
    return path.name == "panoptic.json" and path.with_name("semantic.json").is_file()


def _pngs(place: Path, kinds: Mapping[Path, str]) -> list[Path]:
    """Masks: not what labelgen.export and panoptic jsons have beside them, nor photos that annotations are of.

    With LabelMe's files lie photos of their names; with other annotations a picture in colours is a photo, unless a
    label map names the colours.
    """
    root = _inside(place, "masks", "SegmentationClass")
    if "label-studio" in kinds.values() and _of_tasks(root):
        return []  # the same brushes as in the json, which knows their photos
    apart = {path.with_suffix("") for path, kind in kinds.items() if kind == "panoptic"}
    photos = {path.with_suffix("") for path, kind in kinds.items() if kind == "labelme"}
    pngs = [
        path
        for path in label_files(root, "png")
        if "confidence" not in path.relative_to(root).parts
        and path.with_suffix("") not in photos
        and not apart & set(path.parents)
    ]
    legend = find_legend(root) if kinds else None
    if not kinds or (legend and is_foreign(legend)):
        return pngs
    return [path for path in pngs if not _is_coloured(path)]


def _of_tasks(folder: Path) -> list[Path]:
    """Label Studio's PNGs of brushes, a label of a task each: they name no photo."""
    return [path for path in label_files(folder, "png") if _TASK_PNG.match(path.name)]


def _is_coloured(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return image.mode not in ("1", "L", "P", "I", "I;16")
    except Exception:  # Pillow's decoders raise of many kinds; who reads it says what is wrong
        return False


class PngFolder:
    """PNGs of class indices or colours at any depth; 255 is unlabelled, in one of 16 bits 65535, and 255 where it is no
    class.

    Indices and colours are those of labelmap.txt or classes.json in the folder or beside it; without one, indices are
    lines of the file of words.
    """

    def __init__(self, folder: Path, words: Ontology, colours: Sequence[Colour] = ()) -> None:
        self._folder, self._classes, self.remarks = folder, Classes(words), Counter[str]()
        self._lines, self._colours = words.names, colours
        self._legend = find_legend(folder)
        self._under = bool(self._legend and is_foreign(self._legend)) and BACKGROUND not in self._classes
        names = sorted(path.relative_to(folder).as_posix() for path in label_files(folder, "png"))
        self._names = [name for name in names if not self._under or (self.load(name) >= 0).any()]
        self.remarks = Counter({WITHOUT: len(names) - len(self._names)})

    def names(self) -> Sequence[str]:
        """See labelgen.sources.drawn.Corrections; so the other methods."""
        return self._names

    def where(self, name: str) -> str:
        return str(self._folder / name)

    def load(self, name: str, size_hw: HW | None = None) -> DrawnMap:
        path = self._folder / name
        legend = self._legend or self._of_words(path)
        drawn = by_legend(path, legend)
        lookup = np.full(len(legend.names) + 1, -1, np.int32)
        for value in np.unique(drawn[drawn >= 0]).tolist():
            if self._under and legend.names[value] == BACKGROUND:
                self.remarks[UNDER] += 1
            else:
                lookup[value] = self._classes.index(self.where(name), legend.names[value])
        if 255 in legend.values and (drawn < 0).any() and not is_wide(path):
            self.remarks[EIGHT_BITS] += 1
        return lookup[drawn]

    def _of_words(self, path: Path) -> Legend:
        """The lines of the words. UserError where the file's palette contradicts them."""
        drawn = read_drawn(path)
        if self._lines[0] != BACKGROUND:
            check_not_voc(path, drawn, self._lines[0])
        check_palette(path, drawn, self._colours, "labelgen.export's masks")
        return Legend("the file of words", self._lines, tuple(range(len(self._lines))), ())


@contextlib.contextmanager
def _exported() -> Iterator[None]:
    """Errors say what to do with a json that is a tool's, not a data set's."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace(AS_PUBLISHED, _EXPORT).replace("unpack it", "export it")) from None


class CocoJson:
    """A json of COCO's form: run lengths or polygons, categories by name; smaller masks lie on larger ones.

    Pixels without annotation are unlabelled, as are those of the category __ignore__.
    """

    def __init__(self, path: Path, words: Ontology) -> None:
        self._path, self._classes = path, Classes(words)
        with _exported():
            self._annotations = read_annotations(path)
        pictures = {picture.file_name: picture for picture in self._annotations.pictures.values()}
        drawn = {name: each for name, each in pictures.items() if each.image_id in self._annotations.of_image}
        self._pictures = drawn
        self.remarks = Counter({WITHOUT: len(pictures) - len(drawn), EMPTY: self._annotations.empty})

    def names(self) -> Sequence[str]:
        """See labelgen.sources.drawn.Corrections; so the other methods."""
        return sorted(self._pictures)

    def where(self, name: str) -> str:
        return f"{self._path}: image {name!r}"

    def load(self, name: str, size_hw: HW | None = None) -> DrawnMap:
        picture = self._pictures[name]
        pieces = [self._piece(name, each, picture.size_hw) for each in self._annotations.of_image[picture.image_id]]
        label_map = np.full(picture.size_hw, -1, np.int32)
        for mask, value in sorted(pieces, key=lambda piece: -int(piece[0].sum())):
            label_map[mask] = value
        return label_map

    def _piece(self, name: str, annotation: Annotation, size_hw: HW) -> tuple[NDArray[np.bool_], int]:
        where = f"{self.where(name)}: annotation {annotation.annotation_id}"
        try:
            mask = mask_of(annotation.segmentation, size_hw)
        except ValueError as error:
            raise UserError(f"{where}: {error}; export it again") from None
        return mask, self._classes.index(where, self._annotations.categories[annotation.category_id])


class PanopticJson:
    """COCO's panoptic json with its PNGs in a folder of its name beside it; crowds are of their category too."""

    def __init__(self, path: Path, words: Ontology) -> None:
        self._path, self._classes = path, Classes(words)
        with _exported():
            self._truth = panoptic_truth(path.parent, path.stem, labels=True)
        self._pictures = {picture.file_name: picture for picture in self._truth.pictures.values()}
        self.remarks = Counter({WITHOUT: self._truth.bare})

    def names(self) -> Sequence[str]:
        """See labelgen.sources.drawn.Corrections; so the other methods."""
        return sorted(self._pictures)

    def where(self, name: str) -> str:
        return f"{self._path}: image {name!r}"

    def load(self, name: str, size_hw: HW | None = None) -> DrawnMap:
        drawn = self._truth.indices(self._pictures[name])
        lookup = np.full(len(self._truth.classes) + 1, -1, np.int32)
        for value in np.unique(drawn[drawn >= 0]).tolist():
            lookup[value] = self._classes.index(self.where(name), self._truth.classes[value])
        return lookup[drawn]


_OF_KIND: dict[str, Callable[[Path, Ontology], Corrections]] = {
    "coco": CocoJson,
    "panoptic": PanopticJson,
    "labelme": LabelmeFolder,
    "label-studio": LabelStudioJson,
    "cvat": CvatXml,
}
