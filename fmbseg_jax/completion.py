"""What a shell needs to complete `fmbseg`: its commands and their flags at a TAB.

    python -m fmbseg_jax.completion bash >> ~/.bashrc      # or zsh, fish, ...

Takes some seconds once: every command is asked for its flags. Commands whose extra is not installed complete by name.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import importlib
import sys

import shtab

from fmbseg_jax.cli import COMMANDS, Command
from labelgen.core.command import command, parser

PATHS = ("FILE", "FOLDER", "DATA", "RUN", "MASKS")
"""What the commands call an argument that is a path."""


def main(args: argparse.Namespace) -> int:
    """Prints the script of a shell."""
    print(shtab.complete(every_command(), shell=args.shell))
    return 0


def every_command() -> argparse.ArgumentParser:
    """`fmbseg` as one command line, which runs nothing."""
    whole = argparse.ArgumentParser("fmbseg")
    places = whole.add_subparsers()
    for name, its in COMMANDS.items():
        places.add_parser(name, help=its.purpose, parents=flags(its), add_help=False)
    return whole


def flags(its: Command) -> list[argparse.ArgumentParser]:
    """The command's own flags; none where a package that it needs is not installed."""
    try:
        own: argparse.ArgumentParser = importlib.import_module(its.module).arguments()
    except ModuleNotFoundError:
        return []
    for action in own._actions:
        if action.metavar in PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    return [own]


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m fmbseg_jax.completion`."""
    own = parser(__doc__ or "", config=False)
    own.add_argument("shell", choices=shtab.SUPPORTED_SHELLS, metavar="SHELL", help=", ".join(shtab.SUPPORTED_SHELLS))
    return own


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
