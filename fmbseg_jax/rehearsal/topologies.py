"""A name like v5e:16x16 or h100:4x8 to devices that nothing runs on, only compiles for."""

import importlib.util
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from fmbseg_jax.training.chips import CHIPS, Chip
from labelgen.core.errors import UserError

TPUS = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}
"""Family -> jax's device_kind."""


class Gpu(NamedTuple):
    """What the compiler asks of a card; bytes, and bytes a second."""

    kind: str
    """jax's device_kind."""
    capability: int
    """Major compute capability."""
    cores: int
    """Streaming multiprocessors."""
    units: int
    """Float32 units of each."""
    clock_ghz: float
    bandwidth: int
    memory: int
    cache: int
    """The second level's."""
    shared_a_core: int
    shared_a_block: int
    """At most, where a kernel asks for it."""


# Facts of the cards as the driver tells them; source: openxla/xla, xla/backends/gpu/target_config/specs: a100_sxm_80,
# h100_sxm, h200, b200 (.txtpb).
GPUS = {
    "a100": Gpu("NVIDIA A100-SXM4-80GB", 8, 108, 64, 1.41, 2039040000000, 85100068864, 41943040, 167936, 166912),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 9, 132, 128, 1.98, 3352320000000, 84942979072, 52428800, 233472, 232448),
    "h200": Gpu("NVIDIA H200", 9, 132, 128, 1.98, 4800000000000, 151397597184, 52428800, 233472, 232448),
    "b200": Gpu("NVIDIA B200", 10, 148, 128, 1.965, 7672320000000, 191514411008, 132644864, 233472, 232448),
}
_NAME = re.compile(r"(?P<family>\w+):(?P<sizes>[1-9]\d*(x[1-9]\d*)*)")
_GPU_FLAGS = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
"""Nothing can be tried out without a GPU, and Triton's products ask for that."""
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "4", "TPU_MIN_LOG_LEVEL": "4", "TPU_STDERR_LOG_LEVEL": "4"}
_INSTALL = "in a virtual environment of its own: pip install 'fmbseg-jax[rehearse]'"


@dataclass(frozen=True)
class Topology:
    """Devices of one kind."""

    name: str
    devices: Sequence[jax.Device]
    chip: Chip
    """With as many in a host as here."""

    @property
    def hosts(self) -> int:
        """How many there are."""
        return len({device.process_index for device in self.devices})

    @property
    def kind(self) -> str:
        """jax's device_kind."""
        return str(self.devices[0].device_kind)


def parse(name: str) -> tuple[str, tuple[int, ...]]:
    """(family, sizes). UserError for a name that is none."""
    parts = _NAME.fullmatch(name)
    family = parts["family"] if parts else name.partition(":")[0]
    if family not in TPUS and family not in GPUS:
        raise UserError(
            f"--topology={name}: no such chip; TPUs are {', '.join(TPUS)} (v5e:16x16 is 256 of them), "
            f"GPUs {', '.join(GPUS)} (h100:4x8 is 4 hosts of 8)"
        )
    sizes = tuple(map(int, parts["sizes"].split("x"))) if parts else ()
    wanted = {"v5e": "v5e:16x16", "v6e": "v6e:4x4", "v4": "v4:2x2x2", "v5p": "v5p:4x4x4"}.get(family, f"{family}:4x8")
    counts = (2,) if family in ("v5e", "v6e") else (3,) if family in TPUS else (1, 2)
    if len(sizes) not in counts:
        raise UserError(f"--topology={name}: not the shape of a {family} slice; write it like {wanted}")
    return family, sizes


def prepare(name: str) -> None:
    """What the compilers read of the environment, set; before jax does anything, as only a command can know.

    UserError for a wrong name, a machine that has no such compiler, or one without it installed.
    """
    family, _ = parse(name)
    check_machine(family)
    jax.config.update("jax_platforms", "cpu")  # type: ignore[no-untyped-call]
    os.environ.update(environment(family, os.environ))


def environment(family: str, now: Mapping[str, str]) -> dict[str, str]:
    """Variables to set. libtpu looks for a TPU machine's name and neighbours, and complains where there are none."""
    if family in TPUS:
        alone = {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}
        return {**_QUIET, "TPU_SKIP_MDS_QUERY": "1", **alone}
    return {**_QUIET, "XLA_FLAGS": f"{now.get('XLA_FLAGS', '')} {_GPU_FLAGS}".strip()}


