"""Small rows of every family for the tests: random, but a function of their arguments."""

from typing import Any

import ml_dtypes
import numpy as np

from labelgen.data.records import EvidenceRow, FeatureRow, LabelRow, TruthRow
from labelgen.data.rle import MaskSet, encode_mask


def mask_set(masks: Any, points: int = 4) -> MaskSet:
    """A MaskSet of bool masks [M, H, W]; point p answers with masks p, p + 1 (where there are) and none."""
    masks = np.asarray(masks, bool)
    runs = [encode_mask(mask) for mask in masks]
    count, height, width = masks.shape
    rows = np.arange(points)
    answers = np.stack([rows, rows + 1, np.full(points, -1)], 1)
    return MaskSet(
        np.concatenate(runs).astype(np.uint32),
        np.cumsum([0, *map(len, runs)]).astype(np.int64),
        (height, width),
        np.tile(np.array([0, 0, width, height], np.float32), (count, 1)),
        np.linspace(0.5, 1, count, dtype=np.float32),
        np.linspace(0.9, 1, count, dtype=np.float32),
        np.arange(count) % 2 == 0,
        np.stack([rows * width / points, rows * height / points], 1).astype(np.float32),
        np.where(answers < count, answers, -1).astype(np.int32),
    )


def feature_row(
    photo_id: str = "a/photo", seed: int = 0, grid: int = 4, width: int = 6, dtype: Any = ml_dtypes.bfloat16
) -> FeatureRow:
    """A photo of 30 x 40 px: 3 x 4 patches are valid on the grid of grid x grid."""
    features = np.random.default_rng(seed).normal(size=(grid, grid, width))
    features[grid - 1 :] = 0
    thumbnail = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return FeatureRow(photo_id, (30, 40), (0.0, 0.0, 40.0, 30.0), (grid - 1, grid), features.astype(dtype), thumbnail)


def evidence_row(photo_id: str = "a/photo", seed: int = 0, width: int = 5) -> EvidenceRow:
    rng = np.random.default_rng(seed)
    return EvidenceRow(
        photo_id,
        (30, 40),
        (3, 4),
        rng.normal(size=(7, width)).astype(np.float16),
        rng.random((7, 4), np.float32),
        {name: rng.normal(size=(3, 4, width)).astype(np.float16) for name in ("maskclip", "naclip")},
        mask_set(rng.random((3, 30, 40)) < 0.5),
    )


def truth_row(photo_id: str = "a/photo", seed: int = 0) -> TruthRow:
    return TruthRow(photo_id, np.random.default_rng(seed).integers(0, 3, (30, 40)).astype(np.uint8))


def label_row(photo_id: str = "a/photo", seed: int = 0, grid: int = 4) -> LabelRow:
    rng = np.random.default_rng(seed)
    return LabelRow(
        photo_id,
        np.array([0, 2], np.int32),
        np.array([0.5, 0.75], np.float32),
        rng.integers(0, 3, (30, 40)).astype(np.uint8),
        rng.integers(0, 256, (30, 40)).astype(np.uint8),
        rng.integers(0, 3, (grid, grid, 3)).astype(np.uint16),
        rng.integers(0, 80, (grid, grid, 3)).astype(np.uint8),
    )
