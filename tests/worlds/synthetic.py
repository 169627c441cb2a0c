"""A DATA without photos: patches are Gaussian clouds, one a class, so that what a head must learn is known."""

import json
from pathlib import Path

import numpy as np
from ml_dtypes import bfloat16

from labelgen.dataset import shard_name, write_json
from labelgen.files import write_atomic
from labelgen.ontology import Ontology, parse_words
from labelgen.records import FeatureRow, LabelRow, TruthRow
from labelgen.tfrecord import ShardWriter

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
    counts = [len(part) for part in np.array_split(np.arange(photos), -(-photos // per_shard))]
    start = 0
    for family in ("features", "truth", "labels/default"):
        (path / family).mkdir(parents=True)
    for shard, count in enumerate(counts):
        name = shard_name("train", shard, len(counts))
        with (
            ShardWriter(path / "features" / name) as features,
            ShardWriter(path / "truth" / name) as truth,
            ShardWriter(path / "labels/default" / name) as labels,
        ):
            for i in range(start, start + count):
                rows = photo_rows(np.random.default_rng([seed, i]), i, centres, noise, grid, unlabelled, shuffled)
                for writer, row in zip((features, truth, labels), rows, strict=True):
                    writer.append(row.encode())
            for writer in (features, truth, labels):
                writer.finish()
        start += count
    prototypes = unit_rows(np.random.default_rng(98), len(ONTOLOGY.words), text_width)
    write_words(path / "labels/default", prototypes)
    write_json(path / "labels/default/labels.json", {"splits": ["train"], "digest": f"{seed}-{shuffled}-{unlabelled}"})
    write_json(
        path / "dataset.json",
        {
            "format": 1,
            "splits": {"train": {"rows": counts, "truth": True, "truth_classes": None}},
            "grid_hw": list(grid),
            "feature_width": width,
            "text_width": text_width,
            "encoders": {name: {"name": name, "sha256": "0" * 64} for name in ("clip", "sam", "encoder")},
        },
    )
    return path


def write_words(folder: Path, prototypes: np.ndarray, ontology: Ontology = ONTOLOGY) -> None:
    """ontology.json and prototypes.npy."""
    write_atomic(folder / "ontology.json", json.dumps(ontology.to_json()).encode())
    np.save(folder / "prototypes.npy", prototypes)


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
