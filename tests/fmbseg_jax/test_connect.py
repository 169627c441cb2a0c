"""The files that `connect` writes: they name RUN or DATA wherever they are started, in whatever letters."""

import ast
import os
from pathlib import Path
from typing import Any

import pytest

from fmbseg_jax import connect
from fmbseg_jax.bridges import answers
from labelgen.core.command import command

STARTED = {"cvat": "function.py", "label-studio": "_wsgi.py"}


def connected(*arguments: str) -> int:
    return command(connect.main, connect.arguments(), arguments)


def arguments_of(file: Path) -> dict[str, Any]:
    """The literal ARGUMENTS of a file; the file itself must be Python."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "ARGUMENTS":  # type: ignore[attr-defined]
            found: dict[str, Any] = ast.literal_eval(node.value)
            return found
    raise AssertionError(file.read_text())


@pytest.mark.parametrize("tool", connect.TOOLS)
def test_paths_are_absolute_and_kept_to_the_letter(
    tool: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "d\u00e4ta \U0001f600 'quoted' \"twice\" \\\\"
    (tmp_path / name).symlink_to(whole)
    monkeypatch.chdir(tmp_path)
    assert connected(f"--data={name}", f"--to={tool}", "--out=out") == 0
    found = arguments_of(tmp_path / "out" / STARTED[tool])
    assert found == {"data": str(tmp_path / name), "labels": "default"} and os.path.samefile(found["data"], whole)
    assert answers.open_labeller(**found).names == ("sky", "grass", "ball")


def test_urls_stay_urls() -> None:
    args = connect.arguments().parse_args(["--workdir=hf://a/b", "--to=cvat", "--out=x", "--background_threshold=0.5"])
    assert connect.reached_from_anywhere(args) == {"run": "hf://a/b", "background_threshold": 0.5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data=nowhere"], "nowhere/dataset.json: missing"),
        (["--workdir=nowhere"], "nowhere: no checkpoints in it"),
        (["--data=x", "--words=y"], "--words, --background_threshold and --weights_dir are for a RUN"),
    ],
)
def test_what_the_user_must_fix(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert connected(*arguments, "--to=cvat", f"--out={tmp_path / 'out'}") == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
