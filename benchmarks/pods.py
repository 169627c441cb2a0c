"""What a step of each shipped config takes on pods and GPUs, by their own compilers: nothing is run, no chip is there.

    python -m benchmarks.pods [--photos=8] [--topologies=v5e:16x16,h100:8] [--cases=voc,block] [--out=FILE.json]

To be run in the environment of docs/rehearse.md. --photos a chip; the photos of the config's usual split, so that it
lies on the chips where it fits. `block` is VOC with a transformer block, T-SupCon and bfloat16, with the most photos a
chip that its compiler has memory for, contrasted with 4 patches of each; so is pocket, whose 256 are too few for a pod.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.setting import fresh_process, publish, table
from fmbseg_jax.rehearsal import findings, programs, topologies
from fmbseg_jax.rehearsal.programs import FED, RESIDENT, Shape
from fmbseg_jax.rehearsal.topologies import Topology
from fmbseg_jax.runs.settings import train_config
from labelgen.core.command import command, parser
from labelgen.core.config import load_config
from labelgen.core.ontology import read_words

TOPOLOGIES = ("v5e:16x16", "v6e:16x16", "v5p:4x4x4", "h100:8", "h100:4x8")


class Case(NamedTuple):
    """A config and what a DATA of it is like."""

    config: str
    photos: int
    grid_hw: tuple[int, int] = (37, 37)
    widths: tuple[int, int] = (1024, 768)
    """D, E."""
    fields: tuple[str, ...] = ()
    words: str = ""
    """Where the config names none."""


BLOCK = "block"
CASES = {
    "voc": Case("voc", 10582),
    "context": Case("context", 4998),
    "coco_object": Case("coco_object", 118287),
    "coco_stuff": Case("coco_stuff", 118287),
    "coco_panoptic": Case("coco_panoptic", 118287),
    "cityscapes": Case("cityscapes", 2975, (37, 74)),
    "ade20k": Case("ade20k", 20210),
    "camvid": Case("camvid", 367, (39, 52)),
    "river_water": Case("river_water", 300),
    "my_photos": Case("my_photos", 1000, words="configs/words/voc21.txt"),
    "pocket": Case("pocket", 400, (24, 24), (192, 128), ("train.supcon_samples=0",)),
    BLOCK: Case(
        "voc",
        10582,
        fields=("head.blocks=1", "head.dtype=bfloat16", "train.loss=t_supcon", "train.supcon_samples=4096"),
    ),
}


def main(args: argparse.Namespace) -> int:
    """Each topology in a process of its own, as its compiler wants it; prints the table."""
    if args.topology:
        print(json.dumps(compiled(args.topology, args.cases.split(","), args.photos)))
        return 0
    rows: list[dict[str, Any]] = []
    for topology in args.topologies.split(","):
        told = [f"--topology={topology}", f"--cases={args.cases}", f"--photos={args.photos}"]
        found = json.loads(fresh_process("benchmarks.pods", told, JAX_PLATFORMS="cpu").out)
        print(json.dumps(found), file=sys.stderr, flush=True)
        rows += found
    publish(args, {"photos a chip": args.photos, "rows": rows}, text(rows))
    return 0


def compiled(name: str, cases: Sequence[str], photos: int) -> list[dict[str, Any]]:
    """The rows of a topology."""
    topologies.prepare(name)
    topology = topologies.open_topology(name)
    rows = []
    for case in cases:
        row = measured(CASES[case], topology, photos)
        most = {"most": most_photos(CASES[case], topology, photos)} if case == BLOCK else {}
        rows.append({"case": case, "topology": name, **row, **most})
    return rows


def measured(case: Case, topology: Topology, photos: int, fed: bool = False) -> dict[str, Any]:
    """A case with so many photos a chip: the step that a training would run, or the one that is fed."""
    batch = photos * len(topology.devices)
    config = load_config(f"configs/{case.config}.py", [f"train.batch_size={batch}", *case.fields])
    settings = train_config(config)
    words = read_words(case.words or config.ontology).word_class
    shape = Shape(case.widths[0], case.grid_hw, case.widths[1], tuple(words), case.photos)
    planned = programs.plan(settings, shape, topology)
    name = RESIDENT if RESIDENT in planned and not fed else FED
    readings = {name: programs.readings(planned[name])}
    found = findings.find(settings, shape, topology, readings)
    step = found.step
    if step.refused or step.memory_bytes > topology.chip.usable:
        return {"fits": False}
    return {
        "fits": True,
        "loss": settings.loss.loss,
        "resident": RESIDENT in readings,
        "argument_bytes": step.argument_bytes,
        "temp_bytes": step.temp_bytes,
        "exchanged": findings.exchanged(step),
        "kernels": sum(step.optimized.kernels.values()) if step.optimized else 0,
        "gflop": step.flops / 1e9,
        "least_ms": 1e3 * found.least_seconds(),
        "bound": found.bound(),
        "photos_per_second": batch / found.least_seconds(),
        "compile_s": step.compile_s,
    }


def most_photos(case: Case, topology: Topology, photos: int) -> int:
    """The most photos a chip whose step, fed, has memory there: by two sizes, then an eighth less while it has not."""
    case = case._replace(fields=(*case.fields, "train.supcon_samples=0"))
    one, two = (measured(case, topology, count, fed=True) for count in (photos, 2 * photos))
    needed = [row["argument_bytes"] + row["temp_bytes"] for row in (one, two)]
    each = (needed[1] - needed[0]) / photos
    most = photos + int((topology.chip.usable - needed[0]) / each)
    while most > photos and not measured(case, topology, most, fed=True)["fits"]:
        most -= -(-most // 8)
    return most


def text(rows: Sequence[dict[str, Any]]) -> str:
    """The README's rows."""
    heads = ["topology", "config, loss", "split", "arguments, MiB a chip", "temporaries, MiB a chip"]
    heads += ["exchanged a step", "kernels", "GFLOP a chip", "least, ms", "bound by", "photos/s at most"]
    return table(heads, [line(row) for row in rows])


def line(row: dict[str, Any]) -> list[Any]:
    """A row of the table."""
    if not row["fits"]:
        return [row["topology"], row["case"], "does not fit", *[""] * 8]
    most = f"; {row['most']} photos a chip at most" if "most" in row else ""
    return [
        row["topology"],
        f"{row['case']}, {row['loss']}{most}",
        "on the chips" if row["resident"] else "fed",
        f"{row['argument_bytes'] / (1 << 20):,.0f}",
        f"{row['temp_bytes'] / (1 << 20):,.0f}",
        row["exchanged"],
        row["kernels"],
        f"{row['gflop']:.1f}",
        f"{row['least_ms']:.3f}",
        row["bound"],
        f"{row['photos_per_second']:.3g}",
    ]


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--photos", type=int, default=8, help="photos a chip")
    flags.add_argument("--topologies", default=",".join(TOPOLOGIES), help="which, see docs/rehearse.md")
    flags.add_argument("--cases", default=",".join(CASES), help="which shipped configs, and block")
    flags.add_argument("--topology", help="this one alone, on this process: what the command runs")
    flags.add_argument("--out", metavar="FILE", help="the figures as JSON")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
