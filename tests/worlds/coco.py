"""Small data sets in COCO's layout, and where the real samples are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.worlds.paths import ASSETS

PHOTOS = ASSETS / "photos"
SIZE_HW = (4, 6)
Contents = dict[str, Any]

needs_assets = pytest.mark.skipif(not (PHOTOS / "coco").is_dir(), reason="no sample photos; FMBSEG_ASSETS names them")


def box(x: int, y: int, width: int, height: int) -> list[list[float]]:
    """A polygon of whole pixels."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def annotation(number: int, image: int, category: int, segmentation: Any, iscrowd: int = 0) -> Contents:
    pairs = {"id": number, "image_id": image, "category_id": category, "iscrowd": iscrowd, "area": 1.0}
    return pairs | {"segmentation": segmentation, "bbox": [0, 0, 1, 1]}


def image_record(number: int, **other: Any) -> Contents:
    sides = {"height": SIZE_HW[0], "width": SIZE_HW[1], "license": 1, "coco_url": "http://"}
    return {"id": number, "file_name": f"{number:012d}.jpg"} | sides | other


def categories(*pairs: tuple[int, str]) -> list[Contents]:
    return [{"id": number, "name": name, "supercategory": "all"} for number, name in pairs]


def write_photos(folder: Path, *numbers: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = np.full((*SIZE_HW, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:012d}.jpg")


def write_json(path: Path, contents: Contents) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents))
    return path


def change(path: Path, how: Callable[[Contents], Any]) -> None:
    contents = json.loads(path.read_text())
    how(contents)
    path.write_text(json.dumps(contents))
