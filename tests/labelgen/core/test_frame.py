"""What every command does when its reader leaves, its output's disk is full, or Ctrl-C comes while it is starting."""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from labelgen.core.command import command, command_line, config_flags, parser, whole
from tests.worlds.paths import ROOT

DOC = "Prints.\n\n    python -m some.command --lines=3\n\nAnd explains itself.\n"
PRINTS = f"""
import sys
from labelgen.core.command import command, parser
def main(args):
    for i in range(args.lines):
        print("a line of some length")
    print("done", file=sys.stderr)
    return 0
flags = parser({DOC!r}, config=False)
flags.add_argument("--lines", type=int, default=1)
sys.exit(command(main, flags))
"""


def printing(stdout: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = [sys.executable, "-c", PRINTS, *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(code, cwd=ROOT, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True)


@pytest.fixture(name="nobody")
def nobody_fixture() -> int:
    """The end of a pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    return write


def test_a_reader_that_left_before_the_last_lines_is_no_mistake(nobody: int) -> None:
    assert (printing(nobody).returncode, printing(nobody).stderr) == (141, "done\n")


def test_a_reader_that_leaves_early_ends_the_command_in_one_line(nobody: int) -> None:
    ended = printing(nobody, "--lines=100000")
    assert ended.returncode == 141
    assert ended.stderr == (
        "stopped: nobody reads what it prints (to keep that: > FILE); nothing is half written; "
        "the same command begins again\n"
    )


def test_help_into_a_closed_pipe_is_silent(nobody: int) -> None:
    assert (printing(nobody, "--help").returncode, printing(nobody, "--help").stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("lines", ["1", "100000"])
def test_a_full_disk_under_the_output_is_one_line(lines: str) -> None:
    with open("/dev/full", "w") as full:
        ended = printing(full.fileno(), f"--lines={lines}")
    assert ended.returncode == 2
    wanted = "error: what it prints cannot be written: No space left on device; send it to another place"
    assert ended.stderr.splitlines()[-1] == wanted and "Traceback" not in ended.stderr


PACKAGES = ("labelgen", "fmbseg_jax", "pocket")
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if path.read_text().endswith("(command(main, arguments()))\n")
)


@pytest.mark.parametrize("name", COMMANDS)
def test_ctrl_c_while_a_command_is_imported_is_silent(name: str, tmp_path: Path) -> None:
    """argparse, which all import, is one here that takes its time; the shell says 130 of one ended by SIGINT."""
    (tmp_path / "argparse.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    code = [sys.executable, "-m", name, "--help"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    starting = subprocess.Popen(code, cwd=ROOT, env=environment, text=True, **pipes)  # type: ignore[call-overload]
    assert starting.stdout and starting.stdout.readline() == "begun\n"
    time.sleep(0.05)
    starting.send_signal(signal.SIGINT)
    assert starting.communicate() == ("", "") and starting.returncode == -signal.SIGINT


IMPORTS_ALL = f"""
import importlib, pkgutil, signal
before = [signal.getsignal(number) for number in signal.valid_signals()]
for package in map(importlib.import_module, {PACKAGES}):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
assert [signal.getsignal(number) for number in signal.valid_signals()] == before
"""


def test_no_import_changes_what_a_signal_does(tmp_path: Path) -> None:
    """Neither in a program, nor in a package that `python -m` looks for a command in."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/__init__.py").write_text(IMPORTS_ALL)
    (tmp_path / "theirs/program.py").write_text(IMPORTS_ALL + "print('done')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    code = [sys.executable, "-m", "theirs.program"]
    ended = subprocess.run(code, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ended.stdout == "done\n", ended.stderr


def test_ctrl_c_that_is_ignored_stays_ignored() -> None:
    """As in a shell's background."""
    code = "import signal\nfrom labelgen.core import interrupt\ninterrupt.silent()\n"
    code += "print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)"
    shell = ["bash", "-c", 'trap "" INT; exec "$@"', "", sys.executable, "-c", code]
    ended = subprocess.run(shell, cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout == "True\n", ended.stderr


def test_help_is_the_text_then_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        command(lambda args: 0, parser(DOC, config=False), ["--help"])
    out = capsys.readouterr().out
    assert out.startswith(DOC + "\nusage: python -m some.command [-h]\n\noptions:\n")


def test_whole_numbers_have_a_least() -> None:
    assert whole(1)("3") == 3 and whole(0)("0") == 0
    for text in ("0", "-1", "1.5", "x", ""):
        with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}': a whole number, 1 or more"):
            whole(1)(text)


def test_the_next_command_has_what_was_set() -> None:
    args = argparse.Namespace(config="a.py", overrides=["x.y=1", "z=2"])
    assert config_flags(args) == ["--config=a.py", "--config.x.y=1", "--config.z=2"]
    assert config_flags(args, "x.y") == ["--config=a.py", "--config.z=2"]


def test_a_home_is_found_in_every_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = parser(DOC, config=True)
    for name in ("--out", "--words"):
        flags.add_argument(name)
    flags.add_argument("--folder", type=Path)
    flags.add_argument("runs", nargs="*")
    seen: dict[str, object] = {}

    def main(args: argparse.Namespace) -> int:
        seen.update(vars(args))
        return 0

    given = ["--config=~/c.py:small", "--out=~/x", "--words=a~b", "--folder=~/p", "~/run1", "run~2", "~"]
    assert command(main, flags, given) == 0
    assert seen["config"] == f"{tmp_path}/c.py:small" and seen["out"] == f"{tmp_path}/x" and seen["words"] == "a~b"
    assert seen["folder"] == tmp_path / "p" and seen["runs"] == [f"{tmp_path}/run1", "run~2", str(tmp_path)]


@pytest.mark.parametrize("value", ["my photos", "it's", "a&b;c|d", '$HOME `x` "y"', "Größe 1", "~/x", "", "*", "a=b c"])
def test_a_command_that_a_line_names_is_taken_by_a_shell_as_it_was_given(value: str) -> None:
    arguments = [f"--out={value}", value, f"--config.photos.root={value}"]
    line = command_line("labelgen.run", *arguments)
    assert shlex.split(line) == ["python", "-m", "labelgen.run", *arguments]
    told = subprocess.run(["sh", "-c", line.replace("python -m", "printf '%s\\0'")], capture_output=True, check=True)
    assert told.stdout.decode().split("\0")[1:-1] == arguments


def test_a_value_alone_is_quoted() -> None:
    line = command_line("fmbseg_jax.train", "--config=my photos.py", "--data=DATA", "--workdir=run 1")
    assert line == "python -m fmbseg_jax.train --config='my photos.py' --data=DATA --workdir='run 1'"
