"""Who may import whom, read from the source of every file: one table of the project's rooms."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.worlds.paths import ROOT

LABELGEN = ("core", "data", "sources", "formats", "models", "labels", "stages")
FMBSEG_JAX = ("runs", "training", "inference", "rehearsal", "reporting", "predicting", "serving", "bridges")
LENT = tuple(f"labelgen.{room}" for room in ("core", "data", "sources", "formats", "labels"))
"""What of labelgen the JAX program may use."""
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "labelgen.core": (),
    "labelgen.data": ("labelgen.core",),
    "labelgen.sources": ("labelgen.core", "labelgen.data"),
    "labelgen.formats": ("labelgen.core", "labelgen.data", "labelgen.sources"),
    "labelgen.models": ("labelgen.core", "labelgen.data", "labelgen.sources"),
    "labelgen.labels": ("labelgen.core", "labelgen.data", "labelgen.sources"),
    "labelgen.stages": tuple(f"labelgen.{room}" for room in LABELGEN[:-1]),
    "labelgen": tuple(f"labelgen.{room}" for room in LABELGEN),
    "fmbseg_jax.runs": LENT,
    "fmbseg_jax.training": (*LENT, "fmbseg_jax.runs"),
    "fmbseg_jax.inference": (*LENT, "fmbseg_jax.runs", "labelgen.models"),
    "fmbseg_jax.rehearsal": (*LENT, "fmbseg_jax.runs", "fmbseg_jax.training", "fmbseg_jax.inference"),
    "fmbseg_jax.reporting": (*LENT, "fmbseg_jax.runs", "fmbseg_jax.training", "fmbseg_jax.inference"),
    "fmbseg_jax.predicting": (*LENT, "fmbseg_jax.runs", "fmbseg_jax.inference", "fmbseg_jax.reporting"),
    "fmbseg_jax.serving": (*LENT, "fmbseg_jax.runs", "fmbseg_jax.training", "fmbseg_jax.inference"),
    "fmbseg_jax.bridges": (*LENT, "fmbseg_jax.runs", "fmbseg_jax.inference"),
    "fmbseg_jax": (
        *LENT,
        *(f"fmbseg_jax.{room}" for room in FMBSEG_JAX),
    ),
    "pocket": ("labelgen",),
    "configs": (),
    "benchmarks": ("labelgen", "fmbseg_jax", "pocket"),
    "experiments": ("labelgen", "fmbseg_jax", "benchmarks"),
    "tools": ("labelgen", "fmbseg_jax", "benchmarks", "experiments"),
}
"""Room -> the rooms that it may import besides itself. A package stands for the commands at its door; for the folders
beside the two programs it stands for all of its rooms."""
BESIDE = ("pocket", "configs", "benchmarks", "experiments", "tools")
LONGEST_CHAIN = 10
LARGEST_SHARE = 0.25
"""Of the lines of both programs, that one room may have."""
TORCH = {"torch", "torchvision", "timm", "open_clip", "segment_anything"}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "grain"}
OPENS_NETWORKS = ("labelgen.models", "labelgen.weights", "labelgen.budget")
"""What loads torch when it is imported: the networks, and the commands that speak of nothing else."""


def source_files() -> dict[str, Path]:
    """Module name -> file, for every Python file of the rooms."""
    packages = sorted({room.split(".")[0] for room in MAY_IMPORT})
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in files}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


MODULES = source_files()
PROGRAMS = sorted(name for name in MODULES if name.split(".")[0] in ("labelgen", "fmbseg_jax"))


def room_of(name: str) -> str:
    """labelgen.core.files -> labelgen.core; labelgen.run -> labelgen; pocket.scenes -> pocket."""
    return max((room for room in MAY_IMPORT if f"{name}.".startswith(f"{room}.")), key=len)


@cache
def imports(name: str, lazy: bool = True) -> frozenset[str]:
    """What a module imports, modules of the project in full and others by their first name.

    lazy=False leaves out imports inside functions and those only for type checkers.
    """
    named: set[tuple[str, str]] = set()
    todo: list[ast.AST] = [ast.parse(MODULES[name].read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            named |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{name}: relative import"
            named |= {(node.module, alias.name) for alias in node.names}
        runs_later = isinstance(node, ast.FunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        )
        if lazy or not runs_later:
            todo += ast.iter_child_nodes(node)
    modules = {f"{module}.{name}" if f"{module}.{name}" in MODULES else module for module, name in named}
    return frozenset(module if module in MODULES else module.split(".")[0] for module in modules) - {name}


@cache
def reached(name: str) -> frozenset[str]:
    """Everything that importing a module imports in turn, itself and the packages it lies in included."""
    done: set[str] = set()
    todo = [name]
    while todo:
        module = todo.pop()
        if module not in done:
            done.add(module)
            todo += imports(module, lazy=False) if module in MODULES else ()
            todo += [module.rpartition(".")[0]] if "." in module else []
    return frozenset(done)


def commands() -> set[str]:
    """Modules that run as `python -m`."""
    return {name for name, path in MODULES.items() if 'if __name__ == "__main__"' in path.read_text()}


def chain(name: str, path: tuple[str, ...], longest: dict[str, list[str]]) -> list[str]:
    """The longest chain of imports of the two programs from a module down; fails on a circle."""
    assert name not in path, " -> ".join([*path[path.index(name) :], name])
    if name not in longest:
        # A face hands its public names on when asked for them, which its own modules never do.
        others = imports(name, lazy=name in commands() or room_of(name) != name) & set(PROGRAMS)
        below = [chain(other, (*path, name), longest) for other in sorted(others)]
        longest[name] = [name, *max(below, key=len, default=[])]
    return longest[name]


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_room_imports_only_what_the_table_lets_it(name: str) -> None:
    room = room_of(name)
    allowed = {room, *MAY_IMPORT[room]}
    others = {other: room_of(other) for other in imports(name) if other in MODULES and other != room}
    if room in BESIDE:
        others = {other: other.split(".")[0] for other in others}
    assert {other: of for other, of in others.items() if of not in allowed} == {}


def test_the_table_goes_one_way_and_names_every_room() -> None:
    order = list(MAY_IMPORT)
    assert all(order.index(other) < order.index(room) for room in order for other in MAY_IMPORT[room])
    folders = {path.parent.relative_to(ROOT) for path in MODULES.values()}
    assert {".".join(folder.parts) for folder in folders} - {"labelgen", "fmbseg_jax"} <= set(order)


def test_no_circle_of_files_and_no_chain_longer_than_agreed() -> None:
    longest: dict[str, list[str]] = {}
    chains = [chain(name, (), longest) for name in PROGRAMS]
    found = max(chains, key=len)
    assert len(found) <= LONGEST_CHAIN, " -> ".join(found)
    assert len(found) > 5  # they are counted


def test_no_room_has_more_than_its_share_of_the_lines() -> None:
    lines: dict[str, int] = {}
    for name in PROGRAMS:
        lines[room_of(name)] = lines.get(room_of(name), 0) + len(MODULES[name].read_text().splitlines())
    assert {room: count for room, count in lines.items() if count > LARGEST_SHARE * sum(lines.values())} == {}


def test_functions_fit_a_screen() -> None:
    long = {}
    for name in PROGRAMS:
        for node in ast.walk(ast.parse(MODULES[name].read_text())):
            if isinstance(node, ast.FunctionDef) and node.end_lineno and node.end_lineno - node.lineno >= 40:
                long[f"{name}.{node.name}"] = node.end_lineno - node.lineno + 1
    assert long == {}


@pytest.mark.parametrize("name", PROGRAMS)
def test_torch_is_imported_by_the_networks_alone_and_jax_by_the_jax_program(name: str) -> None:
    assert room_of(name) == "labelgen.models" or not imports(name) & TORCH
    assert name.startswith("fmbseg_jax") or not imports(name) & JAX


@pytest.mark.parametrize("name", [name for name in PROGRAMS if not name.startswith(OPENS_NETWORKS)])
def test_what_opens_no_network_loads_no_torch(name: str) -> None:
    assert not reached(name) & TORCH


def test_the_networks_are_opened_inside_a_function_of_the_embedder() -> None:
    borrowers = [
        name
        for name in PROGRAMS
        if name.startswith("fmbseg_jax") and any(room_of(o) == "labelgen.models" for o in imports(name) & set(MODULES))
    ]
    assert borrowers == ["fmbseg_jax.inference.embedder"]


def test_commands_import_no_command() -> None:
    found = commands()
    assert {"labelgen.run", "labelgen.quality", "fmbseg_jax.train", "pocket.scenes"} <= found
    crossed = {name: set(imports(name)) & found - {name} for name in found}
    assert not {n: sorted(c) for n, c in crossed.items() if c and n.split(".")[0] in ("labelgen", "fmbseg_jax")}


@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
def test_importing_a_jax_command_loads_no_torch(command: str) -> None:
    code = f"import sys, fmbseg_jax.{command}; print(*sorted({TORCH} & set(sys.modules)), 'done')"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.split() == ["done"], out.stderr
