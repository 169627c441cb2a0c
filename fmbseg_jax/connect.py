"""A RUN, or the free labels of a DATA, for the annotation tool that people have open: CVAT or Label Studio.

    python -m fmbseg_jax.connect --workdir=RUN --to=cvat --out=FOLDER
    python -m fmbseg_jax.connect --workdir=RUN --to=label-studio --out=FOLDER
    python -m fmbseg_jax.connect --data=DATA --labels=default --to=cvat --out=FOLDER

Writes what the tool takes, a few small files that name RUN or DATA where it lies; the last line is what to type next.
Nothing is predicted yet. docs/tools.md has both ways step by step.

    cvat            labels.json      the labels of a task, for `cvat-cli task create --labels @labels.json`, or the tab
                                     Raw of its page
                    function.py      for `cvat-cli task auto-annotate TASK --function-file function.py`
    label-studio    labels_brush.xml, labels_polygons.xml      labelling interfaces: one of them goes into the project
                    _wsgi.py         the backend: label-studio-ml start FOLDER
                    corrections/     what people submit, for `labelgen.run --labels_from`
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fmbseg_jax.bridges import cvat, label_studio
from fmbseg_jax.bridges.answers import Labeller, open_labeller
from labelgen.core.command import command, parser
from labelgen.core.errors import UserError
from labelgen.core.files import write_atomic
from labelgen.core.remote import is_remote

TOOLS = ("cvat", "label-studio")


def main(args: argparse.Namespace) -> int:
    """Writes the files."""
    if args.data and (args.words or args.background_threshold or args.weights_dir):
        raise UserError("--words, --background_threshold and --weights_dir are for a RUN; --labels names DATA's labels")
    arguments = reached_from_anywhere(args)
    labeller = open_labeller(**arguments)
    folder = Path(args.out)
    files, following = (for_cvat if args.to == "cvat" else for_label_studio)(labeller, arguments, folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        write_atomic(folder / name, text.encode())
    print(f"wrote {', '.join(files)} for {len(labeller.names)} classes ({labeller.version}) to {folder}; {following}")
    return 0


def reached_from_anywhere(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of open_labeller that are given, paths absolute: a tool starts its files in other folders."""
    given = {"run": args.workdir, "data": args.data, "words": args.words, "weights_dir": args.weights_dir}
    paths = {name: path if is_remote(path) else str(Path(path).absolute()) for name, path in given.items() if path}
    if args.data:
        return {**paths, "labels": args.labels}
    return {**paths, "background_threshold": args.background_threshold} if args.background_threshold else paths


def for_cvat(labeller: Labeller, arguments: dict[str, Any], folder: Path) -> tuple[dict[str, str], str]:
    """(name -> text, what to do next)."""
    files = {
        "labels.json": json.dumps(cvat.label_list(labeller), indent=1, ensure_ascii=False) + "\n",
        "function.py": cvat.function_file(arguments),
    }
    create = f"cvat-cli task create NAME local PHOTOS --labels @{folder}/labels.json"
    annotate = f"cvat-cli task auto-annotate TASK --function-file {folder}/function.py"
    return files, f"next: {create}, then {annotate}"


def for_label_studio(labeller: Labeller, arguments: dict[str, Any], folder: Path) -> tuple[dict[str, str], str]:
    """(name -> text, what to do next)."""
    files = {
        "labels_brush.xml": label_studio.interface(labeller.names, "BrushLabels"),
        "labels_polygons.xml": label_studio.interface(labeller.names, "PolygonLabels"),
        "_wsgi.py": label_studio.wsgi_file(arguments),
    }
    return files, f"next: one of the two xml as the project's labelling interface, then label-studio-ml start {folder}"


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m fmbseg_jax.connect`."""
    flags = parser(__doc__ or "", config=False)
    source = flags.add_mutually_exclusive_group(required=True)
    source.add_argument("--workdir", metavar="RUN", help="folder that fmbseg_jax.train wrote, or hf://OWNER/NAME")
    source.add_argument("--data", metavar="DATA", help="folder that labelgen.run wrote: its labels, by names of files")
    flags.add_argument("--labels", default="default", metavar="NAME", help="labels.name of DATA (default: %(default)s)")
    flags.add_argument("--to", required=True, choices=TOOLS, help="the tool")
    flags.add_argument("--out", required=True, metavar="FOLDER", help="folder to write to")
    flags.add_argument("--words", default="", metavar="FILE", help="other words than the trained ones")
    flags.add_argument("--background_threshold", type=float, default=0.0, metavar="P", help="less sure is background")
    flags.add_argument("--weights_dir", default="", metavar="FOLDER", help="where the weights are now")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
