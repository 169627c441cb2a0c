"""What a training takes on a TPU slice or on GPUs, by their own compilers, before one is rented.

    python -m fmbseg_jax.rehearse --config=configs/voc.py --data=DATA --topology=v5e:16x16

Compiles the programs of train, evaluate and predict for the slice; no chip is there, nothing is run. Says of each chip:
memory, operations, bytes, what is exchanged and launched; what bounds a step, and what to set otherwise. Settings that
cannot work there are the error that train would give. Before there is a DATA, its shape does:
--shape=D=1024,grid=37x37,E=768,classes=21,photos=10582

It takes pip install 'fmbseg-jax[rehearse]' in a virtual environment of its own (docs/rehearse.md).
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import json
import sys

from ml_collections import ConfigDict

from fmbseg_jax.rehearsal import findings, programs, topologies
from fmbseg_jax.rehearsal.programs import Shape
from fmbseg_jax.rehearsal.topologies import Topology
from fmbseg_jax.runs.settings import TrainConfig, train_config
from labelgen.core.command import command, command_line, config_flags, parser
from labelgen.core.config import load_config
from labelgen.core.progress import say
from labelgen.data.staging import open_data


def main(args: argparse.Namespace) -> int:
    """Compiles, then says what was found."""
    config = load_config(args.config, args.overrides)
    settings, shape = train_config(config), shape_of(args, config)
    topologies.prepare(args.topology)
    topology = topologies.open_topology(args.topology)
    check(settings, shape, topology)
    readings = programs.rehearse(
        settings, shape, topology, config.eval.batch_size, say=lambda name: say(f"compiling {name}")
    )
    found = findings.find(settings, shape, topology, readings)
    after = next_command(args, topology)
    if args.json:
        print(json.dumps({**findings.as_json(found), "next": after}, indent=1))
    else:
        print(f"{findings.text(found)}\n{after}")
    return 0


def shape_of(args: argparse.Namespace, config: ConfigDict) -> Shape:
    """What the programs depend on of DATA, read there or told."""
    dtype = config.encode.feature_dtype
    if args.shape:
        return Shape.parse(args.shape, dtype)
    return Shape.of(open_data(args.data, config.data_cache), train_config(config), dtype)


def check(settings: TrainConfig, shape: Shape, topology: Topology) -> None:
    """Says what would work there before train's own error."""
    if fields := findings.fix(settings, shape, topology):
        say(f"for {topology.name} set {fields}")
    programs.check(settings, shape, topology)


def next_command(args: argparse.Namespace, topology: Topology) -> str:
    """The training on the slice."""
    found = ["--config.distributed=auto"] * (topology.hosts > 1)
    where = f"on each of the {topology.hosts} hosts" if topology.hosts > 1 else "on the machine"
    flags = [*config_flags(args), f"--data={args.data or 'DATA'}", "--workdir=RUN", *found]
    return f"next, {where}: {command_line('fmbseg_jax.train', *flags)}"


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m fmbseg_jax.rehearse`."""
    flags = parser(__doc__ or "")
    what = flags.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", default="", metavar="DATA", help="folder or url that labelgen.run wrote")
    what.add_argument("--shape", default="", metavar="SHAPE", help="D=…,grid=HxW,E=…,classes=…[,photos=…] instead")
    flags.add_argument(
        "--topology", required=True, metavar="NAME", help="v5e:16x16, v6e:4x4, h100:4x8 (hosts x GPUs) …"
    )
    flags.add_argument("--json", action="store_true", help="the findings as JSON")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
