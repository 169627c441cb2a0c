"""A DATA of rows that are at hand, as labelgen.run leaves it: every world writes its own with this."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from labelgen.core.files import write_json
from labelgen.core.ontology import Ontology
from labelgen.data.tfrecord import ShardWriter, shard_name
from labelgen.labels.presence import Calibration


class Row(Protocol):
    """Of any family."""

    def encode(self) -> bytes:
        """The record."""


Shards = Sequence[Sequence[Row]]


def write_data(
    folder: Path,
    splits: Mapping[str, Mapping[str, Shards]],
    grid_hw: tuple[int, int],
    widths: tuple[int, int],
    encoders: Mapping[str, Any],
    **other: Any,
) -> Path:
    """DATA with the shards of `splits`: split -> family -> rows of each shard.

    widths: of features and of text embeddings; other: more fields of dataset.json.
    """
    about = {}
    for split, families in splits.items():
        for family, shards in families.items():
            write_family(folder / family, split, shards)
        counts = [len(rows) for rows in next(iter(families.values()))]
        about[split] = {"rows": counts, "truth": "truth" in families, "truth_classes": None}
    info = {"format": 1, "splits": about, "grid_hw": grid_hw, "feature_width": widths[0], "text_width": widths[1]}
    write_json(folder / "dataset.json", info | {"encoders": encoders} | other)
    return folder


def write_family(folder: Path, split: str, shards: Shards) -> None:
    """The shards of a split."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, rows in enumerate(shards):
        with ShardWriter(folder / shard_name(split, i, len(shards))) as writer:
            for row in rows:
                writer.append(row.encode())
            writer.finish()


def write_words(folder: Path, ontology: Ontology, prototypes: np.ndarray) -> None:
    """The words that rows in `folder` are about: ontology.json and prototypes.npy."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "ontology.json", ontology.to_json())
    np.save(folder / "prototypes.npy", prototypes)


def write_labels(
    folder: Path, ontology: Ontology, prototypes: np.ndarray, calibration: Calibration | None = None, **labels: Any
) -> None:
    """Words and what says that labels are complete. labels: fields of labels.json besides the split `train`."""
    write_words(folder, ontology, prototypes)
    if calibration is not None:
        write_json(folder / "calibration.json", calibration.to_json())
    write_json(folder / "labels.json", {"splits": ["train"], **labels})
