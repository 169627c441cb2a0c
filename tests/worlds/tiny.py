"""A DATA of five small photos whose features say their truth, and a RUN whose head is the identity."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from configs.default import get_config
from fmbseg_jax.checkpoint import Checkpoints
from fmbseg_jax.step import State
from labelgen import rle
from labelgen.dataset import shard_name, write_json
from labelgen.ontology import Ontology
from labelgen.records import EvidenceRow, FeatureRow, MaskSet, TruthRow
from labelgen.tfrecord import ShardWriter
from tests.worlds.labelling import ONTOLOGY, PROTOTYPES

PATCH, GRID = 8, (4, 4)
STRIPES = [(0, 0, 1, 2), (2, 1, 1, 0), (0, 1, 0, 1), (1, 1, 2, 0), (0, 2, 2, 2)]
ENCODER = {"weights": "tiny.safetensors", "sha256": "0" * 64, "size_px": 32, "patch_px": 8}
ENCODERS = {"encoder": ENCODER, "clip": {"weights": "clip.safetensors", "sha256": "2" * 64}}
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
    splits = {"train": [[0, 1]], "eval": [[0, 1, 2], [3, 4]]}
    makers: dict[str, Any] = {"features": features, "evidence": evidence, "truth": truth}
    for split, shards in splits.items():
        for family, make in makers.items():
            (folder / family).mkdir(parents=True, exist_ok=True)
            for i, photos in enumerate(shards):
                with ShardWriter(folder / family / shard_name(split, i, len(shards))) as writer:
                    for photo in photos:
                        writer.append(make(photo).encode())
                    writer.finish()
    words = folder / "labels/default/words-eval"
    words.mkdir(parents=True)
    write_json(words / "ontology.json", SYNONYMS.to_json())
    np.save(words / "prototypes.npy", SYNONYM_PROTOTYPES)
    rows = {
        split: {"rows": [len(s) for s in shards], "truth": True, "truth_classes": None}
        for split, shards in splits.items()
    }
    info = {"format": 1, "splits": rows, "grid_hw": GRID, "feature_width": 5, "text_width": 5}
    config = get_config()
    encoded = {name: config[name].to_dict() for name in ("encoder", "clip")}
    write_json(folder / "dataset.json", info | {"encoders": ENCODERS, "config": encoded})
    return folder


def write_run(
    folder: Path,
    config: Any,
    kernel: np.ndarray | None = None,
    ontology: Ontology = ONTOLOGY,
    prototypes: np.ndarray = PROTOTYPES,
    encoders: dict[str, Any] = ENCODERS,
    dense_map: np.ndarray | None = None,
) -> Path:
    """RUN with a linear head; kernel [D, E], the identity unless given; dense_map: [D + 1, E]."""
    kernel = np.eye(5) if kernel is None else kernel
    width, text_width = kernel.shape
    head = {"project": {"kernel": kernel, "bias": np.zeros(text_width)}}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), {"head": head})
    side = encoders["encoder"]["size_px"] // encoders["encoder"]["patch_px"]
    facts = {
        "config": config.to_dict(),
        "ontology": ontology.to_json(),
        "identity": {},
        "data": {
            "feature_width": width,
            "text_width": text_width,
            "grid_hw": (side, side),
            "encoders": encoders,
        },
    }
    checkpoints = Checkpoints(folder, prototypes, facts, dense_map)
    checkpoints.save(7, State(jnp.int32(7), params, {"count": jnp.int32(7)}), {"next_index": 7}, 0.5)
    checkpoints.close()
    return folder
