"""The frame of every command: its --help, one line for an error, Ctrl-C, and readers that leave early.

Scores as text, the same way wherever they are printed.
"""

import argparse
import errno
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from labelgen.core.errors import UserError
from labelgen.core.files import at_home
from labelgen.core.progress import say

AGAIN = "nothing is half written; the same command begins again"
GOES_ON = "the same command goes on from here"
INTERRUPTED, NOBODY_READS = 130, 141
PROGRAM = ""
"""What the user called the command, where that is not `python -m MODULE`."""
_EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "timm", "open_clip", "segment_anything"), "encode"),
    **dict.fromkeys(("starlette", "uvicorn"), "serve"),
    **dict.fromkeys(("tensorflow_datasets", "importlib_resources"), "tfds"),
    **dict.fromkeys(("s3fs", "gcsfs"), "remote"),
    **{"ray": "ray", "flatbuffers": "export", "huggingface_hub": "hub"},
    **{"rasterio": "large", "tifffile": "large", "av": "video"},
}
"""Package that only some uses need -> the extra of pyproject.toml that brings it."""


class _Parser(argparse.ArgumentParser):
    """--help begins with what the command does and an example; a mistake is one line."""

    def format_help(self) -> str:
        usage, description, rest = super().format_help().partition((self.description or "").strip())
        return f"{description}\n\n{usage.strip()}{rest}"

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help has an example\n")


def parser(doc: str, config: bool = True, stopped: str = AGAIN) -> argparse.ArgumentParser:
    """A command line whose --help is the module's text, with a line `python -m MODULE ...` to name the command.

    config: adds --config=FILE and --config.FIELD=VALUE. stopped: what one is told who ends the command with Ctrl-C.
    """
    named = re.search(r"^ +(python -m [\w.]+)", doc, re.MULTILINE)
    flags = _Parser(
        prog=PROGRAM or (named and named[1]),
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flags.set_defaults(stopped=stopped)
    if config:
        flags.add_argument(
            "--config",
            required=True,
            metavar="FILE",
            help="your config, or the name of one that ships (fmbseg configs lists them); FILE:VARIANT for one of its "
            "variants, such as my_photos.py:fast",
        )
        flags.epilog = "Any field of the config can be set: --config.train.steps=500 (configs/default.py has them all)"
    return flags


def command(
    main: Callable[[argparse.Namespace], int], flags: argparse.ArgumentParser, argv: Sequence[str] | None = None
) -> int:
    """Runs a command and returns its exit code.

    main's own; 2 for what the user must fix; 130 when interrupted (Ctrl-C); 141 when what it prints has no reader.
    main gets the parsed arguments; args.overrides lists the "field=value" of --config.field=value.
    """
    try:
        args, rest = flags.parse_known_args(argv)
    except SystemExit:  # after --help
        _handed_on(sys.stdout)
        raise
    _expand_home(args)
    args.overrides, unknown = _split_overrides(rest) if hasattr(args, "config") else ([], rest)
    if unknown:
        flags.error(f"unknown argument {unknown[0]}")
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # labelgen.core.interrupt
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = _guarded(main, args)
    return _handed_on(sys.stdout) or code


def _expand_home(args: argparse.Namespace) -> None:
    """~ in a flag's value, which shells expand in front of a word alone: --out=~/masks."""
    for name, value in vars(args).items():
        if isinstance(value, str | Path | list):
            setattr(args, name, at_home(value))


def _guarded(main: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """main's exit code; what a person can fix is one line instead of a traceback."""
    try:
        return main(args)
    except UserError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        return _fail(f"{package} is not installed, which this needs; pip install 'fmbseg-jax[{_EXTRAS[package]}]'")
    except KeyboardInterrupt:
        say(f"interrupted; {args.stopped}")
        return INTERRUPTED
    except OSError as error:
        if error.filename is None and (code := _handed_on(sys.stdout, probe=True)):
            if code == NOBODY_READS:
                say(f"stopped: nobody reads what it prints (to keep that: > FILE); {args.stopped}")
            return code
        if error.errno is None or error.errno not in _FIXES or error.filename is None:
            raise
        return _fail(f"{error.filename}: {os.strerror(error.errno)}; {_FIXES[error.errno]}")


def _handed_on(stream: TextIO, probe: bool = False) -> int:
    """0 when all that was printed was handed on, else an exit code: 141 where nobody reads, 2 on a full disk.

    From then on what is printed goes nowhere, so that the interpreter has nothing to complain of at its end.
    """
    try:
        stream.flush()
        if probe:  # a failed write may have left nothing to flush
            stream.write("\n")
            stream.flush()
    except OSError as error:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
        if isinstance(error, BrokenPipeError):
            return NOBODY_READS
        return _fail(f"what it prints cannot be written: {os.strerror(error.errno or 0)}; send it to another place")
    return 0


def share_below_one(text: str) -> float:
    """A number from 0 to below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text}: a number from 0 to below 1")
    return value


def names(text: str) -> list[str]:
    """The type of an argument that is names with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]


def numbers(kind: type[int] | type[float]) -> Callable[[str], tuple[float, ...]]:
    """What reads "2,98"."""

    def read(text: str) -> tuple[float, ...]:
        try:
            return tuple(kind(part) for part in text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text}: numbers with commas between them") from None

    return read


def whole(minimum: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number, `minimum` or more."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?\d+", text) or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"{text!r}: a whole number, {minimum} or more")
        return int(text)

    return parse


