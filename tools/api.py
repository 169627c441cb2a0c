"""The page of the public names, from their docstrings.

    python -m tools.api              # writes docs/api.md
    python -m tools.api --check      # writes nothing; exit code 1 where the page differs

Public is what a package of `labelgen` or `fmbseg_jax` names in its `__all__`: a section a package, a heading a name,
its signature as the source has it, and the first paragraph of its docstring; of a class its fields and public methods
too.
"""

import argparse
import ast
import importlib
import inspect
import pkgutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from labelgen.core.command import command, parser
from labelgen.core.errors import UserError
from labelgen.core.files import write_atomic

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/api.md"
PACKAGES = ("labelgen", "fmbseg_jax")
WIDTH = 100
OPERATORS = ("__call__", "__len__", "__getitem__", "__iter__")
"""Special methods that a reader calls, if by another name."""
HEAD = """# Public names

Written by `python -m tools.api` from the docstrings: what `labelgen`, `fmbseg_jax` and their rooms name in `__all__`.
The rest is private and may change without a word. The letters of array shapes are those of
[CONTRIBUTING](../CONTRIBUTING.md): B batch, H W pixels, h w patches, N = h·w, C classes, K words, M masks, D patch
feature width, E text embedding width.
"""


def main(args: argparse.Namespace) -> int:
    """Writes or checks the page."""
    new = page()
    if args.check:
        same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == new
        print(f"{PAGE.name} says what the docstrings say" if same else f"{PAGE.name} differs: run python -m tools.api")
        return int(not same)
    write_atomic(PAGE, new.encode())
    print(f"wrote {PAGE.name}: {', '.join(package.__name__ for package in public_packages())}; next: look at git diff")
    return 0


def page() -> str:
    """The whole text. UserError for a public name without a docstring."""
    return "\n".join([HEAD, *(section(package) for package in public_packages())])


def public_packages() -> list[ModuleType]:
    """Each of the packages, and each package in them, that has an `__all__`."""
    found = [importlib.import_module(root) for root in PACKAGES]
    for package in list(found):
        inner = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        found += [importlib.import_module(module.name) for module in inner if module.ispkg]
    return sorted((package for package in found if getattr(package, "__all__", ())), key=_place)


def _place(package: ModuleType) -> tuple[int, str]:
    """The faces of the packages first: they are what most readers want."""
    name = package.__name__
    return name.count("."), name


def section(package: ModuleType) -> str:
    """A package: what it is, and its public names."""
    name = package.__name__
    parts = [f"## `{name}`", paragraph(package.__doc__, name)]
    parts += [entry(public, getattr(package, public), name) for public in package.__all__]
    return "\n\n".join(parts) + "\n"


def entry(name: str, public: Any, package: str) -> str:
    """One public name. UserError without a docstring, except for a constant, of which its type is said."""
    value, where, heading = inspect.unwrap(public), f"{package}.{name}", f"### `{name}`"
    if inspect.ismodule(value):
        return f"{heading}\n\n{paragraph(value.__doc__, where)}"
    if not isinstance(value, type | FunctionType):
        return f"{heading}\n\nA constant: `{type(value).__name__}`."
    shown = f"class {name}{_constructor(value)}" if isinstance(value, type) else f"def {_function(value)}"
    lines = [heading, f"```python\n{shown}\n```", paragraph(value.__doc__, where)]
    members = list(_members(value, where)) if isinstance(value, type) else []
    return "\n\n".join([*lines, "\n".join(members)] if members else lines)


def paragraph(docstring: str | None, name: str) -> str:
    """The first paragraph, its lines as they are. UserError where there is none."""
    first = inspect.cleandoc(docstring or "").partition("\n\n")[0]
    if not first:
        raise UserError(f"{name}: is public and has no docstring; write one")
    return first


def _function(value: FunctionType) -> str:
    node = _source(value)
    assert isinstance(node, ast.FunctionDef)
    return signature(node)


