"""Free labels as files of other tools, so that a person can look at them and correct them.

    python -m labelgen.export --config=configs/my_photos.py --data=DATA --out=FOLDER --format=png,coco,labelme,cvat,yolo

Writes labels/NAME of DATA (labels.name of the config) for every labelled split, with the confidence beside them, and
the names of the pictures as they are under photos.root. What is unlabelled stays so where the format can say it;
docs/formats.md says what each keeps and loses, the last line what these files lost. Corrected PNGs, LabelMe's files, a
COCO json or CVAT's xml come back by `python -m labelgen.run --labels_from=FOLDER`.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from labelgen.core.command import command, command_line, config_flags, parser
from labelgen.core.config import load_config
from labelgen.core.ontology import ignore_value
from labelgen.core.progress import Progress
from labelgen.data.dataset import Dataset
from labelgen.data.records import LabelRow
from labelgen.data.staging import open_data
from labelgen.formats.claimed import claim_folder, say_whole
from labelgen.formats.classes import class_infos
from labelgen.formats.exporter import FORMATS, Export, locate, read_formats, split_source
from labelgen.formats.writers import Annotated
from labelgen.sources.finding import check_apart
from labelgen.sources.registry import photo_folders


def main(args: argparse.Namespace) -> int:
    """Write all labelled photos in every format."""
    config = load_config(args.config, args.overrides)
    formats = read_formats(args.format)
    check_apart(args.out, photo_folders(config.photos))
    data = open_data(args.data, config.data_cache)
    name = config.labels.name
    ontology = data.labels(name).ontology
    splits = data.labels_info(name)["splits"]
    folder, digest = Path(args.out), data.labels_info(name)["digest"]
    made_by = {"command": "labelgen.export", "labels (digest)": digest, "classes": ", ".join(ontology.names)}
    claim_folder(folder, made_by, ontology.names)
    out = Export(folder, formats, class_infos(ontology, ontology.names, config.eval.groups))
    progress = Progress(sum(map(data.count, splits)), "photos", "export")
    lost_pictures = 0
    for photo in labelled(data, config, splits):
        out.add(photo)
        lost_pictures += photo.path is None
        progress.add()
    progress.close()
    states = [out.state()]
    out.finish(states)
    say_whole(folder, made_by, {"photos": sum(map(data.count, splits))})
    missing = f"; {lost_pictures} pictures are not under photos.root: their file names lack a suffix" * bool(
        lost_pictures
    )
    print(
        f"wrote the labels {name!r} of {sum(map(data.count, splits))} photos ({', '.join(formats)}) to {args.out}"
        f"{missing}{out.remarks(states)}; once corrected: {next_command(args, formats, name)}"
    )
    return 0


def next_command(args: argparse.Namespace, formats: Sequence[str], name: str) -> str:
    """What makes labels of corrected files; name: that of the labels that were exported."""
    back = f"--labels_from={come_back(args.out, formats)}"
    corrected = "--config.labels.name=corrected" + "_again" * (name == "corrected")
    flags = config_flags(args, "labels.name")
    return command_line("labelgen.run", *flags, f"--out={args.data}", "--stage=label", back, corrected)


def labelled(data: Dataset, config: ConfigDict, splits: list[str]) -> Iterator[Annotated]:
    """The photos of labelled splits."""
    number = 0
    for split in splits:
        source = split_source(config.photos, split)
        reader = data.label_reader(config.labels.name, split)
        data.stage(split, [f"labels/{config.labels.name}"], range(len(reader)))
        for i in range(len(reader)):
            row = LabelRow.decode(reader[i])
            label_map = np.where(row.label_map == ignore_value(row.label_map), -1, row.label_map.astype(np.int32))
            name = f"{split}/{row.photo_id}"
            file, path = locate(config.photos.root, source, row.photo_id, name)
            yield Annotated(number, name, file, path, label_map, row.confidence)
            number += 1


def come_back(out: str, formats: Sequence[str]) -> str:
    """What is to be given to labelgen.run once it is corrected; what a tool writes where it is none of these files."""
    back = {"png": "masks", "coco": "coco/semantic.json", "labelme": "labelme", "cvat": "cvat/annotations.xml"}
    back["fiftyone"] = "fiftyone/masks"
    return next((f"{out}/{back[name]}" for name in formats if name in back), "FOLDER")


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m labelgen.export`."""
    flags = parser(__doc__ or "")
    flags.add_argument("--data", required=True, metavar="DATA", help="folder that labelgen.run wrote")
    flags.add_argument("--out", required=True, metavar="FOLDER", help="folder to write to")
    flags.add_argument("--format", default="png", metavar="NAMES", help=f"any of {','.join(FORMATS)} (default: png)")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
