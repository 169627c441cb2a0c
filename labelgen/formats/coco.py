"""COCO's two kinds of json: semantic.json with a run-length mask a class and photo, panoptic.json with its PNGs.

semantic.json is of the form of instances_*.json and stuff_*.json (Lin et al. 2014, Caesar et al. 2018), which
pycocotools reads; panoptic.json is Kirillov et al.'s (2019). A class of a photo is one annotation: nothing here tells
one thing from another. Both say every pixel, holes and unlabelled ones too.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.data.records import png_bytes
from labelgen.data.rle import encode_mask
from labelgen.formats.base import Annotated, ClassInfo, State, rounded, save
from labelgen.sources.coco_masks import encode_string


class CocoWriter:
    """coco/semantic.json, coco/panoptic.json and coco/panoptic/NAME.png; category ids are class indices from 1 on."""

    def __init__(self, folder: Path, classes: Sequence[ClassInfo]) -> None:
        self.state = State()
        self._folder, self._classes = folder / "coco", classes

    def add(self, photo: Annotated) -> None:
        """See labelgen.formats.base.Writer; so the other methods."""
        height, width = photo.label_map.shape
        image = {"id": photo.number + 1, "file_name": photo.file, "height": height, "width": width}
        annotations = [self._annotation(photo, value) for value in photo.classes]
        self.state.records.append((photo.number, [f"{photo.name}.png", image, annotations]))
        save(self._folder / "panoptic" / f"{photo.name}.png", panoptic_png(photo.label_map))

    def finish(self, records: Sequence[Any]) -> None:
        images = [image for _, image, _ in records]
        annotations = [annotation for _, _, of_photo in records for annotation in of_photo]
        numbered = [{"id": i, **annotation} for i, annotation in enumerate(annotations, 1)]
        segments = [
            {"image_id": image["id"], "file_name": png, "segments_info": list(map(_segment, of_photo))}
            for png, image, of_photo in records
        ]
        self._write("semantic", images, numbered, self._categories())
        self._write("panoptic", images, segments, self._categories(isthing=0))

    def remarks(self, counts: Counter[str]) -> list[str]:
        return []

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

    def _categories(self, **more: int) -> list[dict[str, Any]]:
        return [
            {"id": i, "name": info.name, "supercategory": info.name, "color": list(info.colour), **more}
            for i, info in enumerate(self._classes, 1)
        ]

    def _write(self, name: str, images: Any, annotations: Any, categories: Any) -> None:
        fields = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
        save(self._folder / f"{name}.json", json.dumps(fields, ensure_ascii=False).encode())


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
