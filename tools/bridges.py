"""The tools that people have open, with their real packages: the tests of fmbseg_jax/bridges where these are there.

    python -m tools.bridges --out=build/bridges
    python -m tools.bridges --out=build/bridges --only=label-studio --label_studio_ml=FOLDER

For each tool makes an environment in OUT (this one's packages and, before them, the tool's, pinned in TOOLS) and runs
its tests there; a test that is skipped is a failure. What a tool asks a server for is on this machine. Wants a package
index, and --label_studio_ml, a checkout of github.com/HumanSignal/label-studio-ml-backend, where GitHub cannot be
reached.
"""

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import NamedTuple

from labelgen.core.command import columns, command, names, parser
from labelgen.core.errors import UserError
from labelgen.core.progress import say

ROOT = Path(__file__).parents[1]
LABEL_STUDIO_ML = "git+https://github.com/HumanSignal/label-studio-ml-backend@d02cedf35d0e5d21f2f437c120174c62f66bf57a"


class Tool(NamedTuple):
    """Packages and tests."""

    packages: tuple[str, ...]
    """The first is the one whose version is told."""
    tests: str
    bare: tuple[str, ...] = ()
    """Installed without what they ask for."""


TOOLS = {
    "cvat": Tool(("cvat-sdk==2.80.0", "cvat-cli==2.80.0"), "test_cvat.py"),
    "supervision": Tool(("supervision==0.31.2",), "test_detections.py"),
    "fiftyone": Tool(("fiftyone==1.22.1",), "test_fields.py"),
    "label-studio": Tool(
        ("label-studio-sdk==2.1.2", "semver==3.0.4", "colorama==0.4.6"), "test_label_studio.py", (LABEL_STUDIO_ML,)
    ),
}


def main(args: argparse.Namespace) -> int:
    """Prints a line a tool."""
    unknown = [name for name in args.only if name not in TOOLS]
    if unknown:
        raise UserError(f"--only: no tool {unknown[0]!r}; there are {', '.join(TOOLS)}")
    rows, wrong = [], 0
    for name in args.only or TOOLS:
        python = environment(Path(args.out).absolute() / name, TOOLS[name], args.label_studio_ml)
        said, failed = tested(python, TOOLS[name].tests)
        rows.append((TOOLS[name].packages[0].replace("==", " "), said))
        wrong += failed
    print(columns(("package", "tests"), rows))
    if wrong:
        raise UserError(f"{wrong} of {len(rows)} tools have tests that fail or are skipped; their lines are above")
    return 0


def environment(folder: Path, tool: Tool, label_studio_ml: str) -> Path:
    """Its python; made once for these pins."""
    bare = tuple(label_studio_ml or each for each in tool.bare)
    wanted, done, python = "\n".join((*tool.packages, *bare)), folder / "installed.txt", folder / "bin/python"
    if done.is_file() and done.read_text() == wanted:
        return python
    say(f"installing {wanted.replace(chr(10), ', ')}")
    venv.create(folder, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile"]
    told = [[*pip, *tool.packages], *([*pip, "--no-deps", each] for each in bare)]
    for line in told:
        finished = subprocess.run(line, capture_output=True, text=True)
        if finished.returncode:
            raise UserError(f"{' '.join(line[:6])}: {finished.stderr.strip()[-500:]}")
    libraries = folder / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
    (libraries / "zz_this_environment.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # after its own
    done.write_text(wanted)
    return python


def tested(python: Path, tests: str) -> tuple[str, bool]:
    """(pytest's closing line, whether a test failed or was skipped)."""
    told = [str(python), "-m", "pytest", "-rsfE", "-p", "no:cacheprovider", f"tests/fmbseg_jax/bridges/{tests}"]
    quiet = {"FIFTYONE_DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1"}
    say(f"testing {tests}")
    done = subprocess.run(told, cwd=ROOT, env={**os.environ, **quiet}, capture_output=True, text=True)
    closing = next(
        (
            line.strip("= ")
            for line in reversed(done.stdout.splitlines())
            if re.search(r"\d+ (passed|failed|err)", line)
        ),
        f"exit code {done.returncode}",
    )
    failed = done.returncode != 0 or "skipped" in closing
    if failed:
        say(done.stdout[-5000:] + done.stderr[-2000:])
    return closing, failed


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m tools.bridges`."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--out", required=True, metavar="FOLDER", help="for the environments (2 GB)")
    flags.add_argument("--only", type=names, default=[], metavar="NAMES", help=f"of {','.join(TOOLS)}")
    flags.add_argument("--label_studio_ml", default="", metavar="FOLDER", help="a checkout (default: from GitHub)")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