def _constructor(kind: type) -> str:
    """`(parameters)` of a class that has an `__init__`; of others the fields say it."""
    for base in _ours(kind):
        for node in base.body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                return signature(node, method=True).removeprefix("__init__").removesuffix(" -> None")
    return ""


def _members(kind: type, where: str) -> Iterator[str]:
    """A bullet for each field and each public method, those of bases first, in the order of the source."""
    found: dict[str, str] = {}
    for base in reversed(_ours(kind)):
        for node, after in zip(base.body, [*base.body[1:], None], strict=True):
            match node:
                case ast.AnnAssign(target=ast.Name(id=name)):
                    shown, text = ast.unparse(node), _text(after)
                case ast.FunctionDef(name=name):
                    shown, text = _method(node, kind), ast.get_docstring(node) or ""
                case _:
                    continue
            if not name.startswith("_") or name in OPERATORS:
                is_field = isinstance(node, ast.AnnAssign)
                said = text if is_field and not text else paragraph(text, f"{where}.{name}")
                found[name] = f"- `{shown}`" + (f": {' '.join(said.split())}" if said else "")
    yield from found.values()


def _ours(kind: type) -> list[ast.ClassDef]:
    """The sources of a class and of its bases in these packages, the class first."""
    ours = [base for base in kind.__mro__ if base.__module__.partition(".")[0] in PACKAGES]
    return [node for node in map(_source, ours) if isinstance(node, ast.ClassDef)]


def _source(value: Any) -> ast.stmt:
    return ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]


def _text(node: ast.stmt | None) -> str:
    """The docstring of a field, a string that stands under it; empty where there is none."""
    match node:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return inspect.cleandoc(text).partition("\n\n")[0]
    return ""


def _method(node: ast.FunctionDef, kind: type) -> str:
    """`name(parameters) -> type` on one line; a property without brackets, the class's own with its name in front."""
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    if decorators & {"property", "cached_property"}:
        return f"{node.name}: {_annotation(node.returns)}"
    front = f"{kind.__name__}." * bool(decorators & {"staticmethod", "classmethod"})
    return front + signature(node, method="staticmethod" not in decorators, width=sys.maxsize)


def signature(node: ast.FunctionDef, method: bool = False, width: int = WIDTH) -> str:
    """`name(parameters) -> type` as the source has it; a parameter a line where it is longer than `width`.

    method: leaves out the first parameter, self or cls.
    """
    named = parameters(node.args)[int(method) :]
    returns = f" -> {_annotation(node.returns)}" if node.returns else ""
    line = f"{node.name}({', '.join(named)}){returns}"
    return line if len(line) <= width else "\n    ".join([f"{node.name}(", *(f"{n}," for n in named)]) + f"\n){returns}"


def parameters(args: ast.arguments) -> list[str]:
    """`name: type = default` of each, with `/` and `*` where they stand."""
    placed = [*args.posonlyargs, *args.args]
    defaults = [*[None] * (len(placed) - len(args.defaults)), *args.defaults]
    said = [_parameter(arg, default) for arg, default in zip(placed, defaults, strict=True)]
    if args.posonlyargs:
        said.insert(len(args.posonlyargs), "/")
    if args.vararg:
        said.append(f"*{_parameter(args.vararg, None)}")
    elif args.kwonlyargs:
        said.append("*")
    said += [_parameter(arg, default) for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)]
    return [*said, f"**{_parameter(args.kwarg, None)}"] if args.kwarg else said


def _parameter(arg: ast.arg, default: ast.expr | None) -> str:
    value = "" if default is None else ast.unparse(default)
    if arg.annotation is None:
        return f"{arg.arg}={value}" if value else arg.arg
    return f"{arg.arg}: {_annotation(arg.annotation)}" + (f" = {value}" if value else "")


def _annotation(node: ast.expr | None) -> str:
    """A type as it is written, without the quotes of one that is named before it exists."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return "Any" if node is None else ast.unparse(node)


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m tools.api`."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the page differs")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
