"""A DATA of five small photos whose features say their truth."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from configs.default import get_config
from labelgen.core.ontology import Ontology
from labelgen.data import rle
from labelgen.data.records import EvidenceRow, FeatureRow, TruthRow
from labelgen.data.rle import MaskSet
from tests.worlds import data
from tests.worlds.labelling import ONTOLOGY, PROTOTYPES
from tests.worlds.run import ENCODERS

PATCH, GRID = 8, (4, 4)
STRIPES = [(0, 0, 1, 2), (2, 1, 1, 0), (0, 1, 0, 1), (1, 1, 2, 0), (0, 2, 2, 2)]
SYNONYMS = Ontology(ONTOLOGY.names, ("turf", "globe", "crate"), (0, 1, 2), ("", "", ""))
SYNONYM_PROTOTYPES = np.eye(3, 5, 1, dtype=np.float32)


def grid_of(photo: int) -> tuple[int, int]:
    """Valid patches: the third photo is a portrait, the others are landscapes."""
    return (4, 3) if photo == 2 else (3, 4)


def classes_of(photo: int) -> np.ndarray:
    """True class a patch [h', w']: stripes, so that bilinear logits reproduce them to the pixel."""
    h, w = grid_of(photo)
    return np.tile(np.array(STRIPES[photo][:w]), (h, 1))


def truth(photo: int) -> TruthRow:
    """Its first row of pixels is not annotated."""
    label_map = np.kron(classes_of(photo), np.ones((PATCH, PATCH))).astype(np.uint8)
    label_map[0] = 255
    return TruthRow(f"p{photo}", label_map)


def embeddings(photo: int) -> np.ndarray:
    """What the head says [h', w', 5]: the truth, except that the photo's upper left patch is a ball."""
    z = PROTOTYPES[np.array([1, 2, 3])[classes_of(photo)]].copy()
    z[0, 0] = PROTOTYPES[2]
    return z


def features(photo: int) -> FeatureRow:
    h, w = grid_of(photo)
    padded = np.zeros((*GRID, 5), ml_dtypes.bfloat16)
    padded[:h, :w] = embeddings(photo) * 3
    size = (h * PATCH, w * PATCH)
    return FeatureRow(f"p{photo}", size, (0.0, 0.0, float(size[1]), float(size[0])), (h, w), padded)


def evidence(photo: int) -> EvidenceRow:
    """Crops name the classes that are there; `naclip` mixes box into everything; masks are the true stripes."""
    h, w = grid_of(photo)
    size, stripes = (h * PATCH, w * PATCH), np.unique(classes_of(photo))
    label_map = np.kron(classes_of(photo), np.ones((PATCH, PATCH))).astype(int)
    runs = [rle.encode_mask(label_map == c) for c in stripes]
    masks = replace(
        MaskSet.empty(size),
        runs=np.concatenate(runs),
        offsets=np.cumsum([0, *map(len, runs)]),
        iou=np.full(len(runs), 0.9, np.float32),
    )
    dense = {"maskclip": PROTOTYPES[np.zeros((h, w), int)], "naclip": 0.5 * embeddings(photo) + 0.6 * PROTOTYPES[3]}
    return EvidenceRow(
        f"p{photo}",
        size,
        (h, w),
        PROTOTYPES[np.array([0, 2, 3])[stripes]].astype(np.float16),
        np.tile(np.array([0, 0, 1, 1], np.float32), (len(stripes), 1)),
        {name: tokens.astype(np.float16) for name, tokens in dense.items()},
        masks,
    )


def write_data(folder: Path) -> Path:
    """DATA with splits train (two photos) and eval (all five, in two shards); words of their own for eval."""
    makers: dict[str, Any] = {"features": features, "evidence": evidence, "truth": truth}
    shards = {"train": [[0, 1]], "eval": [[0, 1, 2], [3, 4]]}
    splits = {
        split: {family: [[make(photo) for photo in photos] for photos in numbers] for family, make in makers.items()}
        for split, numbers in shards.items()
    }
    data.write_words(folder / "labels/default/words-eval", SYNONYMS, SYNONYM_PROTOTYPES)
    config = get_config()
    encoded = {name: config[name].to_dict() for name in ("encoder", "clip")}
    return data.write_data(folder, splits, GRID, (5, 5), ENCODERS, config=encoded)
