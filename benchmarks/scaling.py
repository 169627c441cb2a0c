"""What a step exchanges and keeps on 1 to 8 virtual devices of 1 and 2 processes; of real ones see benchmarks.pods.

    python -m benchmarks.scaling [--batch=8] [--out=FILE.json]

Devices are virtual ones of the CPU, each number in fresh processes: they say bytes, not times. The global batch grows
with the devices (--batch photos each), D=1024, 37 x 37 patches, E=768, 21 classes. Bytes exchanged are the operands of
the collectives in the compiled program, each as often as it is run; bytes a device keeps are the compiler's own count.
"""

import argparse
import dataclasses
import json
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from benchmarks.programs import LARGE, program, settings_of
from benchmarks.setting import REAL, fresh_process, publish, table
from fmbseg_jax.rehearsal.optimized import read
from fmbseg_jax.runs import hosts
from fmbseg_jax.training.costs import matmul_flops
from fmbseg_jax.training.step import named
from labelgen.core.command import command, parser

LAYOUTS = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 2), (2, 8))
"""(processes, devices over all of them)"""
CASES: dict[str, tuple[str, ...]] = {
    "linear, prototype_ce": (),
    "linear, t_supcon": ("train.loss=t_supcon",),
    "1 block, prototype_ce": ("head.blocks=1",),
}


def main(args: argparse.Namespace) -> int:
    """Compile in fresh processes; print the table."""
    if args.case:
        hosts.start(args.distributed)
        print(json.dumps(measured(args.case, args.batch)))
        return 0
    rows = []
    for case in CASES:
        for processes, devices in LAYOUTS:
            rows.append({"case": case, "processes": processes, **compiled(case, processes, devices, args)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    publish(args, {"batch a device": args.batch, "rows": rows}, text(rows))
    return 0


def compiled(case: str, processes: int, devices: int, args: argparse.Namespace) -> dict[str, Any]:
    """What the first of so many processes says of the step over all devices."""
    flag = f"--xla_force_host_platform_device_count={devices // processes}"
    port = free_port()

    def run(index: int) -> str:
        how = f"127.0.0.1:{port},{processes},{index}" if processes > 1 else hosts.OFF
        told = [f"--case={case}", f"--batch={args.batch}", f"--distributed={how}"]
        return fresh_process("benchmarks.scaling", told, args.cores, XLA_FLAGS=flag, JAX_PLATFORMS="cpu").out

    with ThreadPoolExecutor(processes) as pool:
        # Before it they print how they found each other.
        first, *_ = pool.map(run, range(processes))
        row: dict[str, Any] = json.loads(first.splitlines()[-1])
    return row


def free_port() -> int:
    """One of this machine that nobody listens at."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
    return port


def measured(case: str, batch_a_device: int) -> dict[str, Any]:
    """One case on the devices of this process."""
    devices = jax.device_count()
    blocks = 1 if "head.blocks=1" in CASES[case] else 0
    shape = dataclasses.replace(REAL, batch_size=batch_a_device * devices, blocks=blocks)
    settings = settings_of(shape, *CASES[case])
    step = program(shape, settings.head, settings.loss)
    memory = step.compiled.memory_analysis()
    # A block's step is a matter of minutes here.
    loss = None if blocks else named(step.compiled(step.state, step.batch, step.teacher)[1])["loss"]
    return {
        "devices": devices,
        "loss": loss,
        "collectives": read(step.compiled.as_text()).by_kind() if devices > 1 else {},  # there with oneself to sum
        "argument_bytes": memory.argument_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "flops": matmul_flops(step.jaxpr) / devices,
        "compile_s": step.compile_s,
    }


def text(rows: list[dict[str, Any]]) -> str:
    """The README's rows."""
    heads = ["head, loss", "processes", "devices", "exchanged a step", "of it in arrays above 64 KiB"]
    heads += ["arguments, MiB a device", "temporaries, MiB a device", "GFLOP a device", "first loss"]
    return table(heads, [line(row) for row in rows])


def line(row: dict[str, Any]) -> list[Any]:
    """A row of the table."""
    large = [
        f"{kind} {size / 1e6:.2f} MB" for kind, sizes in row["collectives"].items() for size in sizes if size > LARGE
    ]
    return [
        row["case"],
        row["processes"],
        row["devices"],
        f"{exchanged(row) / 1e6:.2f} MB",
        ", ".join(large) or "none",
        f"{row['argument_bytes'] / (1 << 20):.1f}",
        f"{row['temp_bytes'] / (1 << 20):.1f}",
        f"{row['flops'] / 1e9:.1f}",
        "not run" if row["loss"] is None else f"{row['loss']:.5f}",
    ]


def exchanged(row: dict[str, Any]) -> int:
    """Bytes of all collectives of a step."""
    return sum(sum(sizes) for sizes in row["collectives"].values())


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--batch", type=int, default=8, help="photos a device")
    flags.add_argument("--cores", type=int, default=1, help="cores of a process")
    flags.add_argument("--case", choices=CASES, help="only this one, on this process's devices: what the command runs")
    flags.add_argument("--distributed", default=hosts.OFF, help="the processes of --case, as config.distributed")
    flags.add_argument("--out", metavar="FILE", help="the figures as JSON")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
