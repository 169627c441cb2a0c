"""Label maps in the files of other tools, a writer a format: what it is given of a photo, and what it makes of it.

PNG        a palette PNG a photo with the class index of each pixel; beside them classes.json, and confidence as grey
           PNGs
COCO       semantic.json with a run-length mask a class and photo, of the form of instances_*.json and stuff_*.json (Lin
           et al. 2014, Caesar et al. 2018), which pycocotools reads; panoptic.json with its PNGs, Kirillov et al.'s
           (2019). A class of a photo is one annotation: nothing here tells one thing from another. Both say every
           pixel, holes and unlabelled ones too
LabelMe, CVAT for images 1.1, Ultralytics YOLO
           polygons, to be painted in their order: one in the hole of another comes after it. LabelMe and CVAT have a
           label for unlabelled pixels there; YOLO has not, so these count as the class around them
"""

import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelgen.core.files import write_atomic, write_json
from labelgen.core.ontology import STUFF, THING, UNLABELLED, label_dtype
from labelgen.data.records import png_bytes
from labelgen.data.rle import encode_mask
from labelgen.formats.alphabets import json_bytes, xml_text, yaml_text
from labelgen.formats.regions import Outlines, Region, outlines
from labelgen.sources.coco_masks import encode_string


class ClassInfo(NamedTuple):
    """A class of the label maps."""

    name: str
    colour: tuple[int, int, int]
    words: tuple[str, ...]
    role: str = ""
    """ "thing", "stuff", or "" where that is not known."""


@dataclass(frozen=True)
class Annotated:
    """One photo and its label map."""

    number: int
    """Its place among all photos, from 0: what ids are made of."""
    name: str
    """ID, or SPLIT/ID: the name of the photo's own files, without suffix."""
    file: str
    """The picture as tools are to find it in their folder of photos; `name` where that is not known."""
    path: Path | None
    """Where the picture lies now; None where that is not known."""
    label_map: NDArray[np.int32]
    """[H, W] class, -1 unlabelled."""
    confidence: NDArray[np.uint8] | None = None
    """[H, W], 255 = certain; None where there is none to tell."""

    @cached_property
    def outlines(self) -> Outlines:
        """Its polygons; computed once for all formats that have polygons."""
        return outlines(self.label_map, self.confidence)

    @property
    def classes(self) -> list[int]:
        """Classes that have a pixel, ascending."""
        there = np.unique(self.label_map)
        return [int(value) for value in there if value >= 0]

    def class_confidence(self, mask: NDArray[np.bool_]) -> float | None:
        """Mean confidence of the pixels of a mask bool [H, W], 0 to 1."""
        return None if self.confidence is None else float(self.confidence[mask].mean()) / 255


@dataclass
class State:
    """What a format keeps of the photos until the end, JSON-able: over several hosts they are put together."""

    records: list[tuple[int, Any]] = field(default_factory=list)
    """(the photo's number, what the files about all photos say of it)."""
    counts: Counter[str] = field(default_factory=Counter)
    """How often something could not be said as it is."""


class Writer(Protocol):
    """A format. FOLDER and the classes are given to the constructor."""

    state: State

    def add(self, photo: Annotated) -> None:
        """Writes the photo's own files, and keeps what is for the others."""

    def finish(self, records: Sequence[Any]) -> None:
        """Writes the files about all photos; records: in the order of the photos."""

    def remarks(self, counts: Counter[str]) -> list[str]:
        """What the files do not say, or say in a way that a reader must know of."""


UNLABELLED_COLOUR = (255, 255, 255)


class PngWriter:
    """masks/NAME.png, confidence/NAME.png, classes.json.

    A mask has the class index, 255 for unlabelled, in the classes' colours; with more than 255 classes it is 16-bit
    grey, 65535 for unlabelled.
    """

    def __init__(self, folder: Path, classes: Sequence[ClassInfo]) -> None:
        self.state = State()
        self._folder, self._classes = folder, classes
        colours = np.zeros((256, 3), np.uint8)
        colours[: len(classes)] = [info.colour for info in classes[:256]]
        colours[255] = UNLABELLED_COLOUR
        self._palette = colours.tobytes()

    def add(self, photo: Annotated) -> None:
        """See labelgen.formats.writers.Writer; so the other methods."""
        save(self._folder / "masks" / f"{photo.name}.png", self._mask(photo.label_map))
        if photo.confidence is not None:
            save(self._folder / "confidence" / f"{photo.name}.png", png_bytes(photo.confidence))

    def finish(self, records: Sequence[Any]) -> None:
        write_json(self._folder / "classes.json", classes_json(self._classes))

    def remarks(self, counts: Counter[str]) -> list[str]:
        return []

    def _mask(self, label_map: NDArray[np.int32]) -> bytes:
        dtype = label_dtype(len(self._classes))
        values = np.where(label_map < 0, np.iinfo(dtype).max, label_map).astype(dtype)
        if dtype != np.uint8:
            return png_bytes(values)
        image = Image.fromarray(values, "P")
        image.putpalette(self._palette)
        data = io.BytesIO()
        image.save(data, "PNG")
        return data.getvalue()


