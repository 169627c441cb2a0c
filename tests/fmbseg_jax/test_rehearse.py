"""The command, with the real compilers."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fmbseg_jax import rehearse
from labelgen.core.command import command
from tests.worlds.compilers import COMPILERS, compiled
from tests.worlds.paths import ROOT
from tests.worlds.synthetic import write_data

SHAPE = "--shape=D=128,grid=9x9,E=64,classes=5,photos=2048"


def rehearsed(topology: str, *more: str) -> subprocess.CompletedProcess[str]:
    """The command where the compilers are."""
    line = ["--config=configs/default.py", f"--topology={topology}", *more]
    return compiled("fmbseg_jax.rehearse", topology, *line)


@COMPILERS
@pytest.mark.slow
@pytest.mark.parametrize(
    ("topology", "kind", "chips", "most_kernels"),
    [("v5e:2x2", "TPU v5 lite", 4, 52), ("h100:8", "NVIDIA H100 80GB HBM3", 8, 24)],
)
def test_a_slice_by_its_own_compiler(topology: str, kind: str, chips: int, most_kernels: int) -> None:
    done = rehearsed(topology, SHAPE, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [f"compiling {name}" for name in json.loads(done.stdout)["programs"]]
    told: dict[str, Any] = json.loads(done.stdout)
    assert (told["device_kind"], told["chips"], told["hosts"]) == (kind, chips, 1)
    assert list(told["programs"]) == ["train, fed", "train, resident", "held-out loss", "evaluate", "predict"]
    weights = 4 * (128 * 64 + 64)
    for name in ("train, fed", "train, resident"):
        program = told["programs"][name]
        assert [each["kind"] for each in program["collectives"]] == ["all-reduce"]
        sizes = [each["bytes"] for each in program["collectives"]]
        assert {kind for each in sizes for kind in each} == {"f32"}
        assert weights <= sum(each["f32"] for each in sizes) <= weights + 64
        assert program["host_calls"] == [] and program["reused_arguments"] == 9
        assert 5 < sum(program["kernels"].values()) <= most_kernels
    fed, resident = (told["programs"][name]["temp_bytes"] for name in ("train, fed", "train, resident"))
    assert told["split"]["bytes"] > 1 << 20
    assert resident - fed < told["split"]["bytes"] // 8, "a step takes its photos from the split and copies none of it"
    assert told["split"]["fits"] and told["step"]["photos_per_second"] > 0
    assert told["next"].endswith("--data=DATA --workdir=RUN")


@COMPILERS
@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "h100:8"])
def test_a_block_in_bfloat16_exchanges_float32_and_keeps_no_scores_of_all_pairs(topology: str) -> None:
    shape = "--shape=D=128,grid=37x37,E=64,classes=5"
    head = ["--config.head.blocks=1", "--config.head.heads=2", "--config.head.dtype=bfloat16"]
    done = rehearsed(topology, shape, "--json", "--config.train.batch_size=64", "--config.train.loss=t_supcon", *head)
    assert done.returncode == 0, done.stderr
    programs = json.loads(done.stdout)["programs"]
    exchanged = {kind for program in programs.values() for each in program["collectives"] for kind in each["bytes"]}
    assert exchanged <= {"f32", "s32", "pred"}
    kinds = [each["kind"] for each in programs["train, fed"]["collectives"] if each["bytes"].get("f32", 0) >= 1 << 15]
    assert sorted(kinds) == ["all-gather", "all-reduce", "reduce-scatter"]
    all_pairs = 8 * 2 * (37 * 37) ** 2 * 4  # 8 photos, 2 heads, float32
    assert {
        name: program["temp_bytes"] for name, program in programs.items() if program["temp_bytes"] > all_pairs
    } == {}


@COMPILERS
@pytest.mark.slow
def test_settings_that_cannot_work_there_are_trains_error_and_what_would(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    done = rehearsed("h100:4x8", f"--data={data}", "--config.train.batch_size=16")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines() == [
        "for h100:4x8 set --config.train.batch_size=32 --config.train.virtual_shards=32",
        "error: train.batch_size=16 cannot be divided over 32 devices; set it to a multiple, or mesh.data to a divisor",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([SHAPE, "--topology=v9:2x2"], "error: --topology=v9:2x2: no such chip; TPUs are v4, v5e, v5p, v6e "),
        (["--shape=D=1", "--topology=h100:8"], "error: --shape=D=1: not the shape of a DATA; write it like D=1024"),
        (["--data=/nowhere", "--topology=h100:8"], "error: /nowhere"),
        ([SHAPE, "--data=x", "--topology=h100:8"], "error: argument --data: not allowed with argument --shape"),
    ],
)
def test_what_is_wrong_is_a_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = [f"--config={ROOT / 'configs/default.py'}", *arguments]
    try:
        code: Any = command(rehearse.main, rehearse.arguments(), line)
    except SystemExit as left:
        code = left.code
    error = capsys.readouterr().err
    assert code == 2 and error.startswith(said) and error.count("\n") == 1
