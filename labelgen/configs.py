"""The configs that ship: their names, or the text of one to start your own from.

    python -m labelgen.configs                                # their names, a line each
    python -m labelgen.configs my_photos > my_photos.py       # a config of your own: edit it, in any folder

A shipped config needs no file: --config=voc. What stands in brackets are its variants, which every command takes after
a colon: --config=voc:voc20, --config=my_photos.py:fast. --words prints a list of words instead.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import ast
import sys
from pathlib import Path

from labelgen.core import shipped
from labelgen.core.command import command, parser
from labelgen.core.errors import UserError


def main(args: argparse.Namespace) -> int:
    """Prints names, or one file."""
    folder, ending = (shipped.HOME / "configs/words", ".txt") if args.words else (shipped.HOME / "configs", ".py")
    files = {file.stem: file for file in sorted(folder.glob(f"*{ending}"))}
    if not args.name:
        width = max(map(len, files))
        print(*(f"{name:<{width}}  {title(file)}{variants(file)}".rstrip() for name, file in files.items()), sep="\n")
        return 0
    file, colon, variant = args.name.partition(":")
    if colon and file in files:
        raise UserError(
            f"{args.name}: {file} is one file with all its variants; print {file}, say --config=FILE:{variant}"
        )
    if args.name not in files:
        raise UserError(f"{args.name}: does not ship; what does: {', '.join(files)}")
    print(files[args.name].read_text(encoding="utf-8"), end="")
    return 0


def title(file: Path) -> str:
    """The first line of what a file says of itself."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    first = text.partition("\n")[0]
    return first.removeprefix("# ") if first.startswith("#") else ""


def variants(file: Path) -> str:
    """Those of a config, as they are put after its name."""
    if file.suffix != ".py":
        return ""
    for line in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name) and line.targets[0].id == "VARIANTS":
            return f" [{', '.join(f':{name}' for name in ast.literal_eval(line.value))}]"
    return ""


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m labelgen.configs`."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument(
        "name", nargs="?", default="", metavar="NAME", help="a config or a list of words; none: all names"
    )
    flags.add_argument("--words", action="store_true", help="lists of words instead of configs")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
