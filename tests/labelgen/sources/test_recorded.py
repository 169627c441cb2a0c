"""What tools wrote of one export of two pocket photos, recorded: each comes back as it was labelled.

By tools/foreign_tools.py and the versions that docs/formats.md names; of Pascal VOC the folders that are read.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from labelgen.core.ontology import parse_words
from labelgen.labels.matching import match
from labelgen.sources.corrections import open_corrections

RECORDED = Path(__file__).with_name("recorded")
PHOTOS = [("train", "00000"), ("train", "00001")]
CENTRES = 0.04
"""Of the pixels, what polygons through pixels' centres lose."""


def label_maps(place: Path) -> list[np.ndarray]:
    words = parse_words(list(json.loads((RECORDED / "masks/classes.json").read_text())), "classes.json")
    corrections = open_corrections(place, words)
    names = match(corrections, PHOTOS)
    return [corrections.load(names[photo]) for photo in PHOTOS]


@pytest.mark.parametrize(
    ("written", "lost"),
    [
        ("pycocotools", 0),
        ("supervision-coco", CENTRES),
        ("datumaro-coco", CENTRES),
        ("datumaro-panoptic/annotations/panoptic_train.json", 0),
        ("datumaro-cvat", 0),
        ("datumaro-voc", 0),
        ("labelme", 0),
        ("label-studio-polygons", 0),
    ],
)
def test_what_a_tool_wrote_comes_back(written: str, lost: float) -> None:
    labelled, found = label_maps(RECORDED / "masks"), label_maps(RECORDED / written)
    assert [each.shape for each in found] == [each.shape for each in labelled]
    assert all(-1 in each for each in labelled) and len({*labelled[0].flat, *labelled[1].flat}) == 4
    wrong = sum(int((a != b).sum()) for a, b in zip(labelled, found, strict=True))
    assert wrong <= lost * sum(each.size for each in labelled)
