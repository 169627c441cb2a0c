"""Formats of polygons: LabelMe, CVAT for images 1.1, Ultralytics YOLO.

Polygons are to be painted in their order: one in the hole of another comes after it. LabelMe and CVAT have a label
for unlabelled pixels there; YOLO has not, so these count as the class around them.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from labelgen.core.ontology import UNLABELLED
from labelgen.formats.base import Annotated, ClassInfo, State, rounded, save
from labelgen.formats.regions import Outlines, Region

_HOLES, _PIXELS = "polygons with holes", "unlabelled pixels"


def _count(state: State, outlines: Outlines) -> None:
    state.counts[_HOLES] += outlines.with_holes
    state.counts[_PIXELS] += outlines.unlabelled_px


def _painted(counts: Counter[str]) -> list[str]:
    """What is to be said where a polygon has a hole."""
    return [f"{counts[_HOLES]} polygons have holes, which polygons after them are to paint over"] * bool(counts[_HOLES])


def _label(classes: Sequence[ClassInfo], region: Region) -> str:
    return UNLABELLED if region.value < 0 else classes[region.value].name


class LabelmeWriter:
    """labelme/NAME.json, which names the picture by its way from there; confidence is each shape's description."""

    def __init__(self, folder: Path, classes: Sequence[ClassInfo]) -> None:
        self.state = State()
        self._folder, self._classes = folder / "labelme", classes

    def add(self, photo: Annotated) -> None:
        """See labelgen.formats.base.Writer; so the other methods."""
        path = self._folder / f"{photo.name}.json"
        _count(self.state, photo.outlines)
        height, width = photo.label_map.shape
        fields = {
            "version": "5.0.0",
            "flags": {},
            "shapes": [self._shape(region) for region in photo.outlines.regions],
            "imagePath": os.path.relpath(photo.path, path.parent) if photo.path else os.path.basename(photo.file),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        save(path, json.dumps(fields, ensure_ascii=False).encode())

    def finish(self, records: Sequence[Any]) -> None:
        pass

    def remarks(self, counts: Counter[str]) -> list[str]:
        return _painted(counts)

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


class CvatWriter:
    """cvat/annotations.xml; the order of polygons is their z_order, confidence an attribute."""

    def __init__(self, folder: Path, classes: Sequence[ClassInfo]) -> None:
        self.state = State()
        self._folder, self._classes = folder / "cvat", classes

    def add(self, photo: Annotated) -> None:
        """See labelgen.formats.base.Writer; so the other methods."""
        _count(self.state, photo.outlines)
        height, width = photo.label_map.shape
        shapes = "".join(self._polygon(z, region) for z, region in enumerate(photo.outlines.regions))
        head = f'  <image id="{photo.number}" name={quoteattr(photo.file)} width="{width}" height="{height}">\n'
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
        return _painted(counts)

    def _polygon(self, z: int, region: Region) -> str:
        points = ";".join(f"{x},{y}" for x, y in region.ring_xy.tolist())
        label = quoteattr(_label(self._classes, region))
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
        f"        <label><name>{escape(name)}</name><color>#{bytes(colour).hex()}</color><type>polygon</type>"
        f"<attributes>{attribute * attributed}</attributes></label>\n"
    )


class YoloWriter:
    """yolo/labels/NAME.txt and yolo/data.yaml, for the photos beside them in yolo/images."""

    def __init__(self, folder: Path, classes: Sequence[ClassInfo]) -> None:
        self.state = State()
        self._folder, self._classes = folder / "yolo", classes

    def add(self, photo: Annotated) -> None:
        """See labelgen.formats.base.Writer; so the other methods."""
        _count(self.state, photo.outlines)
        size_xy = np.array(photo.label_map.shape[::-1])
        lines = [
            f"{region.value} " + " ".join(f"{value:.6f}" for value in (region.ring_xy / size_xy).ravel())
            for region in photo.outlines.regions
            if region.value >= 0
        ]
        save(self._folder / "labels" / f"{photo.name}.txt", "".join(line + "\n" for line in lines).encode())

    def finish(self, records: Sequence[Any]) -> None:
        names = "".join(f"  {i}: {json.dumps(info.name, ensure_ascii=False)}\n" for i, info in enumerate(self._classes))
        text = (
            "# labels/NAME.txt belongs to images/NAME.*: put the photos into images/, or link their folder there.\n"
            f"train: images\nval: images\nnames:\n{names}"
        )
        save(self._folder / "data.yaml", text.encode())

    def remarks(self, counts: Counter[str]) -> list[str]:
        lost = f"{counts[_PIXELS]} unlabelled pixels in holes count as the class around them"
        return _painted(counts) + [lost] * bool(counts[_PIXELS])
