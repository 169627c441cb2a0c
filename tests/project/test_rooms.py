"""Who may import whom, read from the source of every file: the rooms of the project."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.worlds.paths import ROOT

ROOMS = ("labelgen", "fmbseg_jax", "pocket", "benchmarks", "experiments", "tools", "configs")
BESIDE = {"benchmarks", "experiments", "tools"}
"""What the two programs and the pocket world know nothing of."""
TORCH_FILES = {
    "torchvision_shim", "libraries", "weights",
    "weight_files", "compute", "clip", "clip_source", "dense", "sam", "sam_files",
    "sam_decoder", "bitmaps", "sam_vit", "mobile_sam", "dinov2", "encode", "needed", "budget",
    "patch_encoder", "layers", "timm_encoder", "clip_trunk", "sam_trunk", "choose_encoder",
}  # fmt: skip
TORCH = {"torch", "torchvision", "timm", "open_clip", "segment_anything"}
JAX = {"jax", "jaxlib", "flax", "optax", "orbax", "grain"}


def source_files() -> dict[str, Path]:
    """Module name -> file, for every Python file of the rooms."""
    files = [p for room in ROOMS for p in (ROOT / room).rglob("*.py")]
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in files}
    return {name.removesuffix(".__init__"): path for name, path in names.items()}


MODULES = source_files()


@cache
def imports(name: str, lazy: bool = True) -> frozenset[str]:
    """What a module imports, project modules in full and others by their first name.

    lazy=False leaves out imports inside functions and those only for type checkers.
    """
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(MODULES[name].read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{name}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        runs_later = isinstance(node, ast.FunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        )
        if lazy or not runs_later:
            todo += ast.iter_child_nodes(node)
    ours = {n for n in found if n in MODULES}
    return frozenset(ours | {n.split(".")[0] for n in found if n.split(".")[0] not in ROOMS})


@cache
def reached(name: str) -> frozenset[str]:
    """Everything that importing a module imports in turn, itself included."""
    done: set[str] = set()
    todo = [name]
    while todo:
        here = todo.pop()
        if here not in done:
            done.add(here)
            todo += imports(here, lazy=False) if here in MODULES else ()
    return frozenset(done)


def commands() -> set[str]:
    """Modules that run as `python -m`."""
    return {n for n, p in MODULES.items() if 'if __name__ == "__main__"' in p.read_text()}


def in_room(room: str) -> list[str]:
    return sorted(n for n in MODULES if n.split(".")[0] == room)


def needs_torch(name: str) -> bool:
    return name.startswith("labelgen.") and name.split(".")[1] in TORCH_FILES


@pytest.mark.parametrize("name", in_room("labelgen"))
def test_labelgen_knows_neither_jax_nor_the_other_rooms(name: str) -> None:
    assert not imports(name) & JAX
    assert not [n for n in imports(name) if n.split(".")[0] in set(ROOMS) - {"labelgen"}]


@pytest.mark.parametrize("name", [n for n in in_room("labelgen") if not needs_torch(n)])
def test_labelgen_needs_torch_only_to_encode(name: str) -> None:
    assert not reached(name) & TORCH


@pytest.mark.parametrize("name", in_room("fmbseg_jax"))
def test_the_jax_program_needs_no_torch(name: str) -> None:
    assert not reached(name) & TORCH
    assert not imports(name) & TORCH
    assert not [n for n in imports(name) if n.split(".")[0] in BESIDE | {"pocket", "configs"}]
    if name != "fmbseg_jax.inference.embedder":  # which loads the encoders for what is not encoded yet
        assert not [n for n in imports(name) if needs_torch(n)]


@pytest.mark.parametrize("name", in_room("pocket"))
def test_the_pocket_world_stands_apart(name: str) -> None:
    assert not [n for n in imports(name) if n.split(".")[0] in BESIDE | {"fmbseg_jax"}]


@pytest.mark.parametrize(("room", "others"), [("benchmarks", {"experiments", "tools"}), ("experiments", {"tools"})])
def test_speed_knows_no_claim_and_a_claim_no_page(room: str, others: set[str]) -> None:
    crossed = {n: [o for o in imports(n) if o.split(".")[0] in others | {"pocket"}] for n in in_room(room)}
    assert not {n: o for n, o in crossed.items() if o}


def test_commands_import_no_command() -> None:
    found = commands()
    assert {"labelgen.run", "labelgen.quality", "fmbseg_jax.train", "pocket.scenes"} <= found
    crossed = {n: set(imports(n)) & found - {n} for n in found}
    assert not {n: sorted(c) for n, c in crossed.items() if c and n.split(".")[0] != "pocket"}


def test_no_import_cycle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            # A package's public names are imported when asked for, which its own modules never do.
            for other in sorted(set(imports(name, lazy=name not in ROOMS)) & set(MODULES)):
                visit(other, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
def test_importing_a_jax_command_loads_no_torch(command: str) -> None:
    code = f"import sys, fmbseg_jax.{command}; print(*sorted({TORCH} & set(sys.modules)), 'done')"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.split() == ["done"], out.stderr


def test_files_are_short() -> None:
    files = [*MODULES.values(), *(ROOT / "tests").rglob("*.py")]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in files}
    assert not {name: n for name, n in lengths.items() if n > 300}