class CocoWriter:
    """coco/semantic.json, coco/panoptic.json and coco/panoptic/STEM.png; category ids are class indices from 1 on.

    STEM is the picture's path without suffix, by which detectron2 finds the picture of a PNG.
    """

    def __init__(self, folder: Path, classes: Sequence[ClassInfo]) -> None:
        self.state = State()
        self._folder, self._classes = folder / "coco", classes
        self._stems: set[str] = set()

    def add(self, photo: Annotated) -> None:
        """See labelgen.formats.writers.Writer; so the other methods."""
        height, width = photo.label_map.shape
        image = {"id": photo.number + 1, "file_name": photo.file, "height": height, "width": width}
        annotations = [self._annotation(photo, value) for value in photo.classes]
        png = f"{self._stem(photo)}.png"
        self.state.records.append((photo.number, [png, image, annotations]))
        self.state.counts.update({f"{_AREA}{value}": int((photo.label_map == value).sum()) for value in photo.classes})
        save(self._folder / "panoptic" / png, panoptic_png(photo.label_map))

    def _stem(self, photo: Annotated) -> str:
        """The photo's name where the picture's path is not known, leads out of the folder or is another photo's too."""
        stem = os.path.splitext(photo.file)[0]
        if photo.path is None or stem in self._stems or os.path.isabs(stem) or ".." in stem.split("/"):
            return photo.name
        self._stems.add(stem)
        return stem

    def finish(self, records: Sequence[Any]) -> None:
        images = [image for _, image, _ in records]
        annotations = [annotation for _, _, of_photo in records for annotation in of_photo]
        numbered = [{"id": i, **annotation} for i, annotation in enumerate(annotations, 1)]
        segments = [
            {"image_id": image["id"], "file_name": png, "segments_info": list(map(_segment, of_photo))}
            for png, image, of_photo in records
        ]
        areas: Counter[int] = Counter()
        for annotation in annotations:
            areas[annotation["category_id"] - 1] += annotation["area"]
        things, _ = things_of(self._classes, areas)
        panoptic = [{**fields, "isthing": int(i in things)} for i, fields in enumerate(self._categories())]
        self._write("semantic", images, numbered, self._categories())
        self._write("panoptic", images, segments, panoptic)

    def remarks(self, counts: Counter[str]) -> list[str]:
        areas = Counter(
            {int(key.removeprefix(_AREA)): count for key, count in counts.items() if key.startswith(_AREA) and count}
        )
        said = things_of(self._classes, areas)[1]
        return [said] * bool(said)

    def _annotation(self, photo: Annotated, value: int) -> dict[str, Any]:
        mask = photo.label_map == value
        confidence = rounded(photo.class_confidence(mask))
        return {
            "image_id": photo.number + 1,
            "category_id": value + 1,
            "segmentation": {"size": list(mask.shape), "counts": encode_string(encode_mask(mask.T))},
            "area": int(mask.sum()),
            "bbox": box_xywh(mask),
            "iscrowd": 0,
            **({} if confidence is None else {"attributes": {"confidence": confidence}}),
        }

    def _categories(self) -> list[dict[str, Any]]:
        return [
            {"id": i, "name": info.name, "supercategory": info.name, "color": list(info.colour)}
            for i, info in enumerate(self._classes, 1)
        ]

    def _write(self, name: str, images: Any, annotations: Any, categories: Any) -> None:
        fields = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
        save(self._folder / f"{name}.json", json_bytes(fields))


_AREA = "pixels of class "


