"""Label Studio's export *JSON* as label maps: brushes, polygons, rectangles and ellipses, painted in their order.

Points are in % of the picture; they run along the edges of pixels. A brush is run lengths of an RGBA picture, packed
bit by bit; a pixel whose alpha is not 0 is its label's, as in Label Studio's own export of brushes.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.core.files import read_any_json
from labelgen.core.geometry import HW
from labelgen.core.ontology import Ontology
from labelgen.sources.coco_masks import polygon_mask
from labelgen.sources.drawn import FLAT, WITHOUT, Classes, DrawnMap, label_files
from labelgen.sources.finding import SUFFIXES

OLDER = "annotations beside the newest of their photo left out"
_FIX = "export it from Label Studio as *JSON* (not MIN)"
_AREAS = ("brush", "polygon", "rectangle", "ellipse")
_FLAT = ("keypoint", "vector")


class _Task(NamedTuple):
    where: str
    size_hw: HW
    shapes: Sequence[tuple[str, str, Mapping[str, Any]]]
    """Kind of _AREAS, label and value, in the order in which they are painted."""


class LabelStudioJson:
    """All tasks of a file, or of the files of a folder; what no region covers, or __ignore__, is unlabelled.

    Of several annotations of a task the newest that was not skipped counts.
    """

    def __init__(self, path: Path, words: Ontology) -> None:
        """UserError for another kind of file."""
        self._classes, self.remarks = Classes(words), Counter({WITHOUT: 0, OLDER: 0, FLAT: 0})
        self._tasks: dict[str, _Task] = {}
        for file in [path] if path.is_file() else label_files(path, "json"):
            try:
                self._read(file)
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(f"{file}: not tasks of Label Studio's with annotations ({error!r}); {_FIX}") from None

    def _read(self, file: Path) -> None:
        read = read_any_json(file, _FIX)
        for task in read if isinstance(read, list) else [read]:
            where = f"{file}: task {task.get('id')}"
            drawn = [each for each in task["annotations"] if not each.get("was_cancelled")]
            drawn.sort(key=lambda each: str(each.get("updated_at") or each.get("created_at") or ""))
            self.remarks[OLDER] += max(0, len(drawn) - 1)
            regions = list(self._regions(where, drawn[-1]["result"])) if drawn else []
            if not regions:
                self.remarks[WITHOUT] += 1
                continue
            name = _picture(where, task["data"])
            if name in self._tasks:
                raise UserError(f"{where}: is of {name}, as is {self._tasks[name].where}; take one of them out")
            sizes = {size_hw for size_hw, _ in regions}
            if len(sizes) > 1:
                raise UserError(f"{where}: regions of pictures of {len(sizes)} sizes; {_FIX}")
            self._tasks[name] = _Task(where, sizes.pop(), [shape for _, shape in regions])

    def _regions(
        self, where: str, result: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[HW, tuple[str, str, Mapping[str, Any]]]]:
        """(size of the picture, shape) of each region with an area; others are counted, choices and texts are none."""
        for region in result:
            kind = str(region.get("type", "")).removesuffix("labels")
            value = region.get("value", {})
            kind = kind or next((each for each in _AREAS if f"{each}labels" in value), "")
            if "rle" in value:  # of <Labels> beside <Brush> the type is "labels"
                kind = "brush"
            if kind in _FLAT:
                self.remarks[FLAT] += 1
            if kind not in _AREAS:
                continue
            labels = value.get(f"{kind}labels") or value.get("labels") or []
            if len(labels) != 1:
                raise UserError(f"{where}: a {kind} with {len(labels)} labels; give each region one")
            if region.get("image_rotation"):
                raise UserError(f"{where}: the picture was turned there; turn it back, and save it again")
            size_hw = int(region["original_height"]), int(region["original_width"])
            yield size_hw, (kind, str(labels[0]), value)

    def names(self) -> Sequence[str]:
        """See labelgen.sources.drawn.Corrections; so the other methods."""
        return sorted(self._tasks)

    def where(self, name: str) -> str:
        return f"{self._tasks[name].where} ({name})"

    def load(self, name: str, size_hw: HW | None = None) -> DrawnMap:
        task, where = self._tasks[name], self.where(name)
        label_map = np.full(task.size_hw, -1, np.int32)
        for kind, label, value in task.shapes:
            index = self._classes.index(where, label)
            try:
                label_map[shape_mask(kind, value, task.size_hw)] = index
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{where}: a {kind} of {label!r} that cannot be drawn ({error}); {_FIX}") from None
        return label_map


def picture_name(url: str) -> str:
    """The file of a task's picture, with its folders: of a url, of local files (?d=…), of a plain path."""
    parts = urlparse(url)
    if asked := parse_qs(parts.query).get("d"):
        return asked[-1]
    if parts.scheme or parts.path.startswith("/data/"):
        return unquote(parts.path).lstrip("/")
    return url