def check_machine(family: str) -> None:
    """UserError unless the compiler for the family runs here and is installed."""
    here, machine = platform.system(), platform.machine()
    machines = ("x86_64",) if family in TPUS else ("x86_64", "aarch64")
    if here != "Linux" or machine not in machines:
        raise UserError(
            f"--topology={family}: its compiler runs on Linux on {' or '.join(machines)}, and this is {here} on "
            f"{machine}; rehearse on another machine, or in a container of that kind"
        )
    package = "libtpu" if family in TPUS else "jax_plugins.xla_cuda13"
    if not _installed(package):
        raise UserError(f"--topology={family}: {package}, which compiles for it, is not installed; {_INSTALL}")


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def open_topology(name: str) -> Topology:
    """The devices of a name; `prepare` comes first. UserError for a slice that there is not."""
    family, sizes = parse(name)
    try:
        devices: list[Any] = topologies.get_topology_desc(**_arguments(family, sizes)).devices
    except jax.errors.JaxRuntimeError as error:
        if "lockfile" in str(error):
            raise UserError(
                f"--topology={name}: another process holds libtpu, which serves one at a time; "
                "wait for it to end, or delete /tmp/libtpu_lockfile where there is none"
            ) from error
        said = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise UserError(f"--topology={name}: {said}; take a slice that is for rent") from error
    kind, hosts = devices[0].device_kind, len({device.process_index for device in devices})
    return Topology(name, devices, CHIPS[kind].in_hosts_of(len(devices) // hosts))


def _arguments(family: str, sizes: tuple[int, ...]) -> dict[str, Any]:
    if family in GPUS:
        hosts, each = sizes if len(sizes) == 2 else (1, *sizes)
        shape = {"topology": f"1x{hosts}x{each}", "target_config": target_config(GPUS[family])}
        return {"platform": "cuda", "topology_name": "", **shape}
    asked: dict[str, Any] = {"platform": "tpu", "topology_name": f"{family}:{'x'.join(map(str, sizes))}"}
    if family == "v4":  # as on a TPU: both cores of a chip are one device
        asked["chip_config_name"] = "megacore"
    if sizes in ((1, 1), (2, 4)):  # one machine has these alone; larger slices are of machines with four
        asked["chips_per_host_bounds"] = (*sizes, 1)
    return asked


def target_config(gpu: Gpu) -> str:
    """A card as XLA's GpuTargetConfigProto, in text."""
    kind = "feature_extension: ACCELERATED_FEATURES" if gpu.capability >= 9 else ""
    info = {
        "threads_per_block_limit": 1024,
        "threads_per_warp": 32,
        "shared_memory_per_block": 49152,
        "shared_memory_per_core": gpu.shared_a_core,
        "shared_memory_per_block_optin": gpu.shared_a_block,
        "threads_per_core_limit": 2048,
        "core_count": gpu.cores,
        "fpus_per_core": gpu.units,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 65535,
        "block_dim_limit_z": 65535,
        "thread_dim_limit_x": 1024,
        "thread_dim_limit_y": 1024,
        "thread_dim_limit_z": 64,
        "registers_per_core_limit": 65536,
        "registers_per_block_limit": 65536,
        "memory_bandwidth": gpu.bandwidth,
        "l2_cache_size": gpu.cache,
        "clock_rate_ghz": gpu.clock_ghz,
        "device_memory_size": gpu.memory,
        # those that the packages of the extra are of
        **dict.fromkeys(("driver_version", "runtime_version", "compile_time_toolkit_version"), '"13.0.0"'),
        "dnn_version": '"9.12.0"',
    }
    fields = " ".join(f"{name}: {value}" for name, value in info.items())
    capability = f"cuda_compute_capability {{ major: {gpu.capability} {kind} }}"
    ends = 'platform_name: "CUDA" dnn_version_info { major: 9 minor: 12 }'
    return f'gpu_device_info {{ {fields} {capability} }} {ends} device_description_str: "{gpu.kind}"'
