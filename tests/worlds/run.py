"""A RUN with a linear head, as fmbseg_jax.train leaves it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmbseg_jax.runs.checkpoint import Checkpoints
from fmbseg_jax.runs.head import State
from labelgen.core.ontology import Ontology
from tests.worlds.labelling import ONTOLOGY, PROTOTYPES

ENCODER = {"weights": "tiny.safetensors", "sha256": "0" * 64, "size_px": 32, "patch_px": 8}
ENCODERS = {"encoder": ENCODER, "clip": {"weights": "clip.safetensors", "sha256": "2" * 64}}


def write_run(
    folder: Path,
    config: Any,
    kernel: np.ndarray | None = None,
    ontology: Ontology = ONTOLOGY,
    prototypes: np.ndarray = PROTOTYPES,
    encoders: Mapping[str, Any] = ENCODERS,
    dense_map: np.ndarray | None = None,
) -> Path:
    """RUN at step 7; kernel [D, E], the identity unless given; dense_map: [D + 1, E]."""
    kernel = np.eye(5) if kernel is None else kernel
    head = {"project": {"kernel": kernel, "bias": np.zeros(kernel.shape[1])}}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), {"head": head})
    side = encoders["encoder"]["size_px"] // encoders["encoder"]["patch_px"]
    data = facts(config, ontology, kernel.shape, (side, side), encoders)
    checkpoints = Checkpoints(folder, prototypes, data, dense_map)
    checkpoints.save(7, State(jnp.int32(7), params, {"count": jnp.int32(7)}), {"next_index": 7}, 0.5)
    checkpoints.close()
    return folder


def facts(
    config: Any,
    ontology: Ontology,
    widths: tuple[int, ...],
    grid_hw: tuple[int, int],
    encoders: Mapping[str, Any],
    identity: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a checkpoint says of its training. widths: of features and of text embeddings."""
    return {
        "config": config.to_dict(),
        "ontology": ontology.to_json(),
        "data": {"feature_width": widths[0], "text_width": widths[1], "grid_hw": grid_hw, "encoders": encoders},
        "identity": identity or {},
    }
