"""What pip would install for a GPU, by its own dry run: it must hold one CUDA and one cuDNN.

    python -m tools.gpu_plan                     # the pins of requirements.txt, jax with the extra that `cuda` names
    python -m tools.gpu_plan --extra=cuda12      # with another
    tools/new_system.sh FOLDER python3 -m tools.gpu_plan

Needs a package index and no GPU; nothing is installed but pip, in a temporary folder. PIP_INDEX_URL names the index,
else it is pip's own; pip's files of settings and other places for wheels are left out, for a CPU build of torch there
would go first. Ends with 2 where the plan holds two CUDAs or not one cuDNN.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from labelgen.core.command import command, parser
from labelgen.core.errors import UserError

ROOT = Path(__file__).parents[1]
_OTHER_PLACES = ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT")
Plan = Mapping[str, str]
"""Package -> version."""


def main(args: argparse.Namespace) -> int:
    """Prints both plans and what is wrong with that of both frameworks."""
    jax, torch = f"jax[{args.extra or own_extra()}]=={pin('jax')}", f"torch=={pin('torch')}"
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        alone, both = (resolved(Path(folder), *wanted) for wanted in ([torch], [jax, torch]))
    added = {name: version for name, version in both.items() if name not in alone}
    print(f"{torch}: {len(alone)} packages, {len(of_nvidia(alone))} of NVIDIA")
    print(f"{jax} adds {len(added)}, of NVIDIA {len(of_nvidia(added))}: " + listed(of_nvidia(added)))
    print("cuDNN: " + listed({name: version for name, version in both.items() if is_cudnn(name)}))
    if wrong := faults(both):
        raise UserError(f"{jax} {torch}: {'; '.join(wrong)}; take the extra of jax for torch's CUDA")
    print(f"one CUDA ({cudas(both).pop()}), one cuDNN")
    return 0


def pin(name: str) -> str:
    """The version that requirements.txt pins."""
    return str(re.findall(rf"^{name}==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)[0])


def own_extra() -> str:
    """The extra of jax that the extra `cuda` of pyproject.toml asks for."""
    (line,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["cuda"]
    return str(line).partition("[")[2].partition("]")[0]


def resolved(folder: Path, *wanted: str) -> dict[str, str]:
    """pip's plan for a new environment. UserError where it finds none; folder: a virtual environment with pip."""
    report = folder / "plan.json"
    settings = {name: value for name, value in os.environ.items() if name not in _OTHER_PLACES}
    flags = ["--quiet", "--disable-pip-version-check", "--dry-run", "--ignore-installed", f"--report={report}"]
    done = subprocess.run(
        [str(folder / "bin/python"), "-m", "pip", "install", *flags, *wanted],
        env={**settings, "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise UserError(f"pip has no plan for {' '.join(wanted)}: {done.stderr.strip() or 'no reason given'}")
    packages = (entry["metadata"] for entry in json.loads(report.read_text())["install"])
    return {package["name"]: package["version"] for package in packages}


def faults(plan: Plan) -> list[str]:
    """What must not be: two CUDAs, a library twice, no cuDNN."""
    found = []
    if len(cudas(plan)) > 1:
        found.append(f"CUDA {' and '.join(map(str, sorted(cudas(plan))))}")
    libraries = Counter(re.sub(r"-cu\d+$", "", name) for name in of_nvidia(plan))
    if twice := sorted(library for library, count in libraries.items() if count > 1):
        found.append(f"twice, and some into the same files: {', '.join(twice)}")
    if not any(map(is_cudnn, plan)):
        found.append(f"no cuDNN: torch {plan.get('torch')} is no CUDA build")
    return found


def cudas(plan: Plan) -> set[int]:
    """Major versions of CUDA: by the names that carry one, and by the runtime's version, whose name may not."""
    named = (re.search(r"^nvidia-.*-cu(\d+)$|^jax-cuda(\d+)-", name) for name in plan)
    runtimes = (version for name, version in plan.items() if name.startswith("nvidia-cuda-runtime"))
    return {int(match[1] or match[2]) for match in named if match} | {int(v.partition(".")[0]) for v in runtimes}


def of_nvidia(plan: Plan) -> dict[str, str]:
    """NVIDIA's own packages."""
    return {name: version for name, version in plan.items() if name.startswith("nvidia-")}


def is_cudnn(name: str) -> bool:
    """Whether the package brings libcudnn."""
    return name == "nvidia-cudnn" or name.startswith("nvidia-cudnn-cu")


def listed(plan: Plan) -> str:
    """`name version, ...`"""
    return ", ".join(f"{name} {version}" for name, version in sorted(plan.items())) or "none"


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m tools.gpu_plan`."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--extra", default="", metavar="NAME", help="of jax (default: the one that `cuda` names)")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
