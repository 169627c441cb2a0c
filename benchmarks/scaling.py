"""What a step exchanges and keeps on 1 to 8 devices of 1 and 2 processes, and a model on paper of its time on pods.

    python -m benchmarks.scaling [--batch=8] [--out=FILE.json]

Devices are virtual ones of the CPU, each number in fresh processes: they say bytes, not times. The global batch grows
with the devices (--batch photos each), D=1024, 37 x 37 patches, E=768, 21 classes. Bytes exchanged are the operands of
the collectives in the compiled program, each as often as it is run; bytes a device keeps are the compiler's own count.
The model then takes FLOPs and bytes of one device and published peaks (CHIPS): see `step_seconds`.
"""

import argparse
import dataclasses
import json
import math
import re
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax

from benchmarks.programs import LARGE, program, settings_of
from benchmarks.setting import REAL, fresh_process, publish, table
from fmbseg_jax.runs import hosts
from fmbseg_jax.training.costs import matmul_flops
from labelgen.core.command import command, parser

LAYOUTS = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 2), (2, 8))
"""(processes, devices over all of them)"""
CASES: dict[str, tuple[str, ...]] = {
    "linear, prototype_ce": (),
    "linear, t_supcon": ("train.loss=t_supcon",),
    "1 block, prototype_ce": ("head.blocks=1",),
}
ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "u16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}
COLLECTIVE = re.compile(
    r"= (?P<out>\(.*?\)|\S+) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
)
ARRAY = re.compile(r"(?P<kind>\w+)\[(?P<dims>[\d,]*)\]")


@dataclass(frozen=True)
class Chip:
    """Published peaks of an accelerator and of the host it sits in; bytes and FLOPs a second."""

    flops: float
    """bfloat16 matrix products, dense."""
    memory: float
    """Of its own memory."""
    exchange: float
    """To its neighbours, one way: within a pod or a host."""
    network: float
    """Of a host to other hosts, one way, shared by its chips; 0: chips of other hosts are as near."""
    store: float
    """Into a host, from where DATA lies."""
    per_host: int


CHIPS = {
    # docs.cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 819 GB/s, interconnect 400 GB/s both ways, 8 chips and
    # 2 x 100 Gbit/s a host; all 256 chips are one torus.
    "TPU v5e": Chip(197e12, 819e9, 200e9, 0, 25e9, 8),
    # NVIDIA H100 data sheet, SXM: 989 TFLOP/s dense, 3.35 TB/s, NVLink 900 GB/s both ways; NVIDIA DGX H100 data
    # sheet: 8 GPUs and 8 x 400 Gbit/s a host, two more such ports for storage.
    "H100 SXM": Chip(989e12, 3.35e12, 450e9, 400e9, 100e9, 8),
}


def step_seconds(chip: Chip, hosts: int, flops: float, moved: float, sent: float, fed: float) -> dict[str, float]:
    """Seconds of a step on `hosts` hosts with all their chips, as long as nothing but the peaks limits it.

    With n = hosts * per_host chips, and a device's own share of flops, bytes moved to and from its memory, bytes of
    the collectives' results (those of sums twice: once to add and once to spread, as in a ring), and bytes of
    features fed to it from the store each step:

        work = max(flops / chip.flops, moved / chip.memory)
        sum = (n - 1) / n * sent / link;  link = min(exchange, network) where the ring crosses hosts
              (network: all of a host's ports, which a hierarchical ring uses), else exchange
        feed = fed * per_host / store, read ahead, so that it hides behind the rest or bounds it
        step = max(work + sum, feed);  work + sum where the features lie on the devices and nothing is fed

    Sum and work are added, as the gradient of a linear head is there at the end only. Latencies, of some ten
    microseconds a collective and more a launch, are left out: a step of a tenth of a millisecond is not to be had.
    """
    chips = hosts * chip.per_host
    work = max(flops / chip.flops, moved / chip.memory)
    link = min(chip.exchange, chip.network) if chip.network and hosts > 1 else chip.exchange
    summed = (chips - 1) / chips * sent / link
    feed = fed * chip.per_host / chip.store
    return {"work": work, "sum": summed, "feed": feed, "resident": work + summed, "fed": max(work + summed, feed)}


