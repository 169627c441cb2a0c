"""The steps of the shipped configs by a slice's compiler, a line of JSON each; run where the compilers are.

    python -m tests.worlds.shipped_steps TOPOLOGY CONFIG,...

Of each: the step on the split where that fits, and the one that is fed. 8 photos a chip, the photos of the usual split.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.pods import CASES, Case
from fmbseg_jax.rehearsal import programs, topologies
from fmbseg_jax.rehearsal.programs import FED, RESIDENT, Readings
from fmbseg_jax.rehearsal.topologies import Topology
from fmbseg_jax.runs.settings import train_config
from labelgen.core.config import load_config
from labelgen.core.ontology import read_words


def main(name: str, cases: str) -> None:
    """Prints a line a program."""
    topologies.prepare(name)
    topology = topologies.open_topology(name)
    for case in cases.split(","):
        for row in steps(CASES[case], topology):
            print(json.dumps({"case": case, **row}), flush=True)


def steps(case: Case, topology: Topology) -> Iterator[dict[str, Any]]:
    """What the compiler says of a config's steps."""
    batch = 8 * len(topology.devices)
    config = load_config(f"configs/{case.config}.py", [f"train.batch_size={batch}", *case.fields])
    words = read_words(case.words or config.ontology).word_class
    shape = programs.Shape(case.widths[0], case.grid_hw, case.widths[1], tuple(words), case.photos)
    for name, program in programs.plan(train_config(config), shape, topology).items():
        if name in (FED, RESIDENT):
            yield {"loss": config.train.loss, "program": name, **told(programs.readings(program))}


def told(reading: Readings) -> dict[str, Any]:
    """What a test asks for of it."""
    assert reading.optimized is not None, reading.refused
    return {
        "collectives": [[each.kind, each.bytes, each.times] for each in reading.optimized.collectives],
        "temp_bytes": reading.temp_bytes,
        "reused_arguments": reading.optimized.reused,
        "host_calls": reading.optimized.host_calls,
        "kernels": sum(reading.optimized.kernels.values()),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
