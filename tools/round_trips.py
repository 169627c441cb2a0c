"""Exports read by the packages that people use, and what these write read back: pixels that differ.

    python -m tools.round_trips --out=build/round_trips
    python -m tools.round_trips --out=build/round_trips --only=labelme,datumaro-cvat

Draws some pocket scenes, labels them, exports every format, and has each package of PINS read its own
(tools/foreign_tools.py), in an environment made in OUT/env. What a package writes comes back by `labelgen.run
--labels_from`. Prints a table; ends with 2 where a figure is above what the format must lose. Wants a package index,
and --panopticapi=FOLDER, a checkout of github.com/cocodataset/panopticapi, where GitHub cannot be reached.
"""

import argparse
import os
import platform
import subprocess
import sys
import venv
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelgen.core.command import columns, command, names, parser
from labelgen.core.errors import UserError
from labelgen.core.ontology import ignore_value
from labelgen.core.progress import say
from labelgen.data.dataset import Dataset
from labelgen.data.records import LabelRow

ROOT = Path(__file__).parents[1]
PINS = (
    *("torch==2.13.0", "torchvision==0.28.0", "pycocotools==2.0.11", "faster-coco-eval==1.8.0", "supervision==0.31.2"),
    *("datumaro==1.13.12", "ultralytics==8.4.190", "labelme==6.3.1", "label-studio-sdk==2.1.2", "transformers==5.24.0"),
)
PANOPTICAPI = "git+https://github.com/cocodataset/panopticapi@7bb4655548f98f3fedc07bf37e9040a992b054b0"
Maps = dict[str, NDArray[np.int32]]
"""SPLIT/ID -> [H, W] class, -1 unlabelled."""


class Trip(NamedTuple):
    """A tool of tools/foreign_tools.py and a format."""

    format: str
    out: float
    """Pixels in % that may differ in what it reads."""
    back: float | None = None
    """The same of what it wrote, once that came back; None where it writes no format that comes in."""
    why: str = ""
    """What is lost, where something is."""
    own: bool = False
    """It draws maps of its own, which are what comes back."""


_FOREIGN = "import sys; sys.path.insert(0, sys.argv[1]); from foreign_tools import main; main(*sys.argv[2:])"
HOLES, OUTLINES = "unlabelled pixels in holes", "outlines count as inside"
CENTRES = "polygons go through pixels' centres"
TRIPS = {
    "pycocotools": Trip("coco/semantic.json", 0, 0),
    "faster-coco-eval": Trip("coco/semantic.json", 0),
    "torchvision": Trip("coco/semantic.json", 0),
    "panopticapi": Trip("coco/panoptic.json", 0),
    "supervision-coco": Trip("coco/semantic.json", 0, 4, f"back: {CENTRES}"),
    "supervision-yolo": Trip("yolo", 4, None, f"{HOLES}; {OUTLINES}"),
    "datumaro-coco": Trip("coco/semantic.json", 0, 4, f"back: {CENTRES}"),
    "datumaro-panoptic": Trip("coco/panoptic.json", 0, 0),
    "datumaro-cvat": Trip("cvat/annotations.xml", 0, 0),
    "datumaro-voc": Trip("coco/semantic.json, back VOC's PNGs", 0, 0),
    "ultralytics": Trip("yolo", 2, None, HOLES),
    "ultralytics-drawn": Trip("yolo", 4, None, f"{HOLES}; {OUTLINES}"),
    "labelme": Trip("labelme", 2.5, 0, f"out: {OUTLINES}"),
    "labelme-shapes": Trip("rectangle, oriented_rectangle, circle, mask", 0, 2, f"back: {OUTLINES}", own=True),
    "label-studio-brush": Trip("png, as brushes; back JSON", 0, 0),
    "label-studio-png": Trip("png, as brushes; back its PNGs with the JSON", 0, 0),
    "label-studio-polygons": Trip("cvat's polygons, back COCO", 0, 0),
    "label-studio-json": Trip("cvat's polygons, back JSON", 0, 0),
    "label-studio-yolo": Trip("cvat's polygons as its YOLO", 0),
    "mask2former": Trip("png", 0),
}


class Row(NamedTuple):
    """A line of the table."""

    tool: str
    version: str
    format: str
    direction: str
    differs: str
    """In %, or what went wrong."""
    limit: float
    wrong: bool


def main(args: argparse.Namespace) -> int:
    """Prints the table."""
    unknown = [name for name in args.only if name not in TRIPS]
    if unknown:
        raise UserError(f"--only: no tool {unknown[0]!r}; there are {', '.join(TRIPS)}")
    world = Path(args.out).absolute()
    environment(world / "env", args.panopticapi)
    make_world(world)
    wanted = labels(world, "default")
    rows = [row for name in args.only or TRIPS for row in trip(world, name, wanted)]
    cells = [(*row[:4], row.differs, f"{row.limit:g}", TRIPS[row.tool].why) for row in rows]
    heads = ("tool", "version", "format", "direction", "differs, %", "at most", "what is lost")
    print(columns(heads, cells, right=("differs, %", "at most")))
    pixels = sum(label_map.size for label_map in wanted.values())
    unlabelled = sum(int((label_map < 0).sum()) for label_map in wanted.values())
    setting = f"{date.today()}, Python {platform.python_version()}"
    print(f"{setting}: {len(wanted)} photos, {pixels:,} px, {unlabelled:,} of them unlabelled")
    wrong = [row for row in rows if row.wrong]
    if wrong:
        raise UserError(f"{len(wrong)} of {len(rows)} ways lose what they should not; {world} has the files")
    return 0


