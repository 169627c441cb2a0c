"""What the readings of a training's programs mean on a slice: memory, bounds, photos a second, and what to set."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fmbseg_jax.rehearsal.programs import FED, RESIDENT, Readings, Shape, Split, check, split_on
from fmbseg_jax.rehearsal.topologies import Topology
from fmbseg_jax.runs.settings import TrainConfig
from fmbseg_jax.training.chips import step_seconds
from labelgen.core.command import columns
from labelgen.core.errors import UserError

SMALL = 1 << 16
"""Bytes of an array below which a collective is sums and norms; several of them are told as one."""


@dataclass(frozen=True)
class Findings:
    """A rehearsal's outcome."""

    settings: TrainConfig
    shape: Shape
    topology: Topology
    split: Split | None
    readings: Mapping[str, Readings]

    @property
    def copies(self) -> int:
        """Devices on the mesh's 'data' axis."""
        return len(self.topology.devices) // self.settings.mesh_model

    @property
    def step(self) -> Readings:
        """The step that a training would run: on the split where that fits."""
        return self.readings.get(RESIDENT) or self.readings[FED]

    def times(self) -> dict[str, float]:
        """Least seconds of the step by the published peaks (training.chips.step_seconds); "resident" and "fed" are
        those of a step whose features lie on the devices and of one that is fed."""
        fed, step = self.settings.feed.batch_size / self.copies * self.shape.row_bytes, self.step
        return step_seconds(self.topology.chip, self.topology.hosts, step.flops, step.moved_bytes, sent(step), fed)

    def bound(self) -> str:
        """What the step is bound by at best: compute, memory, exchange, or the feed."""
        times, chip, step = self.times(), self.topology.chip, self.step
        work = "compute" if step.flops / chip.flops > step.moved_bytes / chip.memory else "memory"
        work = "exchange" if times["sum"] > times["work"] else work
        return "feed" if RESIDENT not in self.readings and times["fed"] == times["feed"] else work

    def least_seconds(self) -> float:
        """Of the step that a training would run."""
        return self.times()["resident" if RESIDENT in self.readings else "fed"]

    def changes(self) -> list[str]:
        """What should be set otherwise, and to what."""
        found = [self._memory(name) for name in self.readings]
        return [*filter(None, found), *self._for_the_split()]

    def _memory(self, name: str) -> str:
        reading, usable = self.readings[name], self.topology.chip.usable
        if not reading.refused and reading.memory_bytes <= usable:
            return ""
        why = reading.refused or f"it needs {mega(reading.memory_bytes)} a chip and jax has {mega(usable)}"
        if name not in (FED, RESIDENT):
            return f"{name}: {why}; lower train.batch_size or eval.batch_size"
        fixes = ["head.dtype=bfloat16"] if self.settings.head.dtype == "float32" else []
        each = self.settings.feed.batch_size // self.copies
        fixes += [f"train.batch_size={self.copies * (each // 2)}"] if each > 1 else ["more of mesh.model"]
        return f"{name}: {why}; set {' or '.join(fixes)}"

    def _for_the_split(self) -> list[str]:
        split, share = self.split, self.settings.feed.resident_share
        if not split or split.fits or not share:
            return []
        if split.bytes is None:
            fields = fitting(self.settings, self.topology)
            shards = fields.get("train.virtual_shards", self.copies)
            return [f"train.virtual_shards={shards}, so that each chip has whole ones and the split can live there"]
        needed = math.ceil(100 * split.bytes / self.topology.chip.usable) / 100
        step = self.readings[FED]
        if split.bytes + step.memory_bytes <= self.topology.chip.usable:
            return [f"train.resident_share={needed}, so that the split lives on the chips"]
        return [f"nothing: the split takes {needed:.2f} of a chip's memory; more chips or photos fed as the steps go"]


def find(settings: TrainConfig, shape: Shape, topology: Topology, readings: Mapping[str, Readings]) -> Findings:
    """The readings with what they were taken of."""
    split = split_on(settings, shape, check(settings, shape, topology), topology)
    return Findings(settings, shape, topology, split, readings)


