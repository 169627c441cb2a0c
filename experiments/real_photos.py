"""Small samples of real data sets as photos, truth and CLIP's embeddings of their class names.

ASSETS/photos has a folder a data set, in its own layout, ASSETS/text CLIP's embeddings of the names, class_names.json
saying what the rows are. Truth comes through the same readers as for labelgen.run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.core.files import read_json
from labelgen.core.ontology import ignore_value
from labelgen.labels.scores import IGNORE, REST, lookup
from labelgen.sources.registry import open_source

Splits = tuple[tuple[str, str], ...]
"""(photos, masks) as in config.photos.splits."""


@dataclass(frozen=True)
class Sample:
    """One data set of ASSETS/photos."""

    root: str
    source: str
    splits: Splits
    text: str
    """File of ASSETS/text."""
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Class -> names of its rows in the file; empty: each row is a class."""
    truth: Mapping[str, str] = field(default_factory=dict)
    """As eval.truth."""


_CAMVID = {
    "sky": ["sky"], "building": ["building"], "pole": ["pole"], "road": ["road"], "pavement": ["sidewalk"],
    "tree": ["vegetation"], "sign symbol": ["traffic sign"], "fence": ["fence"], "car": ["car"],
    "pedestrian": ["person"], "bicyclist": ["rider"],
}  # fmt: skip
_WATER = {
    "water": ["water-other", "river", "sea"],
    "rest": ["tree", "grass", "road", "house", "building-other", "sky-other", "car", "person", "roof", "dirt", "boat"],
}
SAMPLES = {
    "voc20": Sample("voc", "voc", (("train", "SegmentationClassAug"), ("val", "SegmentationClassAug")), "voc12_20.npy",
                    truth={"background": IGNORE}),
    "voc21": Sample("voc", "voc", (("train", "SegmentationClassAug"), ("val", "SegmentationClassAug")),
                    "voc12_background_21.npy"),
    "coco_stuff": Sample("coco", "coco", (("train2017", "instances+stuff"), ("val2017", "instances+stuff")),
                         "coco_stuff_171.npy"),
    "coco_panoptic": Sample("coco_panoptic", "coco_panoptic", (("val2017", "panoptic_derived"),), "coco_stuff_171.npy"),
    "ade20k": Sample("ade20k", "ade20k", (("validation", "annotations"),), "ade20k_150.npy"),
    "camvid": Sample("camvid", "camvid", (("train", "trainannot"), ("val", "valannot"), ("test", "testannot")),
                     "cityscapes_19.npy", _CAMVID),
    "water": Sample("water", "black_and_white", (("Image", "Mask"),), "coco_stuff_171.npy", _WATER,
                    {"foreground": "water", REST: "rest"}),
}  # fmt: skip


class Shot(NamedTuple):
    """A photo uint8 [H, W, 3] and its truth int64 [H, W], -1 where there is none."""

    photo_id: str
    image: NDArray[np.uint8]
    truth: NDArray[np.int64]


class Questions(NamedTuple):
    """Classes, and unit rows float32 [K, E] of their words."""

    names: tuple[str, ...]
    word_class: tuple[int, ...]
    prototypes: NDArray[np.float32]


def read_sample(assets: Path, name: str) -> tuple[list[Shot], Questions]:
    """All photos of a sample that have truth, and what they are asked. UserError for what is not there."""
    sample = SAMPLES[name]
    asked = questions(assets / "text", sample)
    named = {f"split{i}": {"photos": photos, "masks": masks} for i, (photos, masks) in enumerate(sample.splits)}
    root = str(assets / "photos" / sample.root)
    config = {"root": root, "source": sample.source, "splits": named, "max_pixels": 50_000_000, "ignore_index": 255}
    shots: list[Shot] = []
    for split in named:
        source = open_source(ConfigDict(config), split)
        place = lookup(source.classes or (), asked.names, dict(sample.truth))
        for photo in map(source.load, source.list()):
            label_map = np.asarray(photo.label_map)
            known = label_map != ignore_value(label_map)
            shots.append(Shot(photo.photo_id, photo.image, place[np.where(known, label_map.astype(np.int64), -1)]))
    return shots, asked


def questions(folder: Path, sample: Sample) -> Questions:
    """The classes of a sample with the embeddings of their names. UserError where ASSETS/text has them not."""
    path = folder / sample.text
    fix = "take the folder of sample photos and text embeddings whole"
    if not path.is_file():
        raise UserError(f"{path}: no such file; {fix}")
    rows = list(read_json(folder / "class_names.json", fix)[sample.text]["class_names"])
    words = sample.names or {name: [name] for name in rows}
    at = [rows.index(word) for its in words.values() for word in its]
    word_class = tuple(i for i, its in enumerate(words.values()) for _ in its)
    prototypes = np.load(path)[at].astype(np.float32)
    return Questions(tuple(words), word_class, prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True))
