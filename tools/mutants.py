"""How much the tests catch: a room's code is changed in one place at a time, and its own tests are run.

    python -m tools.mutants --rooms=presence,losses --mutants=40 --out=build/mutants.json

A mutant is another operator, comparison, constant or condition in one place of a file, by Cosmic Ray's operators; of
the places at most one each is drawn, by --seed. It is killed when a test fails or does not end, or when the file cannot
be imported. Those that survive are printed with their lines: a test is missing, or the change is harmless. The tree is
copied before (what is committed, and what is not yet), so that it can be edited meanwhile. Wants
`pip install cosmic-ray`.

Each mutant's tests run in a child of a process that has imported numpy and pytest: some seconds.
"""

import argparse
import difflib
import importlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from labelgen.core.command import columns, command, parser, whole
from labelgen.core.errors import UserError
from labelgen.core.files import write_json
from labelgen.core.progress import Progress

ROOT = Path(__file__).parents[1]
LABELS, DATA, TRAINING = "tests/labelgen/labels/test_", "tests/labelgen/data/test_", "tests/fmbseg_jax/training/test_"


class Room(NamedTuple):
    """A file, and the tests that are to catch what is wrong with it."""

    file: str
    tests: tuple[str, ...]


PRELOAD = ("numpy", "pytest", "PIL.Image", "ml_collections")
"""Imported once. Not jax, which reads what tests/conftest.py sets in the environment when it is imported."""
ROOMS = {
    "presence": Room(
        "labelgen/labels/presence.py", tuple(LABELS + n for n in ("presence.py", "calibration.py", "label.py"))
    ),
    "free_labels": Room("labelgen/labels/free_labels.py", tuple(LABELS + n for n in ("label.py", "coverage.py"))),
    "scores": Room("labelgen/labels/scores.py", (LABELS + "metrics.py", LABELS + "truth.py")),
    "rle": Room("labelgen/data/rle.py", (DATA + "rle.py",)),
    "records": Room("labelgen/data/records.py", (DATA + "records.py",)),
    "tfrecord": Room("labelgen/data/tfrecord.py", (DATA + "tfrecord.py",)),
    "shards": Room("labelgen/data/shards.py", (DATA + "shards.py", "tests/labelgen/stages/test_workers.py")),
    "losses": Room("fmbseg_jax/training/losses.py", (TRAINING + "losses.py", TRAINING + "chunks.py")),
    "step": Room("fmbseg_jax/training/step.py", (TRAINING + "step.py",)),
    "feed": Room("fmbseg_jax/training/feed.py", (TRAINING + "feed.py",)),
    "resident": Room("fmbseg_jax/training/device_batches.py", (TRAINING + "resident.py",)),
    "label_maps": Room("fmbseg_jax/inference/label_maps.py", ("tests/fmbseg_jax/inference/test_segment.py",)),
    "tally": Room(
        "fmbseg_jax/reporting/evaluation.py",
        tuple(f"tests/fmbseg_jax/reporting/test_{n}.py" for n in ("outside_metric", "protocol", "readings")),
    ),
    "checkpoint": Room(
        "fmbseg_jax/runs/checkpoint.py", ("tests/fmbseg_jax/runs/test_checkpoint.py",)
    ),
}  # fmt: skip
KINDS = (
    *("ReplaceBinaryOperator", "ReplaceComparisonOperator", "ReplaceUnaryOperator", "NumberReplacer", "AddNot"),
    *(
        "ReplaceTrue",
        "ReplaceFalse",
        "ReplaceAnd",
        "ReplaceOr",
        "ReplaceBreak",
        "ReplaceContinue",
        "ZeroIterationForLoop",
    ),
)
"""How Cosmic Ray's operators begin that change operators, comparisons, constants, conditions and loops."""
PATIENCE = 5
"""A mutant's tests may take so many times what they take on the code as it is, and ten seconds."""
UNEXPECTED = 4
"""pytest's exit code of a test that cannot even be imported."""
OURS = ("labelgen", "fmbseg_jax", "pocket", "benchmarks", "experiments", "tools", "tests")


class Mutant(NamedTuple):
    """One change: where, by which operator, and the file's new text."""

    line: int
    operator: str
    code: str


def main(args: argparse.Namespace) -> int:
    """Draw mutants of each room, run its tests on each, print who survived."""
    rooms = _asked(args.rooms)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        tree = _copy(Path(folder) / "tree")
        for name, room in rooms.items():
            results[name] = _results(tree, name, room, args.mutants, args.seed)
            write_json(Path(args.out), {"seed": args.seed, "rooms": results})
    heads = ("room", "mutants", "killed", "share")
    rows = [
        (n, str(r["mutants"]), str(r["killed"]), f"{r['killed'] / max(1, r['mutants']):.2f}")
        for n, r in results.items()
    ]
    print(columns(heads, rows, heads[1:]))
    survivors = sum(r["mutants"] - r["killed"] for r in results.values())
    print(f"wrote {args.out}: {survivors} survivors with their lines; next: a test for each, or why it is harmless")
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(__doc__, config=False)
    options.add_argument("--rooms", default="", metavar="NAME,…", help=f"of {', '.join(ROOMS)}; default: all")
    options.add_argument("--mutants", type=whole(1), default=40, help="a room (default: %(default)s)")
    options.add_argument("--seed", type=int, default=0, help="which are drawn (default: %(default)s)")
    options.add_argument(
        "--out", default="build/mutants.json", help="where to write who survived (default: %(default)s)"
    )
    return options


