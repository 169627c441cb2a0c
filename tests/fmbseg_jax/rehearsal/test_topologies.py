"""Names of slices, what their compilers want, and errors of one line each."""

import platform
from typing import Any

import pytest

from fmbseg_jax.rehearsal import topologies
from fmbseg_jax.rehearsal.topologies import GPUS, TPUS, check_machine, environment, parse, target_config
from fmbseg_jax.training.chips import CHIPS
from labelgen.core.errors import UserError


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("v5e:16x16", ("v5e", (16, 16))),
        ("v4:2x2x4", ("v4", (2, 2, 4))),
        ("h100:8", ("h100", (8,))),
        ("b200:4x8", ("b200", (4, 8))),
    ],
)
def test_names(name: str, parts: tuple[str, tuple[int, ...]]) -> None:
    assert parse(name) == parts


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v9:2x2", "no such chip; TPUs are v4, v5e, v5p, v6e"),
        ("", "GPUs a100, h100, h200, b200"),
        ("v5e", "write it like v5e:16x16"),
        ("v5e:2x2x2", "write it like v5e:16x16"),
        ("v5p:4x4", "write it like v5p:4x4x4"),
        ("h100:0", "write it like h100:4x8"),
        ("h100:1x2x3", "write it like h100:4x8"),
    ],
)
def test_wrong_names_are_a_line(name: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        parse(name)
    assert str(error.value).startswith(f"--topology={name}: ") and said in str(error.value)


def test_every_family_has_its_published_figures() -> None:
    kinds = [*TPUS.values(), *(gpu.kind for gpu in GPUS.values())]
    assert {kind for kind in kinds if kind not in CHIPS} == set()
    assert {gpu.kind: CHIPS[gpu.kind].capacity for gpu in GPUS.values()} == {g.kind: g.memory for g in GPUS.values()}
    assert all(0.5 < CHIPS[gpu.kind].memory / gpu.bandwidth < 1.1 for gpu in GPUS.values())
    assert all(CHIPS[kind].usable <= CHIPS[kind].capacity for kind in kinds)


def test_hosts_with_fewer_chips_have_that_part_of_the_links() -> None:
    half = CHIPS["NVIDIA H200"].in_hosts_of(4)
    assert (half.per_host, half.network, half.store, half.exchange) == (4, 200e9, 50e9, 450e9)


def test_a_card_is_written_as_the_plugin_reads_it() -> None:
    text = target_config(GPUS["h100"])
    assert "core_count: 132 " in text and "device_memory_size: 84942979072 " in text
    assert "cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }" in text
    assert text.endswith('device_description_str: "NVIDIA H100 80GB HBM3"')
    assert "ACCELERATED" not in target_config(GPUS["a100"])


def test_flags_of_ones_own_stay() -> None:
    assert environment("h100", {"XLA_FLAGS": "--mine"})["XLA_FLAGS"].startswith("--mine --xla_gpu_autotune_level=0")
    assert "XLA_FLAGS" not in environment("v5e", {"XLA_FLAGS": "--mine"})


@pytest.mark.parametrize(
    ("family", "system", "machine", "said"),
    [
        ("v5e", "Darwin", "arm64", "runs on Linux on x86_64, and this is Darwin on arm64"),
        ("v5e", "Linux", "aarch64", "runs on Linux on x86_64, and this is Linux on aarch64"),
        ("h100", "Windows", "AMD64", "runs on Linux on x86_64 or aarch64, and this is Windows on AMD64"),
        ("v6e", "Linux", "x86_64", "libtpu, which compiles for it, is not installed; in a virtual environment"),
        ("b200", "Linux", "aarch64", "jax_plugins.xla_cuda13, which compiles for it, is not installed"),
    ],
)
def test_machines_and_packages_that_are_needed(
    family: str, system: str, machine: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(topologies, "_installed", lambda package: False)
    with pytest.raises(UserError) as error:
        check_machine(family)
    assert said in str(error.value)


def test_what_is_not_installed_is_known_without_importing_it() -> None:
    assert topologies._installed("jax.numpy") and not topologies._installed("no_such.package")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("ABORTED: Internal error when accessing libtpu multi-process lockfile.", "another process holds libtpu"),
        (
            'INVALID_ARGUMENT: layout "v5e:3x3" is not divisible\nmore',
            '--topology=v5e:3x3: layout "v5e:3x3" is not div',
        ),
    ],
)
def test_what_libtpu_refuses_is_a_line(message: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**arguments: Any) -> None:
        raise topologies.jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(topologies.topologies, "get_topology_desc", refuse)
    with pytest.raises(UserError) as error:
        topologies.open_topology("v5e:3x3")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_what_is_asked_of_the_compilers() -> None:
    assert topologies._arguments("h100", (8,))["topology"] == "1x1x8"
    assert topologies._arguments("h100", (4, 8))["topology"] == "1x4x8"
    assert topologies._arguments("v5e", (2, 4))["chips_per_host_bounds"] == (2, 4, 1)
    assert topologies._arguments("v4", (2, 2, 1))["chip_config_name"] == "megacore"
    assert topologies._arguments("v5e", (16, 16)) == {"platform": "tpu", "topology_name": "v5e:16x16"}