def environment(folder: Path, panopticapi: str) -> None:
    """Made once for these pins."""
    wanted = "\n".join((*PINS, panopticapi or PANOPTICAPI))
    done = folder / "installed.txt"
    if done.is_file() and done.read_text() == wanted:
        return
    say(f"installing {', '.join(PINS)}, panopticapi")
    venv.create(folder, with_pip=True)
    pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-compile"]
    run(*pip, *PINS)
    run(*pip, "--no-deps", panopticapi or PANOPTICAPI)
    done.write_text(wanted)


def make_world(world: Path) -> None:
    """photos/, data/, export/: made once."""
    photos, data, config = world / "photos", world / "data", ["--config=configs/pocket.py"]
    config.append(f"--config.photos.root={photos}")
    if not (world / "export/classes.json").is_file():
        run(sys.executable, "-m", "pocket.scenes", f"--out={photos}", "--train=6", "--eval=1", "--held_out=1")
        run(sys.executable, "-m", "labelgen.run", *config, f"--out={data}")
        formats = "--format=coco,labelme,cvat,yolo,png"
        run(sys.executable, "-m", "labelgen.export", *config, f"--data={data}", f"--out={world / 'export'}", formats)


def trip(world: Path, name: str, wanted: Maps) -> list[Row]:
    """There, and back where there is a way back."""
    kind, out = TRIPS[name], world / "tools" / name
    run("rm", "-rf", out)
    out.mkdir(parents=True)
    say(name)
    quiet = {"YOLO_CONFIG_DIR": str(out), "YOLO_OFFLINE": "true", "HF_HUB_OFFLINE": "1", "QT_QPA_PLATFORM": "offscreen"}
    try:
        run(world / "env/bin/python", "-c", _FOREIGN, ROOT / "tools", world, name, out, **quiet)
    except UserError as error:
        return [Row(name, "", kind.format, "out", str(error).splitlines()[-1][-90:], kind.out, True)]
    version = (out / "version").read_text()
    with np.load(out / "maps.npz") as found:
        read = dict(found)
    wanted = read if kind.own else wanted
    rows = [] if kind.own else [row(name, version, "out", kind.out, wanted, read)]
    if kind.back is None:
        return rows
    label = "back_" + name.replace("-", "_")
    config = "--config=configs/pocket.py", f"--config.photos.root={world / 'photos'}", f"--out={world / 'data'}"
    run("rm", "-rf", world / "data/labels" / label)
    try:
        way_back = [f"--labels_from={back(out)}", f"--config.labels.name={label}", "--stage=label"]
        run(sys.executable, "-m", "labelgen.run", *config, *way_back)
    except UserError as error:
        return [*rows, Row(name, version, kind.format, "back", str(error).splitlines()[-1][-90:], kind.back, True)]
    return [*rows, row(name, version, "back", kind.back, wanted, labels(world, label))]


def back(out: Path) -> Path:
    """What to give to --labels_from: the one json, else the folder."""
    jsons = list((out / "back").rglob("*.json"))
    return jsons[0] if len(jsons) == 1 else out / "back"


def row(name: str, version: str, direction: str, limit: float, wanted: Maps, found: Maps) -> Row:
    """How much differs; photos that are missing differ in all."""
    nothing = np.zeros((0, 0), np.int32)
    pairs = [(label_map, found.get(key, nothing)) for key, label_map in wanted.items()]
    wrong = sum(a.size if a.shape != b.shape else int((a != b).sum()) for a, b in pairs)
    share = 100 * wrong / sum(label_map.size for label_map in wanted.values())
    return Row(name, version, TRIPS[name].format, direction, f"{share:.2f}" if wrong else "0", limit, share > limit)


def labels(world: Path, name: str) -> Maps:
    """The label maps of labels/NAME."""
    reader = Dataset.open(world / "data").label_reader(name, "train")
    rows = (LabelRow.decode(reader[i]) for i in range(len(reader)))
    return {
        f"train/{row.photo_id}": np.where(
            row.label_map == ignore_value(row.label_map), -1, row.label_map.astype(np.int32)
        )
        for row in rows
    }


def run(*arguments: object, **environment: str) -> None:
    """UserError with the last line that it printed where it fails."""
    told = [str(argument) for argument in arguments]
    done = subprocess.run(told, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(told[:6])}: {(done.stderr or done.stdout).strip() or done.returncode}")


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m tools.round_trips`."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--out", required=True, metavar="FOLDER", help="for the environment (3 GB) and all files")
    flags.add_argument("--only", type=names, default=[], metavar="NAMES", help=f"of {','.join(TRIPS)}")
    flags.add_argument("--panopticapi", default="", metavar="FOLDER", help="a checkout (default: from GitHub)")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
