"""A DATA without photos: patches are Gaussian clouds, one a class, so that what a head must learn is known."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ml_dtypes import bfloat16

from labelgen.core.ontology import Ontology, parse_words
from labelgen.data.dataset import Dataset
from labelgen.data.records import EvidenceRow, FeatureRow, LabelRow, TruthRow
from labelgen.data.rle import MaskSet
from tests.worlds import data

GRID = (6, 5)
WIDTH, TEXT_WIDTH = 16, 8
PATCH_PX = 4
WORDS = ("grass: grass, lawn", "sand", "sky: sky, cloud, air", "water")
ONTOLOGY: Ontology = parse_words(WORDS, "words.txt")
CLASSES = len(ONTOLOGY.names)


def unit_rows(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """float32 [count, width] random rows of length 1, at right angles while count <= width."""
    rows = np.linalg.qr(rng.normal(size=(width, width)))[0][:count]
    return rows.astype(np.float32)


def write_data(
    path: Path,
    photos: int = 24,
    seed: int = 0,
    noise: float = 0.3,
    grid: tuple[int, int] = GRID,
    width: int = WIDTH,
    text_width: int = TEXT_WIDTH,
    unlabelled: float = 0.2,
    shuffled: bool = False,
    per_shard: int = 10,
) -> Path:
    """Writes a complete DATA with split train: features, truth, labels/default. Deterministic.

    Photo i has its own valid grid; each patch is centre[class] + noise. The free labels leave out a share of
    `unlabelled` patches; `shuffled` gives every patch the label of another patch.
    """
    centres = np.random.default_rng(99).normal(size=(CLASSES, width))
    families: dict[str, list[list[Any]]] = {"features": [], "truth": [], "labels/default": []}
    for numbers in np.array_split(np.arange(photos), -(-photos // per_shard)):
        rngs = (np.random.default_rng([seed, i]) for i in numbers)
        rows = [
            photo_rows(rng, i, centres, noise, grid, unlabelled, shuffled) for rng, i in zip(rngs, numbers, strict=True)
        ]
        for shards, shard in zip(families.values(), zip(*rows, strict=True), strict=True):
            shards.append(list(shard))
    prototypes = unit_rows(np.random.default_rng(98), len(ONTOLOGY.words), text_width)
    data.write_labels(path / "labels/default", ONTOLOGY, prototypes, digest=f"{seed}-{shuffled}-{unlabelled}")
    encoders = {name: {"name": name, "sha256": "0" * 64} for name in ("clip", "sam", "encoder")}
    return data.write_data(path, {"train": families}, grid, (width, text_width), encoders)


def break_features(path: Path, row: int) -> str:
    """Makes all features of a photo of DATA infinite; returns its name."""
    opened = Dataset.open(path)
    rows = [FeatureRow.decode(record) for record in opened.reader("features", "train")]
    broken = replace(rows[row], features=np.full_like(rows[row].features, np.inf))
    rows[row] = broken
    ends = np.cumsum(opened.info["splits"]["train"]["rows"])
    shards = [rows[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    data.write_family(path / "features", "train", shards)
    return broken.photo_id


def keep_labels(path: Path, rows: Iterable[int]) -> None:
    """Takes the labels of all photos of DATA but these away."""
    opened, kept = Dataset.open(path), set(rows)
    labels = [LabelRow.decode(record) for record in opened.label_reader("default", "train")]
    nothing = np.zeros_like(labels[0].target_shares)
    left = [row if i in kept else replace(row, target_shares=nothing) for i, row in enumerate(labels)]
    ends = np.cumsum(opened.info["splits"]["train"]["rows"])
    shards = [left[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    data.write_family(path / "labels/default", "train", shards)


def write_evidence(path: Path, variant: str = "proxyclip") -> None:
    """Adds evidence to a DATA of `write_data`: dense maps that a linear map of the features gives, and no masks."""
    opened = Dataset.open(path)
    to_text = np.random.default_rng(97).normal(size=(opened.feature_width, opened.text_width))
    seen = [evidence_of(FeatureRow.decode(row), to_text, variant) for row in opened.reader("features", "train")]
    ends = np.cumsum(opened.info["splits"]["train"]["rows"])
    shards = [seen[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    data.write_family(path / "evidence", "train", shards)


def evidence_of(row: FeatureRow, to_text: np.ndarray, variant: str) -> EvidenceRow:
    """The evidence of a photo whose features [D] a matrix [D, E] takes to its dense map."""
    valid = row.features[: row.grid_hw[0], : row.grid_hw[1]].astype(np.float32)
    crops, boxes = np.zeros((0, to_text.shape[1]), np.float16), np.zeros((0, 4), np.float32)
    dense = {variant: (valid @ to_text).astype(np.float16)}
    return EvidenceRow(row.photo_id, row.size_hw, row.grid_hw, crops, boxes, dense, MaskSet.empty(row.size_hw))


def photo_rows(
    rng: np.random.Generator,
    number: int,
    centres: np.ndarray,
    noise: float,
    grid: tuple[int, int],
    unlabelled: float,
    shuffled: bool,
) -> tuple[FeatureRow, TruthRow, LabelRow]:
    """The rows of one photo."""
    h, w = (int(rng.integers(max(1, side - 2), side + 1)) for side in grid)
    classes = rng.integers(CLASSES, size=(h, w))
    features = np.zeros((*grid, centres.shape[1]), bfloat16)
    features[:h, :w] = (centres[classes] + noise * rng.normal(size=(h, w, centres.shape[1]))).astype(bfloat16)
    label_map = np.kron(classes, np.ones((PATCH_PX, PATCH_PX))).astype(np.uint8)
    size = label_map.shape
    target_classes, target_shares = np.zeros((*grid, 3), np.uint16), np.zeros((*grid, 3), np.uint8)
    named = rng.permuted(classes.ravel()).reshape(h, w) if shuffled else classes
    target_classes[:h, :w] = np.stack([named, (named + 1) % CLASSES, np.zeros_like(named)], -1)
    labelled = rng.random((h, w)) >= unlabelled
    target_shares[:h, :w] = np.array([200, 40, 0]) * labelled[..., None]
    photo_id = f"{number:05}"
    return (
        FeatureRow(photo_id, size, (0.0, 0.0, float(size[1]), float(size[0])), (h, w), features),
        TruthRow(photo_id, label_map),
        LabelRow(
            photo_id,
            np.unique(named).astype(np.int32),
            np.ones(len(np.unique(named)), np.float32),
            label_map,
            np.full(size, 255, np.uint8),
            target_classes,
            target_shares,
        ),
    )
