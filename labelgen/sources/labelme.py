"""LabelMe's files, one a photo, as label maps: its shapes painted in their order.

Polygons and rectangles run along the edges of pixels, (0, 0) the upper left corner of the first one, as everywhere in
this project (LabelMe's own masks count the outline as inside). The shape `mask` is a picture, its corners inclusive.
"""

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelgen.core.errors import UserError
from labelgen.core.files import read_json
from labelgen.core.geometry import HW
from labelgen.core.ontology import Ontology
from labelgen.sources.coco_masks import polygon_mask
from labelgen.sources.drawn import FLAT, WITHOUT, Classes, DrawnMap, label_files

_FIX = "draw polygons with LabelMe, and save it again"
_POLYGONS = ("polygon", "oriented_rectangle")
_FLAT = ("point", "points", "line", "linestrip")


class LabelmeFolder:
    """LabelMe's files at any depth; what no shape covers, or __ignore__, is unlabelled."""

    def __init__(self, folder: Path, words: Ontology) -> None:
        """folder: or one file."""
        self._folder = folder.parent if folder.is_file() else folder
        self._classes = Classes(words)
        files = [folder] if folder.is_file() else label_files(folder, "json")
        shapes = {path: _without_area(read_json(path, _FIX).get("shapes")) for path in files}
        drawn = [path for path, (flat, others) in shapes.items() if others]
        self._names = sorted(path.relative_to(self._folder).as_posix() for path in drawn)
        self.remarks = Counter({WITHOUT: len(files) - len(drawn), FLAT: sum(flat for flat, _ in shapes.values())})

    def names(self) -> Sequence[str]:
        """See labelgen.sources.drawn.Corrections; so the other methods."""
        return self._names

    def where(self, name: str) -> str:
        return str(self._folder / name)

    def load(self, name: str, size_hw: HW | None = None) -> DrawnMap:
        where = self.where(name)
        read = read_json(self._folder / name, _FIX)
        try:
            height, width = _size(read, size_hw)
            shapes = [(shape["label"], shape.get("shape_type") or "polygon", shape) for shape in read["shapes"]]
            drawn = [
                (label, kind, np.ravel(np.asarray(shape["points"], np.float64)), shape)
                for label, kind, shape in shapes
                if kind not in _FLAT
            ]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: not a file of LabelMe's ({error!r}); {_FIX}") from None
        label_map = np.full((height, width), -1, np.int32)
        for label, kind, points, shape in drawn:
            value = self._classes.index(where, label)
            mask = shape_mask(kind, points, shape.get("mask"), (height, width)) if np.isfinite(points).all() else None
            if mask is None:
                raise UserError(f"{where}: a {kind} of {label!r} with {len(points) // 2} points; {_FIX}")
            label_map[mask] = value
        return label_map


def _without_area(shapes: Any) -> tuple[int, int]:
    """How many of a file's shapes have no area, and how many others there are."""
    if not isinstance(shapes, list):
        return 0, 1  # `load` says what is wrong
    flat = sum(isinstance(shape, dict) and shape.get("shape_type") in _FLAT for shape in shapes)
    return flat, len(shapes) - flat


def _size(read: Mapping[str, Any], size_hw: HW | None) -> HW:
    """The photo's where the file does not say its own."""
    if size_hw is not None and (read.get("imageHeight") is None or read.get("imageWidth") is None):
        return size_hw
    height, width = float(read["imageHeight"]), float(read["imageWidth"])
    if height != int(height) or width != int(width) or min(height, width) < 1:
        raise ValueError(f"imageHeight {height}, imageWidth {width}")
    return int(height), int(width)


def shape_mask(kind: str, points: NDArray[np.float64], picture: Any, size_hw: HW) -> NDArray[np.bool_] | None:
    """bool [H, W] of a shape with points [x0, y0, x1, y1, …]; None for one that has no area, or not all it needs.

    picture: the `mask` of a shape of this kind, a PNG in base64.
    """
    corners = len(points) // 2
    if kind == "mask" and corners == 2 and isinstance(picture, str):
        return _pasted(points, picture, size_hw)
    if kind == "rectangle" and corners == 2:
        x0, y0, x1, y1 = points.tolist()
        return polygon_mask([x0, y0, x1, y0, x1, y1, x0, y1], size_hw)
    if kind == "circle" and corners == 2:
        x0, y0, x1, y1 = points.tolist()
        return ellipse_mask((x0, y0), (float(np.hypot(x1 - x0, y1 - y0)),) * 2, size_hw)
    if (kind in _POLYGONS and corners > 2) or (kind == "rectangle" and corners == 4):
        return polygon_mask(points, size_hw)
    return None


def ellipse_mask(centre_xy: tuple[float, float], radii_xy: tuple[float, float], size_hw: HW) -> NDArray[np.bool_]:
    """bool [H, W] of the pixels whose middle is inside."""
    y, x = np.ogrid[: size_hw[0], : size_hw[1]]
    away = [
        (at + 0.5 - middle) / max(radius, 1e-9) for at, middle, radius in zip((x, y), centre_xy, radii_xy, strict=True)
    ]
    inside: NDArray[np.bool_] = away[0] ** 2 + away[1] ** 2 <= 1
    return inside


def _pasted(points: NDArray[np.float64], picture: str, size_hw: HW) -> NDArray[np.bool_] | None:
    """A picture between its corners, both of which are pixels of it; what lies outside the photo is cut off."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
            inside = np.asarray(image.convert("L")) > 0
    except Exception:  # Pillow's decoders raise of many kinds on broken files
        return None
    x0, y0, x1, y1 = points.astype(np.int64).tolist()
    if inside.shape != (y1 - y0 + 1, x1 - x0 + 1):
        return None
    mask = np.zeros(size_hw, np.bool_)
    top, left, bottom, right = max(y0, 0), max(x0, 0), max(y1 + 1, 0), max(x1 + 1, 0)
    part = mask[top:bottom, left:right]
    part |= inside[top - y0 :, left - x0 :][: part.shape[0], : part.shape[1]]
    return mask
