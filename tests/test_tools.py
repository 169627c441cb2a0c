"""The scripts beside the tests, outside of CI: what they refuse before anything expensive begins."""

import os
import subprocess
from pathlib import Path

import pytest

from tools import gpu_plan

ROOT = Path(__file__).parents[1]


def refused(*command: str) -> str:
    """What a script says that ends with 2 at once."""
    done = subprocess.run(["bash", *command], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and not done.stdout, done.stderr
    return done.stderr


def test_a_new_system_wants_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "name a folder: tools/new_system.sh FOLDER" in refused("tools/new_system.sh")
    (tmp_path / "debootstrap").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "debootstrap").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    said = refused("tools/new_system.sh", str(tmp_path))
    assert (f"{tmp_path} is not empty; name another folder" if os.geteuid() == 0 else "run it with sudo") in said
    assert (tmp_path / "debootstrap").exists()


def test_the_newest_jax_wants_a_newer_python(tmp_path: Path) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.11.7\nexit 1\n')
    (tmp_path / "python").chmod(0o700)
    assert "Python 3.11.7: name 3.12 or newer" in refused("tools/newest_jax.sh", str(tmp_path / "python"))


TORCH = {"torch": "2.13.0", "nvidia-cuda-runtime": "13.0.96", "nvidia-cudnn-cu13": "9.20.0.48", "nvidia-cufft": "12.0"}
CUDA13 = {"jax-cuda13-plugin": "0.10.2", "nvidia-nvvm": "13.5.37"}
CUDA12 = {"jax-cuda12-plugin": "0.10.2", "nvidia-cuda-runtime-cu12": "12.9", "nvidia-cudnn-cu12": "9.28"}


def test_a_plan_for_a_gpu_holds_one_cuda_and_one_cudnn() -> None:
    assert gpu_plan.faults(TORCH | CUDA13) == []
    assert gpu_plan.faults(TORCH | CUDA12) == [
        "CUDA 12 and 13",
        "twice, and some into the same files: nvidia-cuda-runtime, nvidia-cudnn",
    ]
    assert gpu_plan.faults(TORCH | {"nvidia-cuda-runtime": "14.0.1"} | CUDA13) == ["CUDA 13 and 14"]
    assert gpu_plan.faults({"torch": "2.13.0+cpu"}) == ["no cuDNN: torch 2.13.0+cpu is no CUDA build"]


def test_the_plan_is_of_the_pins_and_of_the_extra_cuda() -> None:
    assert gpu_plan.own_extra() == "cuda13"
    assert f"torch=={gpu_plan.pin('torch')}\n" in (ROOT / "requirements.txt").read_text()
