"""`fmbseg`: every command of both programs under one name, the same code as `python -m MODULE`.

fmbseg demo                                        # the whole pipeline on the pocket world
fmbseg label --config=my_photos.py --out=data      # is python -m labelgen.run --config=my_photos.py --out=data
"""

import difflib
import runpy
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Command(NamedTuple):
    """A command: the module that runs as `python -m MODULE`, and what it is for."""

    module: str
    purpose: str


GROUPS: dict[str, dict[str, Command]] = {
    "Try it": {
        "demo": Command("pocket.demo", "all of it on procedural scenes with miniature models: minutes, no download"),
        "configs": Command("labelgen.configs", "the configs that ship: their names, or one to start your own from"),
    },
    "Your photos and words, in this order": {
        "weights": Command("labelgen.weights", "list, fetch and check the weights of the frozen models"),
        "words": Command("labelgen.words", "which words of a list will be confused, before anything is encoded"),
        "label": Command("labelgen.run", "photos to patch features and free labels"),
        "quality": Command("labelgen.quality", "free labels against truth, where there is some"),
        "train": Command("fmbseg_jax.train", "the head, from free labels"),
        "evaluate": Command("fmbseg_jax.evaluate", "the head against truth, beside dense CLIP"),
        "predict": Command("fmbseg_jax.predict", "masks of any photos, a large picture or a video, for any words"),
        "report": Command("fmbseg_jax.report", "a page that shows how good, where not, and why"),
        "serve": Command("fmbseg_jax.serve", "a page to play with in a browser"),
    },
    "In the tools you have open (docs/tools.md)": {
        "connect": Command("fmbseg_jax.connect", "CVAT or Label Studio: pre-annotations by a RUN, or the free labels"),
        "export": Command("labelgen.export", "free labels as PNG, COCO, LabelMe, CVAT, YOLO, FiftyOne; predict: masks"),
        "export-head": Command("fmbseg_jax.export", "a RUN for the Hugging Face hub, or to be used without this code"),
    },
    "More": {
        "tiles": Command("labelgen.tiles", "a picture of any size (GeoTIFF, OME-TIFF) cut into photos"),
        "features": Command("labelgen.features", "another encoder's features for photos that are labelled already"),
        "fetch": Command("labelgen.fetch", "Pascal VOC and SBD from their owners"),
        "rehearse": Command("fmbseg_jax.rehearse", "what a training takes on TPUs or GPUs, compiled without one"),
        "budget": Command("labelgen.budget", "what a run will fetch, write and take"),
        "results": Command("fmbseg_jax.results", "the figures of several RUNs as one table"),
        "completion": Command("fmbseg_jax.completion", "what a shell needs to complete all this at a TAB"),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first argument names with all others; its exit code, 2 for a name that there is not."""
    from labelgen.core import interrupt

    interrupt.silent()
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        return 0
    if name == "--version":
        from importlib.metadata import version

        print(f"fmbseg {version('fmbseg-jax')}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        fix = f"did you mean {near[0]}?" if near else "fmbseg --help lists them"
        print(f"error: {name}: no such command; {fix}", file=sys.stderr)
        return 2
    return run(name, rest)


def run(name: str, arguments: Sequence[str]) -> int:
    """What `python -m MODULE ARGUMENTS` does, under the name `fmbseg NAME`."""
    from labelgen.core import command

    command.PROGRAM = f"fmbseg {name}"
    sys.argv = [command.PROGRAM, *arguments]
    runpy.run_module(COMMANDS[name].module, run_name="__main__", alter_sys=True)
    return 0


def overview() -> str:
    """The text of `fmbseg --help`: the way from photos to masks, a line a command."""
    lines = ["Segmentation without annotation: photos and a list of words in, masks out.", ""]
    lines += ["usage: fmbseg COMMAND [ARGUMENTS]      fmbseg COMMAND --help has an example"]
    for title, commands in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {name:<12} {command.purpose}" for name, command in commands.items()]
    return "\n".join(lines)