def main(args: argparse.Namespace) -> int:
    """Compile in fresh processes; print both tables."""
    if args.case:
        hosts.start(args.distributed)
        print(json.dumps(measured(args.case, args.batch)))
        return 0
    rows = []
    for case in CASES:
        for processes, devices in LAYOUTS:
            rows.append({"case": case, "processes": processes, **compiled(case, processes, devices, args)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    publish(args, {"batch a device": args.batch, "rows": rows}, f"{text(rows)}\n\n{on_paper(rows, args.batch)}")
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
    _, metrics = step.compiled(step.state, step.batch, step.teacher) if not blocks else (None, {})
    return {
        "devices": devices,
        "loss": float(metrics["loss"]) if metrics else None,  # a block's step is a matter of minutes here
        "collectives": collectives(step.compiled.as_text()) if devices > 1 else {},  # there with oneself to sum
        "argument_bytes": memory.argument_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "flops": matmul_flops(step.jaxpr) / devices,
        "bytes_moved": step.compiled.cost_analysis()["bytes accessed"],
        "feature_bytes": step.batch.features.nbytes // devices,
        "compile_s": step.compile_s,
    }


def collectives(text: str) -> dict[str, list[int]]:
    """Kind -> bytes of the result of each such operation in a compiled program, largest first.

    None is in a loop: the loss's chunks are summed on the device first (tests say so), so each is run once a step.
    """
    sizes_of: dict[str, list[int]] = {}
    for match in COLLECTIVE.finditer(text):
        size = sum(
            ITEM_BYTES[array["kind"]] * math.prod(int(n) for n in array["dims"].split(",") if n)
            for array in ARRAY.finditer(match["out"])
        )
        sizes_of.setdefault(match["kind"], []).append(size)
    return {kind: sorted(sizes, reverse=True) for kind, sizes in sizes_of.items()}


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


def sent(row: dict[str, Any]) -> int:
    """Bytes that a ring sends of them, but for its (n - 1) / n: a sum goes round twice."""
    return exchanged(row) + sum(map(int, row["collectives"].get("all-reduce", [])))


def on_paper(rows: list[dict[str, Any]], batch: int) -> str:
    """The model's table, from the figures of 8 devices of one process."""
    lines = []
    for row in rows:
        if (row["processes"], row["devices"]) != (1, 8):
            continue
        moved = needed_bytes(row)
        for name, most in (("TPU v5e", 32), ("H100 SXM", 4)):
            chip = CHIPS[name]
            for count in [n for n in (1, 4, 32) if n <= most]:
                times = step_seconds(chip, count, row["flops"], moved, sent(row), row["feature_bytes"])
                photos = count * chip.per_host * batch
                lines.append(
                    [
                        row["case"],
                        f"{count * chip.per_host} x {name}",
                        count,
                        *(f"{1e3 * times[part]:.3f}" for part in ("work", "sum", "feed", "resident", "fed")),
                        f"{photos / times['resident']:.3g}",
                        f"{photos / times['fed']:.3g}",
                    ]
                )
    heads = ["head, loss", "chips", "hosts", "work, ms", "sum, ms", "feed, ms", "step, features resident, ms"]
    return table([*heads, "step, fed by the host, ms", "photos/s, resident", "photos/s, fed"], lines)


def needed_bytes(row: dict[str, Any]) -> float:
    """Bytes that a device must move: its arguments once, its temporaries written and read.

    The CPU compiler's own count is of its own fusions and takes a loop for one round: it is kept in the JSON.
    """
    return float(row["argument_bytes"] + 2 * row["temp_bytes"])


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
