"""Checkpoints of a few steps on random batches."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from configs.default import get_config
from fmbseg_jax.runs.checkpoint import Checkpoints
from fmbseg_jax.runs.settings import LossConfig
from tests.worlds import run
from tests.worlds.stepping import CE, TEXT_WIDTH, WIDTH, Bench
from tests.worlds.synthetic import ONTOLOGY, unit_rows

PROTOTYPES = unit_rows(np.random.default_rng(1), len(ONTOLOGY.words), TEXT_WIDTH)
IDENTITY = {"head.blocks": 0, "words": "grass, sand"}


def facts(learn_temperature: bool = False) -> dict[str, Any]:
    config = get_config()
    config.head.heads = 4
    config.train.learn_temperature = learn_temperature
    encoders = {"encoder": {"name": "small", "sha256": "ab" * 32}}
    return run.facts(config, ONTOLOGY, (WIDTH, TEXT_WIDTH), (3, 3), encoders, IDENTITY)


def leaves(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def same(a: Any, b: Any) -> bool:
    return all(x.dtype == y.dtype and (x == y).all() for x, y in zip(leaves(a), leaves(b), strict=True))


def train(bench: Bench, workdir: Path, losses: list[float | None], loss: LossConfig = CE) -> list[Any]:
    """A checkpoint after each of len(losses) steps; returns the states, on the host."""
    checkpoints = Checkpoints(workdir, PROTOTYPES, facts(loss.learn_temperature))
    state, states = bench.state, []
    for i, held_out in enumerate(losses):
        state, _ = bench.step(state, bench.batch(i), bench.teacher)
        checkpoints.save(i + 1, state, {"next_index": i + 1}, held_out)
        states.append(jax.device_get(state))
    checkpoints.close()
    return states


def kept(workdir: Path) -> list[int]:
    return sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
