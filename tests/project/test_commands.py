"""Every command starts and explains itself; every config loads and is valid."""

import argparse
import importlib
import re
import subprocess
import sys
from typing import Any

import pytest

from labelgen.core.command import command
from labelgen.core.config import load_config, validate
from tests.worlds.paths import ROOT

ROOMS = ("labelgen", "fmbseg_jax", "pocket", "benchmarks", "experiments", "tools")
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for room in ROOMS
    for path in (ROOT / room).rglob("*.py")
    if path.name != "__main__.py" and 'if __name__ == "__main__"' in path.read_text()
)
PACKAGES = ("labelgen.", "fmbseg_jax.")
NOTHING_NEEDED = ["labelgen.configs"]  # without a name it lists them
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_and_begins_with_an_example(name: str) -> None:
    out = subprocess.run([sys.executable, "-m", name, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    text, usage, _ = out.stdout.partition(f"usage: python -m {name}")
    assert usage and len(out.stdout) > 200
    sentence, example = text.split("\n\n")[:2]
    assert sentence.endswith(".") and example.startswith(f"    python -m {name} ")


def needed(flags: argparse.ArgumentParser) -> list[str]:
    """What the command cannot do without."""
    required = [action for action in flags._actions if action.required]
    required += [group._group_actions[0] for group in flags._mutually_exclusive_groups if group.required]
    values = [next(iter(action.choices or "x")) for action in required]
    flagged = [f"{action.option_strings[0]}=" if action.option_strings else "" for action in required]
    return [flag + value for flag, value in zip(flagged, values, strict=True)]


def module(name: str) -> Any:
    return importlib.import_module(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_wrong_argument_is_one_clear_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = module(name).arguments()
    with pytest.raises(SystemExit, match="2"):
        command(module(name).main, flags, [*needed(flags), "--of-no-command=1"])
    error = capsys.readouterr().err
    assert error == f"error: unknown argument --of-no-command=1; python -m {name} --help has an example\n"


@pytest.mark.parametrize("name", [c for c in COMMANDS if c.startswith(PACKAGES) and c not in NOTHING_NEEDED])
def test_a_missing_argument_is_one_clear_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command(module(name).main, module(name).arguments(), [])
    error = capsys.readouterr().err
    assert re.match(r"error: the following arguments are required: (--\w+|[A-Z]+)", error) and error.count("\n") == 1


@pytest.mark.parametrize("name", NOTHING_NEEDED)
def test_what_lists_by_itself_needs_no_argument(name: str) -> None:
    assert not needed(module(name).arguments())


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_is_one_line_that_says_how_to_go_on(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    def main(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    flags = module(name).arguments()
    assert command(main, flags, needed(flags)) == 130
    said = capsys.readouterr().err
    assert said == f"interrupted; {flags.get_default('stopped')}\n" and "the same command" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_runs_in_the_common_frame(name: str) -> None:
    """Which ends Ctrl-C, a reader that leaves and a full disk in one line; `leave` ends what spans several hosts."""
    source = (ROOT / f"{name.replace('.', '/')}.py").read_text()
    assert source.endswith(
        ("    sys.exit(command(main, arguments()))\n", "    hosts.leave(command(main, arguments()))\n")
    )


@pytest.mark.parametrize("path", CONFIGS)
def test_config_loads(path: str) -> None:
    config = load_config(str(ROOT / path), [])
    validate(config)
    assert set(config) == set(load_config(str(ROOT / "configs/default.py"), []))