def _picture(where: str, data: Mapping[str, Any]) -> str:
    """Of the fields of a task the one that is a picture. UserError where that is none, or several."""
    texts = {key: picture_name(value) for key, value in data.items() if isinstance(value, str)}
    found = [key for key, name in texts.items() if name.rpartition(".")[2].lower() in SUFFIXES]
    found = ["image"] if "image" in texts else found
    if len(found) != 1:
        raise UserError(f"{where}: {len(found)} of its fields ({', '.join(data)}) name a picture; call the one `image`")
    return texts[found[0]]


def shape_mask(kind: str, value: Mapping[str, Any], size_hw: HW) -> NDArray[np.bool_]:
    """bool [H, W] of a region's value. KeyError, TypeError, ValueError for what is none."""
    if kind == "brush":
        return brush_mask(value["rle"], size_hw)
    sides = np.array([size_hw[1], size_hw[0]], np.float64) / 100
    if kind == "polygon":
        ring = np.asarray(value["points"], np.float64)
        if ring.ndim != 2 or ring.shape[1] != 2 or len(ring) < 3:
            raise ValueError("not three or more points x, y")
        return polygon_mask((ring * sides).ravel(), size_hw)
    turn = np.deg2rad(float(value.get("rotation") or 0))
    across, down = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    start = np.array([float(value["x"]), float(value["y"])]) * sides
    if kind == "rectangle":  # turned about its first corner
        across, down = across * float(value["width"]) * sides[0], down * float(value["height"]) * sides[1]
        corners = start + np.stack([0 * across, across, across + down, down])
        return polygon_mask(corners.ravel(), size_hw)
    across, down = across * float(value["radiusX"]) * sides[0], down * float(value["radiusY"]) * sides[1]
    angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)[:, None]
    return polygon_mask((start + np.cos(angles) * across + np.sin(angles) * down).ravel(), size_hw)


def brush_mask(packed: Sequence[int], size_hw: HW) -> NDArray[np.bool_]:
    """bool [H, W] of a brush's `rle`. ValueError for run lengths of another size, and for a list that is cut short.

    After 32 bits with the number of values, 5 with their width and four of 4 bits with the widths of lengths (each
    less one), runs follow: one bit, two that choose the width of the length, the length less one, and then one value
    for all of the run where the bit was 1, a value each where it was 0.
    """
    bits = _Bits(bytes(packed))
    count, width, lengths = bits.read(32), bits.read(5) + 1, [bits.read(4) + 1 for _ in range(4)]
    if count != 4 * size_hw[0] * size_hw[1]:
        raise ValueError(f"{count} values for {size_hw[1]} x {size_hw[0]} px of four")
    if width > 8:
        raise ValueError(f"values of {width} bits")
    values, done = np.zeros(count, np.uint8), 0
    while done < count:
        same = bits.read(1)
        end = done + bits.read(lengths[bits.read(2)]) + 1
        if end > count:
            raise ValueError("more values than pixels")
        values[done:end] = bits.read(width) if same else [bits.read(width) for _ in range(end - done)]
        done = end
    inside: NDArray[np.bool_] = values[3::4].reshape(size_hw) > 0
    return inside


class _Bits:
    """Numbers read from bytes, bit by bit, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, width: int) -> int:
        """The next `width` bits. ValueError past the end."""
        end = self._at + width
        if end > 8 * len(self._data):
            raise ValueError("its run lengths are cut short")
        part = int.from_bytes(self._data[self._at // 8 : (end + 7) // 8])
        self._at = end
        return part >> (-end % 8) & ((1 << width) - 1)