def things_of(classes: Sequence[ClassInfo], areas: Counter[int]) -> tuple[set[int], str]:
    """(the classes that panoptic.json calls things, what is to be said of that); areas: class -> pixels, where any.

    panopticapi's pq_compute takes means over things and over stuff, and divides by zero where no photo has one of the
    two. There, one class is taken for the other kind: the smallest for a thing, the largest for stuff, if possible one
    of which it is not known.
    """
    things = {i for i, info in enumerate(classes) if info.role == THING}
    there = sorted(areas, key=lambda i: (areas[i], i))
    kinds = {i in things for i in there}
    if not there or len(kinds) == 2:
        return things, ""
    all_things = kinds == {True}
    if len(there) == 1:
        return things, f"all there is is {THING if all_things else STUFF}: pq_compute wants the other kind too"
    unknown = [i for i in there if not classes[i].role] or there
    taken = unknown[-1] if all_things else unknown[0]
    called = "stuff" if all_things else "a thing"
    said = (
        f"panoptic.json calls {classes[taken].name!r} {called}, as pq_compute wants both kinds "
        "(eval.groups.things and .stuff say which are)"
    )
    return things ^ {taken}, said


def _segment(annotation: dict[str, Any]) -> dict[str, Any]:
    kept = ("category_id", "area", "bbox", "iscrowd", "attributes")
    return {"id": annotation["category_id"], **{key: annotation[key] for key in kept if key in annotation}}


def panoptic_png(label_map: NDArray[np.int32]) -> bytes:
    """RGB PNG of segment ids R + 256 G + 65536 B: class index + 1, 0 unlabelled."""
    ids = label_map + 1
    return png_bytes(np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8))


def box_xywh(mask: NDArray[np.bool_]) -> list[int]:
    """Left, top, width and height in px of the box around a mask that is not empty."""
    (y0, y1), (x0, x1) = (np.flatnonzero(mask.any(axis))[[0, -1]].tolist() for axis in (1, 0))
    return [x0, y0, x1 - x0 + 1, y1 - y0 + 1]


_POLYGONS, _HOLES, _PIXELS, _NAMES = "polygons", "polygons with holes", "unlabelled pixels", "names"


