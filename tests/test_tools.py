"""The scripts beside the tests, outside of CI: what they refuse before anything expensive begins."""

import os
import subprocess
from pathlib import Path

import pytest

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
