"""What a training step costs before it runs: parameters, bytes, operations, and which of them bounds it here."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

from fmbseg_jax.training.chips import CHIPS

_SIDE, _BYTES = 1024, 64 << 20


@dataclass(frozen=True)
class Cost:
    """Of one step on one device."""

    parameters: int
    argument_bytes: int
    stored_bytes: int
    """Of the arguments: a split that lives on the device; a step reads the few patches that it draws."""
    output_bytes: int
    temp_bytes: int
    flops: int
    """Of the matrix products."""
    peak_flops: float
    peak_bytes: float
    """A second."""

    @property
    def moved_bytes(self) -> int:
        """At least: every argument but the split and every temporary once there, every output once back."""
        return self.argument_bytes - self.stored_bytes + self.output_bytes + self.temp_bytes

    @property
    def bound(self) -> str:
        """What the device is busy with at best: `compute` or `memory`."""
        return "compute" if self.flops / self.peak_flops > self.moved_bytes / self.peak_bytes else "memory"

    @property
    def least_seconds(self) -> float:
        """A step cannot take less than this, by the peaks."""
        return max(self.flops / self.peak_flops, self.moved_bytes / self.peak_bytes)

    def __str__(self) -> str:
        sizes = (
            f"{_mb(self.argument_bytes)} of arguments, {_mb(self.output_bytes)} of outputs, "
            f"{_mb(self.temp_bytes)} of temporaries"
        )
        bound = f"bound by {self.bound}: {1000 * self.least_seconds:.2f} ms at best"
        work = f"{self.parameters / 1e6:.2f} M parameters; {sizes}; {self.flops / 1e9:.2f} GFLOP"
        return f"a step, on each device: {work}; {bound}"


def cost(step: Any, compiled: Any, arguments: tuple[Any, ...], devices: int) -> Cost:
    """step: the jitted function; compiled: of these arguments (state, batch, teacher); devices: that share its work."""
    memory = compiled.memory_analysis()
    peak_flops, peak_bytes = peaks(jax.local_devices()[0])
    return Cost(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(arguments[0].params)),
        argument_bytes=memory.argument_size_in_bytes,
        stored_bytes=arguments[1].stored_bytes // devices,
        output_bytes=memory.output_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        flops=matmul_flops(jax.make_jaxpr(step)(*arguments)) // devices,
        peak_flops=peak_flops,
        peak_bytes=peak_bytes,
    )


def matmul_flops(program: ClosedJaxpr | Jaxpr) -> int:
    """Operations of all matrix products of a program, loops in full, over all devices."""
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            total += _product(equation)
        inner = sum(map(matmul_flops, _inside(equation.params)))
        total += inner * _times(equation)
    return total


def _product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * int(np.prod(equation.outvars[0].aval.shape)) * int(np.prod([left[axis] for axis in contracted]))


def _inside(params: dict[str, Any]) -> list[Any]:
    """The programs that an equation runs; of a custom gradient the function itself."""
    if "fwd_jaxpr_thunk" in params or "jvp_jaxpr_fun" in params:
        return [params["call_jaxpr"]]
    values = [item for value in params.values() for item in (value if isinstance(value, (tuple, list)) else [value])]
    return [value for value in values if isinstance(value, (ClosedJaxpr, Jaxpr))]


def _times(equation: Any) -> int:
    """How often an equation runs what is inside it: the rounds of a scan, the devices of a shard_map."""
    if equation.primitive.name == "scan":
        return int(equation.params["length"])
    if equation.primitive.name == "shard_map":
        return int(np.prod([equation.params["mesh"].shape[axis] for axis in _split_over(equation)] or [1]))
    return 1


def _split_over(equation: Any) -> list[str]:
    """The mesh axes that some argument is split over."""
    parts = [part for spec in equation.params["in_specs"] for part in spec if part]
    return sorted({axis for part in parts for axis in ([part] if isinstance(part, str) else part)})


def peaks(device: jax.Device) -> tuple[float, float]:
    """(operations, bytes) a second of a device: published, or where it is not in the table this machine's, measured."""
    if device.device_kind in CHIPS:
        chip = CHIPS[device.device_kind]
        return chip.flops, chip.memory
    # numpy is as fast there as a device can be that is no accelerator, and needs no compiling.
    matrix, long = np.ones((_SIDE, _SIDE), np.float32), np.ones(_BYTES // 4, np.float32)
    product, copy = _fastest(lambda: matrix @ matrix), _fastest(lambda: long + 1)
    return 2 * _SIDE**3 / product, 2 * _BYTES / copy


def _fastest(function: Callable[[], Any]) -> float:
    """Seconds of the fastest of a few calls."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
