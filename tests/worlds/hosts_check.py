"""What fmbseg_jax.runs.hosts and meshes say in one process of several.

`python -m tests.worlds.hosts_check ADDRESS:PORT,COUNT,ID OUT` writes OUT/ID.json; all together write
OUT/checkpoints, of a head whose parameters are spread over the processes.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.checkpoint import Checkpoints, checksum
from fmbseg_jax.runs.settings import FeedConfig, HeadConfig
from fmbseg_jax.training.device_batches import place
from fmbseg_jax.training.feed import check_whole_shards
from fmbseg_jax.training.mesh import make_mesh, over_data, own_places
from fmbseg_jax.training.step import named
from labelgen.core.errors import UserError
from tests.worlds.stepping import SUPCON, TEXT_WIDTH, arrays
from tests.worlds.stepping import Bench as OneProcessBench
from tests.worlds.synthetic import ONTOLOGY, unit_rows

IDENTITY = {"head.hidden": 16}
HIDDEN = HeadConfig(0, 4, 16, "float32")
PROTOTYPES = unit_rows(np.random.default_rng(1), len(ONTOLOGY.words), TEXT_WIDTH)


class Bench(OneProcessBench):
    """The step over all processes, each of which gives its own places."""

    def batch(self, seed: int = 0) -> dict[str, jax.Array]:
        places = own_places(over_data(self.mesh), 8)
        return place({name: value[places] for name, value in arrays(seed).items()}, over_data(self.mesh))  # type: ignore


def refused(call: Any, *arguments: Any) -> str:
    try:
        call(*arguments)
    except UserError as error:
        return str(error)
    return ""


def sums() -> dict[str, Any]:
    i = hosts.index()
    return {
        "count": hosts.count(),
        "first": hosts.is_first(),
        "total int64": hosts.total(np.array([[2**53 + 1 + i, -i]])).tolist(),
        "total float64": hosts.total(np.array([0.1, 1e300]) * (i + 1)).tolist(),
        "gathered": hosts.gather({"photo": "x" * 5 * i}),
        "any": [hosts.any_of(i == 1), hosts.any_of(False)],
        "same": refused(hosts.check_same, [1, {"a": 2}], "differs"),
        "different": refused(hosts.check_same, i, "differs"),
        "share": list(hosts.own_rows(5)),
    }


def meshes() -> dict[str, Any]:
    over = {f"{data}x{model}": make_mesh(data, model) for data, model in ((4, 1), (2, 2), (1, 4))}
    few = FeedConfig("train", "labels", 8, 1, 0.1, 0, 0.5)
    places = {name: own_places(over_data(mesh), 8) for name, mesh in over.items()}
    return {
        "places": {name: own.tolist() for name, own in places.items()},
        "rows of processes": {
            name: [[d.process_index for d in row] for row in mesh.devices] for name, mesh in over.items()
        },
        "one virtual shard": {name: refused(check_whole_shards, own, few) for name, own in places.items()},
    }


def steps(out: Path) -> dict[str, Any]:
    """Losses of 3 steps on each mesh; the last state is saved where the parameters lie over both processes."""
    found: dict[str, Any] = {}
    for data, model in ((4, 1), (1, 4)):
        bench = Bench(make_mesh(data, model), HIDDEN, SUPCON)
        state, losses = bench.state, []
        for i in range(3):
            state, metrics = bench.step(state, bench.batch(i), bench.teacher)
            losses.append(named(metrics)["loss"])
        found[f"{data}x{model}"] = losses
    facts = {"config": ConfigDict().to_dict(), "identity": IDENTITY}
    checkpoints = Checkpoints(out, PROTOTYPES, facts)
    checkpoints.save(3, state, {"next_index": 3}, 1.0)
    checkpoints.close()
    spread = not state.params["head"]["hidden"]["kernel"].is_fully_addressable
    return {"losses": found, "spread": spread, "checksum": checksum({"params": state.params})}


if __name__ == "__main__":
    hosts.start(sys.argv[1])
    out = Path(sys.argv[2])
    found = {**sums(), **meshes(), **steps(out)}
    (out / f"{hosts.index()}.json").write_text(json.dumps(found))