def share(text: str) -> tuple[int, int]:
    """The type of --worker: "2/4" -> (2, 4), share 2 of 4."""
    try:
        worker, workers = map(int, text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write i/n, like 0/4") from None
    if not 0 <= worker < workers:
        raise argparse.ArgumentTypeError(f"{text!r}: workers of n are 0 to n - 1")
    return worker, workers


def command_line(module: str, *arguments: str) -> str:
    """`python -m MODULE ARGUMENTS` as a shell takes it: what a message names as the command to run."""
    return " ".join([f"python -m {module}", *map(_quoted, arguments)])


def _quoted(argument: str) -> str:
    """One argument as a shell takes it; of --flag=value the value alone in quotes, as one types it."""
    flag, equals, value = argument.partition("=")
    if equals and value and flag == shlex.quote(flag):
        return f"{flag}={shlex.quote(value)}"
    return shlex.quote(argument)


def config_flags(args: argparse.Namespace, *without: str) -> list[str]:
    """--config and what was set besides, for `command_line`; `without`: fields that are left out."""
    kept = [override for override in args.overrides if override.partition("=")[0] not in without]
    return [f"--config={args.config}", *(f"--config.{override}" for override in kept)]


_ROOM = "make room, or write to another disk, and run the same command again: what is finished is kept"
_RIGHTS = "let this user write there, or name another folder"
_FILE = "there is a file where a folder is wanted; name another folder"
_FIXES: dict[int, str] = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
    errno.ENOTDIR: _FILE,
    errno.EEXIST: _FILE,
    errno.EISDIR: "there is a folder where a file is wanted; name a file",
    errno.ENOENT: "nothing is there, or nothing can be made there; fix the path",
    errno.ENAMETOOLONG: "take a shorter name",
}


def _fail(message: str) -> int:
    say("error: " + " ".join(message.split()))
    return 2


def _split_overrides(rest: Sequence[str]) -> tuple[list[str], list[str]]:
    """("field=value" of each --config.field=value or --config.field value, what is none of them)."""
    overrides: list[str] = []
    unknown: list[str] = []
    for argument in rest:
        if argument.startswith("--config."):
            overrides.append(argument.removeprefix("--config."))
        elif overrides and "=" not in overrides[-1] and not argument.startswith("--"):
            overrides[-1] += f"={argument}"
        else:
            unknown.append(argument)
    return overrides, unknown


def table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Lines of text: one a reading with its scores (metrics.Scores.to_json), those of groups beside mIoU."""
    groups = list(next(iter(rows.values()), {}).get("groups", {}))
    width = max([len(title), *(len(name) + 2 for name in rows)])
    heads = "".join(f"{name:>9s}" for name in (*groups, "boundary"))
    lines = [f"{title:{width}s}   mIoU{heads}  pixel acc.  coverage"]
    for name, row in rows.items():
        means = "".join(figure(row["groups"][group], 9) for group in groups)
        shares = f"{figure(row['pixel_accuracy'], 12)}{figure(row['coverage'], 10)}"
        edges = figure(row["boundary_iou"], 9)
        lines.append(f"{'  ' + name:{width}s}{figure(row['miou'], 7)}{means}{edges}{shares}")
    return "\n".join(lines)


def figure(value: float | None, width: int = 0) -> str:
    """Of three digits; a dash for a mean or a share of nothing."""
    return f"{'-' if value is None else f'{value:.3f}':>{width}s}"


def columns(heads: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Lines of text under their heads, two spaces apart; the columns named in `right` end at the right."""
    lines = [list(heads), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    sides = [">" if head in right else "<" for head in heads]
    cells = ([f"{c:{side}{width}}" for c, side, width in zip(line, sides, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in cells)