def fitting(settings: TrainConfig, topology: Topology) -> dict[str, int]:
    """Fields to set so that a batch is divided over the topology, and a split can live there; {} where they are."""
    feed, loss = settings.feed, settings.loss
    copies = max(1, len(topology.devices) // settings.mesh_model)
    batch = -(-feed.batch_size // copies) * copies
    whole = feed.virtual_shards % copies == 0 and batch % feed.virtual_shards == 0
    wanted = {
        "train.batch_size": (feed.batch_size, batch),
        "train.virtual_shards": (feed.virtual_shards, feed.virtual_shards if whole else copies),
    }
    if loss.loss == "t_supcon":
        wanted["train.supcon_samples"] = (loss.supcon_samples, max(loss.supcon_samples, batch))
    return {name: new for name, (old, new) in wanted.items() if new != old}


def fix(settings: TrainConfig, shape: Shape, topology: Topology) -> str:
    """Fields that make the settings work there, as the command line has them; empty where they do or none would."""
    try:
        check(settings, shape, topology)
    except UserError:
        return " ".join(f"--config.{name}={value}" for name, value in fitting(settings, topology).items())
    return ""


def sent(step: Readings) -> int:
    """Bytes that a ring sends for the collectives of a step, but for its (n - 1) / n: a sum goes round twice."""
    found = step.optimized.collectives if step.optimized else ()
    return sum(each.total * each.times * (2 if each.kind == "all-reduce" else 1) for each in found)


def mega(count: float) -> str:
    """Bytes in MB."""
    return f"{count / 1e6:,.1f} MB"


def text(found: Findings) -> str:
    """The report, but for its last line."""
    topology, settings = found.topology, found.settings
    lines = [
        f"{topology.name}: {len(topology.devices)} x {topology.kind} in {topology.hosts} hosts, mesh {found.copies} x "
        f"{settings.mesh_model}, {settings.feed.batch_size} photos a step, {settings.head.blocks} blocks, "
        f"{settings.head.dtype}, {settings.loss.loss}",
        f"a chip has {mega(topology.chip.capacity)}, jax {mega(topology.chip.usable)} of them",
        "",
        _table(found.readings),
        "",
        *(f"{name}: {exchanged(reading)}" for name, reading in found.readings.items()),
        "",
        _split_line(found),
        *_step_lines(found),
        *(f"change: {change}" for change in found.changes() or ["nothing must be"]),
    ]
    return "\n".join(lines)


def _table(readings: Mapping[str, Readings]) -> str:
    heads = ["on each chip", *readings]
    rows: list[tuple[str, list[str]]] = [
        ("arguments", [mega(r.argument_bytes) for r in readings.values()]),
        ("  of them the split", [mega(r.stored_bytes) if r.stored_bytes else "" for r in readings.values()]),
        ("new outputs", [mega(r.output_bytes - r.reused_bytes) for r in readings.values()]),
        ("temporaries", [mega(r.temp_bytes) for r in readings.values()]),
        ("moved at least", [mega(r.moved_bytes) for r in readings.values()]),
        ("GFLOP", [f"{r.flops / 1e9:,.2f}" for r in readings.values()]),
        ("kernels", [str(sum(r.optimized.kernels.values())) if r.optimized else "" for r in readings.values()]),
        ("calls of the host", [str(len(r.optimized.host_calls)) if r.optimized else "" for r in readings.values()]),
        ("compiled in", [f"{r.compile_s:.1f} s" for r in readings.values()]),
    ]
    return columns(heads, [[name, *cells] for name, cells in rows], right=list(readings))


def exchanged(reading: Readings) -> str:
    """A program's collectives in words."""
    if reading.refused:
        return f"refused: {reading.refused}"
    found = reading.optimized.collectives if reading.optimized else ()
    large = Counter[str]()
    for each in found:
        if each.total > SMALL:
            parts = ", ".join(f"{kind} {mega(size)}" for kind, size in each.bytes.items() if size > SMALL)
            large[f"{each.kind} of {parts}"] += each.times
    small = [each for each in found if each.total <= SMALL]
    told = [what if times == 1 else f"{times} x {what}" for what, times in large.items()]
    if small:
        total = sum(each.total * each.times for each in small)
        told.append(f"{sum(each.times for each in small)} small ({total:,} B)")
    return "; ".join(told) or "nothing exchanged"


def _split_line(found: Findings) -> str:
    split, share = found.split, found.settings.feed.resident_share
    if not split:
        return "the split: photos=… of --shape is not given, so whether it fits is not known"
    if split.bytes is None:
        return (
            f"the split: {found.copies} chips have no whole ones of {found.settings.feed.virtual_shards} virtual shards"
        )
    place = "lives on the chips" if split.fits else "does not fit, rows are fed"
    return f"the split: {mega(split.bytes)} a chip, train.resident_share={share} allows {mega(split.allowed)}: {place}"


def _step_lines(found: Findings) -> list[str]:
    if found.step.refused:
        return []
    times, photos = found.times(), found.settings.feed.batch_size
    least = found.least_seconds()
    return [
        f"a step: bound by {found.bound()}, {1e3 * least:.3f} ms at best, so at most {photos / least:,.0f} photos/s",
        f"  by published peaks: work {1e3 * times['work']:.3f} ms, exchange {1e3 * times['sum']:.3f} ms, feed "
        f"{1e3 * times['feed']:.3f} ms where rows are fed",
        "  launches and collectives take some 10 us each on top of that",
    ]


def as_json(found: Findings) -> dict[str, Any]:
    """The same for a program to read."""
    topology, split = found.topology, found.split
    step = {} if found.step.refused else _step_json(found)
    return {
        "topology": topology.name,
        "device_kind": topology.kind,
        "chips": len(topology.devices),
        "hosts": topology.hosts,
        "mesh": {"data": found.copies, "model": found.settings.mesh_model},
        "batch_size": found.settings.feed.batch_size,
        "chip": {"capacity": topology.chip.capacity, "usable": topology.chip.usable},
        "programs": {name: _reading_json(reading) for name, reading in found.readings.items()},
        "split": split and {**split._asdict(), "fits": split.fits},
        "step": step,
        "change": found.changes(),
    }


def _step_json(found: Findings) -> dict[str, Any]:
    least = found.least_seconds()
    rate = found.settings.feed.batch_size / least
    return {"bound": found.bound(), "least_seconds": least, "photos_per_second": rate, "seconds": found.times()}


def _reading_json(reading: Readings) -> dict[str, Any]:
    fields = {name: value for name, value in vars(reading).items() if name not in ("optimized", "text")}
    inside = reading.optimized
    if not inside:
        return fields
    return {
        **fields,
        "collectives": [each._asdict() for each in inside.collectives],
        "kernels": inside.kernels,
        "host_calls": list(inside.host_calls),
        "reused_arguments": inside.reused,
        "loops_without_count": inside.unknown_loops,
    }