class LabelmeWriter:
    """labelme/NAME.json, which names the picture by its way from there; confidence is each shape's description."""

    def __init__(self, folder: Path, classes: Sequence[ClassInfo]) -> None:
        self.state = State()
        self._folder, self._classes = folder / "labelme", classes

    def add(self, photo: Annotated) -> None:
        """See labelgen.formats.writers.Writer; so the other methods."""
        path = self._folder / f"{photo.name}.json"
        _count(self.state, photo.outlines)
        height, width = photo.label_map.shape
        fields = {
            "version": "5.0.0",
            "flags": {},
            "shapes": [self._shape(region) for region in photo.outlines.regions],
            "imagePath": _way(path, photo.path) if photo.path else os.path.basename(photo.file),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        save(path, json_bytes(fields))

    def finish(self, records: Sequence[Any]) -> None:
        pass

    def remarks(self, counts: Counter[str]) -> list[str]:
        return _painted(counts) + _drawn(counts)

    def _shape(self, region: Region) -> dict[str, Any]:
        confidence = rounded(region.confidence)
        return {
            "label": _label(self._classes, region),
            "points": region.ring_xy.tolist(),
            "group_id": None,
            "description": "" if confidence is None else f"confidence {confidence}",
            "shape_type": "polygon",
            "flags": {},
        }


def _way(file: Path, picture: Path) -> str:
    """The way from a file to a picture as the system goes it: `..` leads out of where a link leads to."""
    return os.path.relpath(Path(os.path.realpath(picture.parent), picture.name), os.path.realpath(file.parent))


class CvatWriter:
    """cvat/annotations.xml; the order of polygons is their z_order, confidence an attribute."""

    def __init__(self, folder: Path, classes: Sequence[ClassInfo]) -> None:
        self.state = State()
        self._folder, self._classes = folder / "cvat", classes

    def add(self, photo: Annotated) -> None:
        """See labelgen.formats.writers.Writer; so the other methods."""
        _count(self.state, photo.outlines)
        height, width = photo.label_map.shape
        shapes = "".join(self._polygon(z, region) for z, region in enumerate(photo.outlines.regions))
        file = xml_text(photo.file)
        self.state.counts[_NAMES] += file != photo.file
        head = f'  <image id="{photo.number}" name={quoteattr(file)} width="{width}" height="{height}">\n'
        unlabelled = photo.outlines.unlabelled_px > 0
        self.state.records.append(
            (photo.number, [head + shapes + "  </image>\n", unlabelled, photo.confidence is not None])
        )

    def finish(self, records: Sequence[Any]) -> None:
        labels = [(info.name, info.colour) for info in self._classes]
        labels += [(UNLABELLED, (0, 0, 0))] * any(unlabelled for _, unlabelled, _ in records)
        attributed = any(confidence for _, _, confidence in records)
        meta = "".join(_cvat_label(name, colour, attributed) for name, colour in labels)
        text = (
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  <meta>\n    <task>\n'
            f"      <size>{len(records)}</size>\n      <mode>annotation</mode>\n      <overlap>0</overlap>\n"
            f"      <labels>\n{meta}      </labels>\n    </task>\n  </meta>\n"
            + "".join(image for image, _, _ in records)
            + "</annotations>\n"
        )
        save(self._folder / "annotations.xml", text.encode())

    def remarks(self, counts: Counter[str]) -> list[str]:
        names = counts[_NAMES] + sum(info.name != xml_text(info.name) for info in self._classes)
        return _painted(counts) + [f"{names} names have letters that XML lacks, written like \\x01"] * bool(names)

    def _polygon(self, z: int, region: Region) -> str:
        points = ";".join(f"{x},{y}" for x, y in region.ring_xy.tolist())
        label = quoteattr(xml_text(_label(self._classes, region)))
        confidence = rounded(region.confidence)
        inside = "" if confidence is None else f'<attribute name="confidence">{confidence}</attribute>'
        fields = f'label={label} source="auto" occluded="0" points="{points}" z_order="{z}"'
        return f"    <polygon {fields}>{inside}</polygon>\n"


def _cvat_label(name: str, colour: tuple[int, int, int], attributed: bool) -> str:
    attribute = (
        "<attribute><name>confidence</name><mutable>False</mutable><input_type>text</input_type>"
        "<default_value></default_value><values></values></attribute>"
    )
    return (
        f"        <label><name>{escape(xml_text(name))}</name><color>#{bytes(colour).hex()}</color><type>polygon</type>"
        f"<attributes>{attribute * attributed}</attributes></label>\n"
    )


class YoloWriter:
    """yolo/labels/NAME.txt and yolo/data.yaml, for the photos beside them in yolo/images."""

    def __init__(self, folder: Path, classes: Sequence[ClassInfo]) -> None:
        self.state = State()
        self._folder, self._classes = folder / "yolo", classes

    def add(self, photo: Annotated) -> None:
        """See labelgen.formats.writers.Writer; so the other methods."""
        _count(self.state, photo.outlines)
        size_xy = np.array(photo.label_map.shape[::-1])
        lines = [
            f"{region.value} " + " ".join(f"{value:.6f}" for value in (region.ring_xy / size_xy).ravel())
            for region in photo.outlines.regions
            if region.value >= 0
        ]
        save(self._folder / "labels" / f"{photo.name}.txt", "".join(line + "\n" for line in lines).encode())

    def finish(self, records: Sequence[Any]) -> None:
        names = "".join(f"  {i}: {yaml_text(info.name)}\n" for i, info in enumerate(self._classes))
        text = (
            "# labels/NAME.txt belongs to images/NAME.*: put the photos into images/, or link their folder there.\n"
            f"train: images\nval: images\nnames:\n{names}"
        )
        save(self._folder / "data.yaml", text.encode())

    def remarks(self, counts: Counter[str]) -> list[str]:
        lost = f"{counts[_PIXELS]} unlabelled pixels in holes count as the class around them"
        return _painted(counts) + [lost] * bool(counts[_PIXELS]) + _drawn(counts)


def _count(state: State, outlines: Outlines) -> None:
    state.counts[_POLYGONS] += len(outlines.regions)
    state.counts[_HOLES] += outlines.with_holes
    state.counts[_PIXELS] += outlines.unlabelled_px


def _painted(counts: Counter[str]) -> list[str]:
    """What is to be said where a polygon has a hole."""
    return [f"{counts[_HOLES]} polygons have holes, which polygons after them are to paint over"] * bool(counts[_HOLES])


def _drawn(counts: Counter[str]) -> list[str]:
    """What is to be said of a tool that draws polygons with their outlines."""
    said = "the tool itself draws outlines as inside, up to a pixel more to the right and below"
    return [said] * bool(counts[_POLYGONS])


def _label(classes: Sequence[ClassInfo], region: Region) -> str:
    return UNLABELLED if region.value < 0 else classes[region.value].name


def classes_json(classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """What classes.json says."""
    return {
        info.name: {"index": i, "colour": "#" + bytes(info.colour).hex(), "words": list(info.words)}
        for i, info in enumerate(classes)
    }


def save(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)


def rounded(confidence: float | None) -> float | None:
    """Three digits: what it was measured in has 255 steps."""
    return None if confidence is None else round(confidence, 3)
