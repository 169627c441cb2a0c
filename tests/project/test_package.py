"""The package: a wheel has all that is needed, and what it asks for is what is tested together."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from PIL import Image

from fmbseg_jax.cli import COMMANDS
from labelgen.core.shipped import config_names
from tests.worlds.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ASKED_FOR = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
COMPILERS = {"libtpu", "jax-cuda13-plugin", "nvidia-cuda-nvcc", "nvidia-cudnn-cu13"}
"""The extra `rehearse`: of an environment beside the tests' own (tests/fmbseg_jax/test_rehearse.py)."""
NOT_TESTED = {"gcsfs", "jax[tpu]", "jax[cuda13]", *COMPILERS}
"""Asked for by extras of what no test here can reach: Google's buckets, TPUs, NVIDIA's GPUs; and the compilers."""
SMALL = ["--train=24", "--eval=8", "--held_out=8", "--config.train.steps=20", "--config.train.warmup_steps=5"]


def asked(lines: list[str]) -> dict[str, str]:
    """Package, with its extra -> version of the lines `package>=version` or `package==version`."""
    pairs = [re.split("[>=]=", line) for line in lines]
    return {re.sub("[-_.]+", "-", name.lower()): version for name, version in pairs}


def number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_requirements_pin_what_the_package_asks_for() -> None:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    pinned = asked(lines)
    wanted = asked(ASKED_FOR)
    assert set(wanted) - set(pinned) == NOT_TESTED
    assert set(pinned) - set(wanted) == set()
    assert {name: pin for name, pin in pinned.items() if number(pin) < number(wanted[name])} == {}


def test_nothing_is_asked_for_twice() -> None:
    assert len(asked(ASKED_FOR)) == len(ASKED_FOR)


@pytest.fixture(scope="module", name="installed")
def installed_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """bin/ of an environment outside of the checkout with the wheel in it; its dependencies are those of the tests."""
    home = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip"] if shutil.which("pip", path=str(Path(sys.executable).parent)) else ["pip"]
    source = home / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", f"--wheel-dir={home / 'dist'}", str(source)]
    subprocess.run(build, check=True, cwd=home)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home / "venv")], check=True)
    python = home / "venv/bin/python"
    (wheel,) = (home / "dist").glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)], check=True, cwd=home)
    (packages,) = (home / "venv/lib").glob("python*/site-packages")
    (packages / "tests_environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
    yield home / "venv/bin"
    shutil.rmtree(home)


def run(command: list[str], folder: Path) -> str:
    """What a command prints in an empty folder that is not the checkout's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_wheel_alone_runs_the_demo_and_a_segmenter(installed: Path, tmp_path: Path) -> None:
    said = run([str(installed / "fmbseg"), "demo", "--out=demo", *SMALL], tmp_path)
    assert (tmp_path / "demo/report/index.html").stat().st_size > 10_000
    assert "| head |" in said and "next: open demo/report/index.html" in said
    masks = sorted(path.name for path in (tmp_path / "demo/masks/masks").iterdir())
    assert masks == [f"{i:05}.png" for i in range(4)]
    again = ["predict", "--workdir=demo/run-labels-0", "--photos=demo/photos", "--out=masks", "--words=words.txt"]
    (tmp_path / "words.txt").write_text("grass\nball: ball, sphere\n")
    run([str(installed / "fmbseg"), *again], tmp_path)
    assert sorted(path.name for path in (tmp_path / "masks/masks").iterdir()) == masks
    three_lines = (
        "from fmbseg_jax import Segmenter\n"
        "result = Segmenter.restore('demo/run-labels-0')('demo/photos/00000.png', words=['grass', 'ball'])\n"
        "print(result.label_map.shape, __import__('fmbseg_jax').__file__)"
    )
    said = run([str(installed / "python"), "-c", three_lines], tmp_path)
    width, height = Image.open(tmp_path / "demo/photos/00000.png").size
    assert said.startswith(f"({height}, {width}) ") and str(installed.parent) in said


def test_the_wheel_finds_its_configs_from_anywhere(installed: Path, tmp_path: Path) -> None:
    names = [line.split()[0] for line in run([str(installed / "fmbseg"), "configs"], tmp_path).splitlines()]
    assert names == config_names() and {"voc", "pocket", "my_photos", "default"} <= set(names)
    own = run([str(installed / "fmbseg"), "configs", "my_photos"], tmp_path)
    (tmp_path / "own.py").write_text(own)
    load = (
        "from labelgen import load_config, read_words; c = load_config('{}'); print(len(read_words(c.ontology).names))"
    )
    assert run([str(installed / "python"), "-c", load.format("own.py")], tmp_path) == "7\n"
    assert run([str(installed / "python"), "-c", load.format("voc:voc20")], tmp_path) == "20\n"


@pytest.mark.parametrize("name", [name for name in sorted(COMMANDS) if COMMANDS[name].module.split(".")[0] != "pocket"])
def test_each_command_of_fmbseg_says_its_own_name(name: str) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "fmbseg_jax", name, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"usage: fmbseg {name} " in said.stdout


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_fmbseg_alone_lists_its_commands(arguments: list[str]) -> None:
    said = run([sys.executable, "-m", "fmbseg_jax", *arguments], ROOT)
    assert [name for name in COMMANDS if f"\n  {name:<12} " not in said] == []


def test_bash_completes_commands_flags_and_paths(tmp_path: Path) -> None:
    script = tmp_path / "fmbseg.bash"
    script.write_text(run([sys.executable, "-m", "fmbseg_jax", "completion", "bash"], ROOT))
    (tmp_path / "photos").mkdir()
    asked = f"""
        source {script}
        complete_last() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_fmbseg; echo "${{COMPREPLY[@]}}"; }}
        complete_last fmbseg tr
        complete_last fmbseg train --w
        complete_last fmbseg predict --photos ph
    """
    assert run(["bash", "-c", asked], tmp_path).split() == ["train", "--workdir", "photos"]


def test_a_command_that_there_is_not_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fmbseg_jax", "trian"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "error: trian: no such command; did you mean train?\n")


def test_importing_the_packages_changes_and_loads_nothing() -> None:
    code = (
        "import signal, sys; before = [signal.getsignal(s) for s in signal.valid_signals()]; known = set(sys.modules)\n"
        "import labelgen, fmbseg_jax\n"
        "assert before == [signal.getsignal(s) for s in signal.valid_signals()]\n"
        "print(sorted(m.split('.')[0] for m in set(sys.modules) - known if m.split('.')[0] in sys.argv[1:]))"
    )
    heavy = ["numpy", "jax", "torch", "torchvision", "flax", "orbax", "ml_collections"]
    said = subprocess.run([sys.executable, "-c", code, *heavy], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"


@pytest.mark.parametrize("package", ["labelgen", "fmbseg_jax"])
def test_every_public_name_is_there(package: str) -> None:
    module = __import__(package)
    assert module.__all__ == sorted(module.__all__)
    assert all(getattr(module, name).__doc__ for name in module.__all__)
