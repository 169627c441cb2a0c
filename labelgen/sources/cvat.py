"""CVAT's annotations.xml (*CVAT for images 1.1*) as label maps: shapes painted by z_order, then in the file's order.

Polygons, boxes and ellipses run along the edges of pixels; a mask is run lengths within its box, row by row, zeros
first.
"""

import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.core.geometry import HW
from labelgen.core.ontology import Ontology
from labelgen.sources.coco_masks import polygon_mask
from labelgen.sources.drawn import FLAT, WITHOUT, Classes, DrawnMap
from labelgen.sources.labelme import ellipse_mask

_FIX = "export it from CVAT again, as *CVAT for images 1.1*"
_AREAS = ("polygon", "box", "ellipse", "mask")
_OTHERS = ("polyline", "points", "cuboid", "skeleton", "tag")


class _Image(NamedTuple):
    size_hw: HW
    shapes: Sequence[tuple[str, Mapping[str, str]]]
    """Kind and attributes, in the order in which they are painted."""


class CvatXml:
    """All photos of a task or project; what no shape covers, or __ignore__, is unlabelled."""

    def __init__(self, path: Path, words: Ontology) -> None:
        """UserError for another kind of file."""
        self._path, self._classes, self.remarks = path, Classes(words), Counter[str]()
        try:
            images = self._read()
        except ElementTree.ParseError as error:
            raise UserError(f"{path}: not xml, or cut short ({error}); {_FIX}") from None
        except UserError:
            raise
        except (KeyError, ValueError) as error:
            raise UserError(f"{path}: an image without name or size ({error!r}); {_FIX}") from None
        self._images = {name: image for name, image in images.items() if image.shapes}
        self.remarks[WITHOUT] = len(images) - len(self._images)

    def _read(self) -> dict[str, _Image]:
        images: dict[str, _Image] = {}
        for _, element in ElementTree.iterparse(self._path):
            if element.tag == "track":
                raise UserError(f"{self._path}: tracks of a video; {_FIX}")
            if element.tag != "image":
                continue
            name, subset = element.attrib["name"], element.attrib.get("subset", "")
            name = f"{subset}/{name}" if subset else name
            if name in images:
                raise UserError(f"{self._path}: image {name!r} is there twice; export one task at a time")
            self.remarks.update(FLAT for child in element if child.tag in _OTHERS)
            shapes = [(child.tag, dict(child.attrib)) for child in element if child.tag in _AREAS]
            shapes.sort(key=lambda shape: int(shape[1].get("z_order", 0)))
            images[name] = _Image((int(element.attrib["height"]), int(element.attrib["width"])), shapes)
            element.clear()
        if not images:
            raise UserError(f"{self._path}: no image of CVAT's in it; {_FIX}")
        return images

    def names(self) -> Sequence[str]:
        """See labelgen.sources.drawn.Corrections; so the other methods."""
        return sorted(self._images)

    def where(self, name: str) -> str:
        return f"{self._path}: image {name!r}"

    def load(self, name: str, size_hw: HW | None = None) -> DrawnMap:
        image, where = self._images[name], self.where(name)
        label_map = np.full(image.size_hw, -1, np.int32)
        for kind, fields in image.shapes:
            value = self._classes.index(where, fields.get("label", ""))
            try:
                label_map[_mask(kind, fields, image.size_hw)] = value
            except (KeyError, ValueError, IndexError) as error:
                raise UserError(f"{where}: a {kind} of {fields.get('label')!r} ({error}); {_FIX}") from None
        return label_map


def _mask(kind: str, fields: Mapping[str, str], size_hw: HW) -> NDArray[np.bool_]:
    """bool [H, W] of a shape. KeyError and ValueError for one that is not whole."""
    if kind == "mask":
        return _unpacked(fields, size_hw)
    turn = np.deg2rad(float(fields.get("rotation", 0)))
    if kind == "box":
        left, top, right, bottom = (float(fields[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
        ring = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        return polygon_mask(_turned(ring, ring.mean(0), turn).ravel(), size_hw)
    if kind == "ellipse":
        x, y, across, down = (float(fields[name]) for name in ("cx", "cy", "rx", "ry"))
        if not turn:
            return ellipse_mask((x, y), (across, down), size_hw)
        angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
        ring = np.stack([x + across * np.cos(angles), y + down * np.sin(angles)], -1)
        return polygon_mask(_turned(ring, np.array([x, y]), turn).ravel(), size_hw)
    points = np.array([[float(part) for part in point.split(",")] for point in fields["points"].split(";")])
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3:
        raise ValueError("not three or more points x,y")
    return polygon_mask(points.ravel(), size_hw)


def _turned(ring_xy: NDArray[np.float64], centre_xy: NDArray[np.float64], turn: float) -> NDArray[np.float64]:
    """Points [n, 2] turned clockwise, as CVAT counts, y going down."""
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    turned: NDArray[np.float64] = (ring_xy - centre_xy) @ matrix + centre_xy
    return turned


def _unpacked(fields: Mapping[str, str], size_hw: HW) -> NDArray[np.bool_]:
    left, top, width, height = (int(float(fields[name])) for name in ("left", "top", "width", "height"))
    runs = np.array([int(run) for run in fields["rle"].split(",")])
    if (runs < 0).any() or min(left, top, width, height) < 0 or runs.sum() != width * height:
        raise ValueError("its run lengths do not fill its box")
    inside = np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(height, width)
    mask = np.zeros(size_hw, np.bool_)
    part = mask[top : top + height, left : left + width]
    if part.shape != inside.shape:
        raise ValueError("its box is not inside the photo")
    part |= inside
    return mask