def _asked(names: str) -> dict[str, Room]:
    unknown = [name for name in names.split(",") if name and name not in ROOMS]
    if unknown:
        raise UserError(f"--rooms={names}: {', '.join(unknown)} is none of {', '.join(ROOMS)}")
    return {name: ROOMS[name] for name in names.split(",") if name} or ROOMS


def _copy(tree: Path) -> Path:
    """The files that git knows, or would take, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    return tree


def _results(tree: Path, name: str, room: Room, count: int, seed: int) -> dict[str, Any]:
    """How many of a room's mutants were killed, and the differences that survived."""
    path = tree / room.file
    original = path.read_text(encoding="utf-8")
    started = time.monotonic()
    if code := _tested(tree, room, None):
        raise UserError(
            f"{', '.join(room.tests)}: fail (pytest's exit code {code}) on the code as it is; mend them first"
        )
    limit = PATIENCE * (time.monotonic() - started) + 10
    mutants = drawn(original, count, seed)
    survivors = []
    progress = Progress(len(mutants), "mutants", name)
    for mutant in mutants:
        path.write_text(mutant.code, encoding="utf-8")
        if _tested(tree, room, limit) == 0:
            survivors.append(
                {"line": mutant.line, "operator": mutant.operator, "change": _change(original, mutant.code)}
            )
            progress.note(f"{room.file}:{mutant.line} survived: {survivors[-1]['change']}")
        progress.add(1)
    progress.close()
    path.write_text(original, encoding="utf-8")
    return {"file": room.file, "mutants": len(mutants), "killed": len(mutants) - len(survivors), "survivors": survivors}


def drawn(code: str, count: int, seed: int) -> list[Mutant]:
    """`count` mutants of a file's text, each in a place of its own, in the order of the lines; fewer where there are no
    more places. Annotations are no places: nothing runs there."""
    ast, mutate_code, plugins = _cosmic_ray()
    nodes = list(ast.ast_nodes(ast.get_ast(code)))
    annotated = {leaf.start_pos for node in nodes for leaf in _annotation(ast, node)}
    operators = {name: plugins.get_operator(name)() for name in plugins.operator_names() if _is_drawn(name)}
    places: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for name, operator in sorted(operators.items()):
        starts = (start for node in nodes for start, _ in operator.mutation_positions(node))
        for occurrence, start in enumerate(starts):
            if start not in annotated:
                places.setdefault(start, []).append((name, occurrence))
    rng = random.Random(seed)
    mutants = []
    for place in sorted(rng.sample(sorted(places), min(count, len(places)))):
        name, occurrence = rng.choice(places[place])
        mutants.append(Mutant(place[0], name.partition("/")[2], mutate_code(code, operators[name], occurrence)))
    return mutants


def _cosmic_ray() -> tuple[Any, Any, Any]:
    try:
        names = ("ast", "mutating", "plugins")
        ast, mutating, plugins = (importlib.import_module(f"cosmic_ray.{name}") for name in names)
    except ImportError as error:
        raise UserError(f"Cosmic Ray makes the mutants ({error}); pip install cosmic-ray") from error
    return ast, mutating.mutate_code, plugins


def _is_drawn(operator: str) -> bool:
    return operator.partition("/")[2].startswith(KINDS)


def _annotation(ast: Any, node: Any) -> Iterator[Any]:
    """The nodes of an annotation, where the node of a parso tree has one."""
    children = getattr(node, "children", [])
    if node.type == "tfpdef":
        yield from ast.ast_nodes(children[2])
    elif node.type == "annassign":
        yield from ast.ast_nodes(children[1])
    elif node.type == "funcdef" and node.annotation is not None:
        yield from ast.ast_nodes(node.annotation)


def _change(before: str, after: str) -> str:
    """The lines that differ: `was => is`."""
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm=""))[3:]
    was, now = (" ".join(line[1:].strip() for line in lines if line[:1] == sign) for sign in "-+")
    return f"{was} => {now}"


def _tested(tree: Path, room: Room, limit: float | None) -> int:
    """pytest's exit code of a room's tests, in a child that has PRELOAD from its parent; limit: seconds to wait."""
    for name in PRELOAD:
        importlib.import_module(name)
    child = os.fork()
    if not child:
        _run_tests(tree, room.tests)
    deadline = time.monotonic() + limit if limit else None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if deadline and time.monotonic() > deadline:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return -signal.SIGKILL
        time.sleep(0.05)


def _run_tests(tree: Path, tests: Sequence[str]) -> NoReturn:
    """In the child: pytest on the copied tree, silent."""
    code = UNEXPECTED
    try:
        os.setsid()
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(silence, stream)
        for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
            del sys.modules[name]
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        sys.dont_write_bytecode = True
        pytest = importlib.import_module("pytest")
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
    finally:
        os._exit(code)


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
