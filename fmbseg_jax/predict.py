"""Masks of photos by a trained head: every pixel the class whose words fit best. No truth, no SAM, no dense CLIP.

    python -m fmbseg_jax.predict --workdir=RUN --photos=FOLDER --out=MASKS
    python -m fmbseg_jax.predict --workdir=RUN --photos=FOLDER --out=MASKS --words=other_words.txt
    python -m fmbseg_jax.predict --workdir=RUN --data=DATA --out=MASKS --format=png,coco,labelme,cvat,yolo

Takes RUN, and either DATA (encoded photos) or a folder of photos, which are encoded on the fly. --words names other
classes than the head was trained with; nothing is trained again, and what is new to the head is found by the RUN's
dense map (fmbseg_jax.runs.dense_map). --sharpen draws edges by the photo's colours. Writes into MASKS, as --format
says:

    masks/ID.png        png: class index a pixel, exactly the photo's size (palette PNG; 16-bit grey beyond 255 classes)
    classes.json        png: name -> index, colour, words
    coco/ labelme/ cvat/ yolo/      the same for other tools; docs/formats.md says what each keeps and loses
    overlays/ID.jpg     the photo tinted by its mask
    failures.jsonl      one line a photo that could not be read, or is another than was encoded: file, reason, fix
    made_by.json        which RUN and words MASKS belongs to, others are refused; "whole" once all of it is there

Over several hosts (the same command on each, with --distributed) each writes the masks of its share of the photos.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmbseg_jax.inference.embedder import Embedder, Towers, check_fits
from fmbseg_jax.inference.label_maps import Background, pixel_classes, sharpened_classes
from fmbseg_jax.inference.other_words import Asked
from fmbseg_jax.reporting.evaluation import class_names
from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.checkpoint import Restored, checksum, restore_run
from fmbseg_jax.runs.shared_gpu import how_shared, leave_room_for_torch
from labelgen.core.command import command, command_line, parser
from labelgen.core.errors import PhotoError, UserError
from labelgen.core.files import write_atomic
from labelgen.core.ontology import Ontology, read_words
from labelgen.core.progress import Progress, StageTimes
from labelgen.data.records import FeatureRow
from labelgen.data.staging import open_data
from labelgen.data.thumbnail import is_same
from labelgen.formats.claimed import claim_folder, say_whole
from labelgen.formats.exporter import FORMATS, Export, class_infos, locate, read_formats, split_source
from labelgen.formats.palette import overlay
from labelgen.formats.writers import Annotated, ClassInfo, save
from labelgen.sources.finding import LeftOut, check_apart
from labelgen.sources.folders import folder_source
from labelgen.sources.photos import Source
from labelgen.sources.registry import mask_folders, photo_folders

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Failure = dict[str, str]


class Item(NamedTuple):
    """A photo to predict."""

    number: int
    """Its place among all photos of all hosts."""
    name: str
    """ID, or SPLIT/ID."""
    row: FeatureRow
    image: Pixels | None
    """[H, W, 3]; None where the picture itself is not at hand."""
    file: str
    """What tools are to call the picture."""
    path: Path | None
    """Where it lies; None where that is not known."""


class Photos(NamedTuple):
    """This host's share of what there is to predict; `failures` and `replaced` (the photo's number, why) fill up as
    `rows` is read: photos that cannot be read, and pictures that are no longer those that were encoded."""

    total: int
    rows: Iterator[Item]
    failures: list[tuple[int, Failure]]
    replaced: list[tuple[int, Failure]]
    """Pictures that are others than those of DATA."""
    left_out: LeftOut
    """What lies among them and is no photo."""


def main(args: argparse.Namespace) -> int:
    """Write masks, overlays and what else the formats have."""
    times = StageTimes()
    formats = read_formats(args.format)
    start(args)
    with times("load"):
        restored = restore_run(args.workdir)
        towers = Towers(restored, args.weights_dir or "")
        threshold = args.background_threshold
        if threshold is None:
            threshold = restored.config.eval.background_threshold
        vocabulary = Asked(restored, *wanted_words(restored, towers, args.words))
        names, groups = class_names(vocabulary.ontology, threshold), restored.config.eval.get("groups", {})
        classes = class_infos(vocabulary.ontology, names, groups)
        check_apart(args.out, [args.photos] if args.photos else photo_folders(restored.config.photos))
        photos = encoded(restored, args.data) if args.data else on_the_fly(restored, towers, args.photos)
    sharpen = args.sharpen if args.sharpen is not None else restored.config.eval.get("sharpen", False)
    made_by = maker(restored, vocabulary, classes, threshold, sharpen)
    claim(Path(args.out), made_by, classes)
    out = Masks(Path(args.out), classes, formats, sharpen)
    embed = Embedder(restored, batch_size=1)
    if vocabulary.new:
        hosts.say(f"new to the head, found by CLIP's dense maps alone: {', '.join(vocabulary.new)}")
    progress = Progress(photos.total, "photos", "predict", hosts.errors())
    for item in timed(photos.rows, times):
        with times("head"):
            patches = vocabulary(embed([item.row])[0], None if vocabulary.by_head else embed.dense(item.row))
            label_map = labelled(patches, item, restored.temperature, threshold, sharpen)
        with times("write"):
            out.write(item, label_map)
        progress.add()
    progress.close()
    hosts.say(f"time: {times.summary()}")
    hosts.say(f"{out.finish(photos, made_by)}; {next_step(args)}")
    return 0


def start(args: argparse.Namespace) -> None:
    """Joins the other processes. Where torch will encode photos or words, jax leaves it memory of a GPU both are on."""
    if not (args.photos or args.words):
        hosts.start(args.distributed)
        return
    leave_room_for_torch()
    hosts.start(args.distributed)
    if line := how_shared(jax.local_devices()):
        hosts.say(line)


def labelled(
    answered: tuple[Floats, Floats, tuple[int, ...]], item: Item, temperature: float, threshold: float, sharpen: bool
) -> NDArray[np.uint16]:
    """Class of each pixel [H, W]; sharpened where the picture is at hand. answered: as `Asked` gives it."""
    if sharpen and item.image is not None:
        return sharpened_classes(*answered, item.image, temperature, threshold)
    background = Background(threshold, temperature) if threshold else None
    return pixel_classes(*answered, item.row.size_hw, None, background)


def maker(
    restored: Restored, vocabulary: Asked, classes: Sequence[ClassInfo], threshold: float, sharpen: bool
) -> dict[str, Any]:
    """What masks are made by, JSON-able: the head and the words."""
    return {
        "command": "fmbseg_jax.predict",
        "step": restored.step,
        "parameters (digest)": checksum(restored.params),
        "classes": ", ".join(info.name for info in classes),
        "words": vocabulary.ontology.to_json(),
        "background_threshold": threshold,
        **({"sharpened": True} if sharpen else {}),
    }


def claim(folder: Path, made_by: Mapping[str, Any], classes: Sequence[ClassInfo]) -> None:
    """Claims the folder of masks, for all hosts. UserError on all where it has what something else made."""
    refused = ""
    if hosts.is_first():
        try:
            claim_folder(folder, made_by, [info.name for info in classes])
        except UserError as error:
            refused = str(error)
    if refused := hosts.gather(refused)[0]:
        raise UserError(refused)


def wanted_words(restored: Restored, towers: Towers, words: str | None) -> tuple[Ontology, NDArray[np.float32]]:
    """The trained words, or those of a file: (ontology, float32 [K, E] unit rows by the RUN's text tower)."""
    if not words:
        return restored.ontology, restored.prototypes
    ontology = read_words(words)
    return ontology, towers.text(ontology.words)


def encoded(restored: Restored, path: str) -> Photos:
    """The photos of a DATA, split by split; their pictures from photos.root while that is there."""
    config = restored.config
    data = open_data(path, config.get("data_cache", ""))
    check_fits(restored, data)

    replaced: list[tuple[int, Failure]] = []

    def rows() -> Iterator[Item]:
        before = 0
        for split in data.splits:
            source = split_source(config.photos, split)
            reader = data.reader("features", split)
            data.stage(split, ["features"], hosts.own_rows(len(reader)))
            for i in hosts.own_rows(len(reader)):
                row = FeatureRow.decode(reader[i])
                name = f"{split}/{row.photo_id}"
                image = None if source is None else picture(source, row)
                if source and image is not None and not is_same(image, row.size_hw, row.thumbnail):
                    replaced.append((before + i, {"file": source.file(row.photo_id), **_REPLACED}))
                    image = None
                yield Item(before + i, name, row, image, *locate(config.photos.root, source, row.photo_id, name))
            before += len(reader)

    count = sum(len(hosts.own_rows(data.count(split))) for split in data.splits)
    return Photos(count, rows(), [], replaced, LeftOut())


_REPLACED = {
    "reason": "another picture than the one that DATA was encoded with; the mask is of that one",
    "mend": "put that one back, or encode into a new DATA",
}


def picture(source: Source, row: FeatureRow) -> Pixels | None:
    """The picture of a row's name uint8 [H, W, 3], None where it is not there any more."""
    try:
        return source.load(row.photo_id).image
    except (PhotoError, KeyError):
        return None


def on_the_fly(restored: Restored, towers: Towers, folder: str) -> Photos:
    """The photos of a folder, each encoded when its turn comes; bad ones go to `failures`."""
    if not Path(folder).is_dir():
        raise UserError(f"--photos={folder}: no such folder of photos")
    photos = restored.config.photos
    source = folder_source(Path(folder), photos.max_pixels, never=mask_folders(photos))
    towers.load_patches()
    failures: list[tuple[int, Failure]] = []
    names = source.list()

    def rows() -> Iterator[Item]:
        for i in hosts.own_rows(len(names)):
            photo_id = names[i]
            try:
                photo = source.load(photo_id)
            except PhotoError as error:
                failures.append((i, {"file": source.file(photo_id), "reason": error.reason, "mend": error.fix}))
                continue
            yield Item(i, photo_id, towers.features(photo), photo.image, *locate(folder, source, photo_id, photo_id))

    return Photos(len(hosts.own_rows(len(names))), rows(), failures, [], source.left_out)


def next_step(args: argparse.Namespace) -> str:
    """What to do after prediction."""
    if args.words:
        return f"next: look at {args.out}"
    photos = f"--data={args.data}" if args.data else f"--photos={args.photos}"
    weights = [f"--weights_dir={args.weights_dir}"] * bool(args.weights_dir)
    again = [f"--workdir={args.workdir}", photos, *weights, "--words=FILE", "--out=OTHER"]
    return f"next: look at {args.out}; other words: {command_line('fmbseg_jax.predict', *again)}"


def in_order(found: list[tuple[int, Failure]]) -> list[Failure]:
    """All hosts' lines, in the order of the photos. All must call it."""
    return [line for _, line in sorted(chain.from_iterable(hosts.gather(found)), key=lambda pair: pair[0])]


def timed(rows: Iterator[Item], times: StageTimes) -> Iterator[Item]:
    """The same rows; the time that making them takes counts as `read`."""
    while True:
        with times("read"):
            item = next(rows, None)
        if item is None:
            return
        yield item


class Masks:
    """The folder of masks: writes each photo's, counts, and ends with what is about all photos."""

    def __init__(self, folder: Path, classes: Sequence[ClassInfo], formats: Sequence[str], sharpen: bool) -> None:
        self._folder, self._formats, self._sharpen = folder, formats, sharpen
        self._export = Export(folder, formats, classes)
        self._colours = np.array([info.colour for info in classes], np.uint8)
        self._masks = self._overlays = 0

    def write(self, item: Item, label_map: NDArray[np.uint16]) -> None:
        """The mask and, where the picture is at hand, the overlay of one photo."""
        self._export.add(Annotated(item.number, item.name, item.file, item.path, label_map.astype(np.int32)))
        self._masks += 1
        if item.image is not None:
            data = io.BytesIO()
            Image.fromarray(overlay(item.image, label_map, self._colours)).save(data, "JPEG", quality=90)
            save(self._folder / "overlays" / f"{item.name}.jpg", data.getvalue())
            self._overlays += 1

    def finish(self, photos: Photos, made_by: Mapping[str, Any]) -> str:
        """Writes failures.jsonl, the formats' last files and, last, that MASKS is whole; the last line to print.

        UserError when no photo could be used.
        """
        failures, replaced = in_order(photos.failures), in_order(photos.replaced)
        masks, overlays = (int(n) for n in hosts.total(np.array([self._masks, self._overlays])))
        states = hosts.gather(self._export.state())
        left = photos.left_out
        lines = "".join(json.dumps(line, sort_keys=True) + "\n" for line in [*failures, *replaced, *left.lines()])
        counts = {"masks": masks, "overlays": overlays, "skipped": len(failures), "replaced": len(replaced)}
        if hosts.is_first():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._export.finish(states)
            write_atomic(self._folder / "failures.jsonl", lines.encode())
            say_whole(self._folder, made_by, counts)
        if failures and not masks:
            raise UserError(f"none of {len(failures)} photos could be read; {self._folder / 'failures.jsonl'} says why")
        kinds = "" if self._formats == ("png",) else f" ({', '.join(self._formats)})"
        listed = f"; {left.said()}, see {self._folder / 'failures.jsonl'}" * bool(left.said())
        remarks = self._remarks(counts) + listed + self._export.remarks(states)
        without = "" if overlays or replaced else " (no overlays: the photos are not at photos.root any more)"
        return f"wrote {masks} masks{kinds} and {overlays} overlays{without} to {self._folder}{remarks}"

    def _remarks(self, counts: Mapping[str, int]) -> str:
        """What the last line must say of photos that have no mask, or no overlay."""
        see, skipped, replaced = f", see {self._folder / 'failures.jsonl'}", counts["skipped"], counts["replaced"]
        gone = counts["masks"] - counts["overlays"] - replaced
        said = f"; skipped {skipped} photos{see}" * bool(skipped)
        said += f"; {replaced} pictures are others than were encoded, no overlays{see}" * bool(replaced)
        plain = counts["masks"] - counts["overlays"]
        said += f"; {plain} masks are not sharpened, for want of their pictures" * bool(self._sharpen and plain)
        some = counts["overlays"] or replaced
        return said + f"; {gone} pictures are not at photos.root any more, no overlays" * bool(gone and some)


def probability(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: a number from 0 to 1")
    return value


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m fmbseg_jax.predict`."""
    flags = parser(
        __doc__ or "", config=False, stopped="the same command begins again; until it ends MASKS is not whole"
    )
    flags.add_argument("--workdir", required=True, metavar="RUN", help="folder or url that fmbseg_jax.train wrote")
    photos = flags.add_mutually_exclusive_group(required=True)
    photos.add_argument("--data", metavar="DATA", help="encoded photos: folder or url that labelgen.run wrote")
    photos.add_argument("--photos", metavar="FOLDER", help="photos of any kind, encoded on the fly")
    flags.add_argument("--words", metavar="FILE", help="other words, a class a line: `name: word, word`")
    flags.add_argument("--format", default="png", metavar="NAMES", help=f"any of {','.join(FORMATS)} (default: png)")
    flags.add_argument(
        "--background_threshold",
        type=probability,
        metavar="P",
        help="pixels whose best class is less probable are `background`; 0: none (default: eval.background_threshold)",
    )
    flags.add_argument(
        "--sharpen",
        action=argparse.BooleanOptionalAction,
        help="edges by the photo's colours (PAMR); needs the photos (default: eval.sharpen of the RUN)",
    )
    flags.add_argument("--weights_dir", metavar="FOLDER", help="where the weights are now (default: as when trained)")
    flags.add_argument(
        "--distributed", default=hosts.OFF, metavar="HOW", help="off, auto, or ADDRESS:PORT,COUNT,ID of this process"
    )
    flags.add_argument("--out", required=True, metavar="MASKS", help="folder to write to")
    return flags


if __name__ == "__main__":
    hosts.leave(command(main, arguments()))
