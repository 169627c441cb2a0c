"""Masks of photos by a trained head: every pixel the class whose words fit best. No truth, no SAM, no dense CLIP.

    python -m fmbseg_jax.predict --workdir=RUN --photos=FOLDER --out=MASKS
    python -m fmbseg_jax.predict --workdir=RUN --photos=FOLDER --out=MASKS --words=other_words.txt
    python -m fmbseg_jax.predict --workdir=RUN --data=DATA --out=MASKS --format=png,coco,labelme,cvat,yolo
    python -m fmbseg_jax.predict --workdir=RUN --picture=FIELD.tif --out=MASKS      # any size, in tiles; docs/large.md
    python -m fmbseg_jax.predict --workdir=RUN --video=CLIP.mp4 --out=MASKS

Takes RUN, and either DATA (encoded photos) or a folder of photos, which are encoded on the fly. --words names other
classes than the head was trained with; nothing is trained again, and what is new to the head is found by the RUN's
dense map (fmbseg_jax.runs.dense_map). --sharpen draws edges by the photo's colours. Writes into MASKS, as --format
says:

    masks/ID.png        png: class index a pixel, exactly the photo's size (palette PNG; 16-bit grey beyond 255 classes)
    classes.json        png: name -> index, colour, words
    coco/ labelme/ cvat/ yolo/      the same for other tools; docs/formats.md says what each keeps and loses
    overlays/ID.jpg     the photo tinted by its mask
    failures.jsonl      one line a photo that could not be read, or is another than was encoded: file, reason, fix
    predicted-0.jsonl   which photos are done: the same command on a folder that gained photos, or was killed, predicts
                        the others alone
    made_by.json        which RUN and words MASKS belongs to, others are refused; "whole" once all of it is there

Over several hosts (the same command on each, with --distributed) each writes the masks of its share of the photos.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmbseg_jax.inference.embedder import Embedder, Towers, check_fits
from fmbseg_jax.inference.label_maps import Background, pixel_classes, sharpened_classes
from fmbseg_jax.inference.large import predict_tiles, stitch
from fmbseg_jax.inference.other_words import Asked
from fmbseg_jax.inference.tiles import tiling
from fmbseg_jax.inference.video import about, predict_video
from fmbseg_jax.reporting.evaluation import class_names
from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.checkpoint import Restored, checksum, restore_run
from fmbseg_jax.runs.shared_gpu import how_shared, leave_room_for_torch
from labelgen.core.command import command, command_line, numbers, parser, share_below_one, whole
from labelgen.core.errors import PhotoError, UserError
from labelgen.core.files import write_atomic
from labelgen.core.ontology import Ontology, class_scores, read_words
from labelgen.core.progress import Progress, StageTimes
from labelgen.data.records import FeatureRow
from labelgen.data.staging import open_data
from labelgen.data.thumbnail import is_same
from labelgen.formats.claimed import claim_folder, is_whole, say_whole
from labelgen.formats.exporter import FORMATS, Export, class_infos, locate, read_formats, split_source
from labelgen.formats.palette import overlay
from labelgen.formats.predicted import Predicted
from labelgen.formats.writers import Annotated, ClassInfo, PngWriter, save
from labelgen.sources.decoding import liberties
from labelgen.sources.finding import LeftOut, check_apart
from labelgen.sources.folders import folder_source
from labelgen.sources.large import LargePicture
from labelgen.sources.photos import Photo, Source
from labelgen.sources.registry import mask_folders, photo_folders

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Failure = dict[str, Any]


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


class Kept(NamedTuple):
    """A photo whose mask is there."""

    number: int
    name: str
    file: str
    path: Path


class Photos(NamedTuple):
    """This host's share of what there is to predict; `failures` and `replaced` (the photo's number, why) fill up as
    `rows` is read: photos that cannot be read, and pictures that are no longer those that were encoded."""

    total: int
    rows: Iterator[Item]
    failures: list[tuple[int, Failure]]
    replaced: list[tuple[int, Failure]]
    """Pictures that are others than those of DATA."""
    changed: list[tuple[int, Failure]]
    """Liberties taken with pictures, see labelgen.sources.decoding."""
    left_out: LeftOut
    """What lies among them and is no photo."""
    kept: Sequence[Kept] = ()
    """Those that are done already."""
    predicted: Predicted | None = None
    """Where what is done is noted."""
    gone: int = 0
    """Masks of photos that are not in the folder any more."""


def main(args: argparse.Namespace) -> int:
    """Write masks, overlays and what else the formats have."""
    times = StageTimes()
    formats = read_formats(args.format)
    if not args.picture and (
        lone := next((name for name in ("bands", "stretch", "tile_px") if getattr(args, name)), "")
    ):
        raise UserError(f"--{lone} belongs to --picture; leave it out, or name the picture")
    start(args)
    with times("load"):
        asking = Asking.of(args)
    if asking.vocabulary.new:
        hosts.say(f"new to the head, found by CLIP's dense maps alone: {', '.join(asking.vocabulary.new)}")
    if args.picture:
        return whole_picture(args, asking, times)
    if args.video:
        return whole_video(args, asking, times)
    restored, made_by = asking.restored, asking.made_by()
    with times("load"):
        check_apart(args.out, [args.photos] if args.photos else photo_folders(restored.config.photos))
        photos = encoded(restored, args.data) if args.data else on_the_fly(restored, asking.towers, args, formats)
    claim(Path(args.out), made_by, asking.classes)
    out = Masks(Path(args.out), asking.classes, formats, asking.sharpen)
    out.keep(photos)
    progress = Progress(photos.total, "photos", "predict", hosts.errors())
    for item in timed(photos.rows, times):
        with times("head"):
            label_map = asking.label_map(item.row, item.image)
        with times("write"):
            out.write(item, label_map, photos.predicted)
        progress.add()
    progress.close()
    hosts.say(f"time: {times.summary()}")
    hosts.say(f"{out.finish(photos, made_by)}; {next_step(args)}")
    return 0


@dataclass(frozen=True)
class Asking:
    """A RUN and the words that it is asked for."""

    restored: Restored
    towers: Towers
    vocabulary: Asked
    classes: Sequence[ClassInfo]
    threshold: float
    sharpen: bool
    embed: Embedder

    @staticmethod
    def of(args: argparse.Namespace) -> "Asking":
        """UserError for a RUN that cannot be restored, and for words that cannot be used."""
        restored = restore_run(args.workdir)
        towers = Towers(restored, args.weights_dir or "")
        threshold = args.background_threshold
        if threshold is None:
            threshold = restored.config.eval.background_threshold
        vocabulary = Asked(restored, *wanted_words(restored, towers, args.words))
        names, groups = class_names(vocabulary.ontology, threshold), restored.config.eval.get("groups", {})
        classes = class_infos(vocabulary.ontology, names, groups)
        sharpen = args.sharpen if args.sharpen is not None else restored.config.eval.get("sharpen", False)
        return Asking(restored, towers, vocabulary, classes, threshold, sharpen, Embedder(restored, batch_size=1))

    @property
    def background(self) -> Background | None:
        """What takes pixels whose best class is not probable."""
        return Background(self.threshold, self.restored.temperature) if self.threshold else None

    def made_by(self) -> dict[str, Any]:
        """What masks are made by."""
        return maker(self.restored, self.vocabulary, self.classes, self.threshold, self.sharpen)

    def patches(self, row: FeatureRow) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[int, ...]]:
        """Patches, prototypes and word_class of a photo, as `pixel_classes` takes them."""
        by_head = self.vocabulary.by_head
        return self.vocabulary(self.embed([row])[0], None if by_head else self.embed.dense(row))

    def label_map(self, row: FeatureRow, image: Pixels | None) -> NDArray[np.uint16]:
        """Class of each pixel [H, W]; sharpened where the picture is at hand."""
        answered = self.patches(row)
        if self.sharpen and image is not None:
            return sharpened_classes(*answered, image, self.restored.temperature, self.threshold)
        return pixel_classes(*answered, row.size_hw, None, self.background)

    def scores(self, image: Pixels) -> NDArray[np.float32]:
        """float32 [h, w, C] of a tile uint8 [H, W, 3]."""
        patches, prototypes, word_class = self.patches(self.towers.features(Photo("", image)))
        return class_scores(patches @ prototypes.T, word_class).astype(np.float32)


def whole_picture(args: argparse.Namespace, asking: Asking, times: StageTimes) -> int:
    """One picture of any size, in tiles."""
    if args.format != "png" or args.distributed != hosts.OFF:
        raise UserError("--picture: writes GeoTIFF and GeoJSON, in one process: leave --format and --distributed out")
    if asking.sharpen:
        raise UserError("--picture: is not sharpened by its colours; --no-sharpen")
    towers, out = asking.towers, Path(args.out)
    if (out / Path(args.picture).with_suffix(".tif").name).resolve() == Path(args.picture).resolve():
        raise UserError(f"--out={out}: the mask would take the place of the picture; name another folder")
    with LargePicture(args.picture, args.bands, args.stretch) as picture:
        tiles = tiling(picture.size_hw, towers.grid_hw, towers.patch_px, args.tile_px, args.overlap)
        seen = {**picture.identity(), "px_a_patch": tiles.cell_px, "overlap": args.overlap}
        made_by = {**asking.made_by(), **seen}
        if is_whole(out, made_by):
            hosts.say(f"{out}: is whole already; {next_step(args)}")
            return 0
        claim(out, made_by, asking.classes)
        count = len(tiles.starts(0)) * len(tiles.starts(1))
        hosts.say(f"{picture.path.name}: {picture.size_hw[1]} x {picture.size_hw[0]} px in {count} tiles")
        for remark in picture.remarks:
            hosts.say(f"{picture.path.name}: {remark}")
        progress, folder = Progress(count, "tiles", "predict", hosts.errors()), out / f"{picture.path.stem}.tiles"
        classes = len(asking.vocabulary.ontology.names)
        with times("tiles"):
            done, kept = predict_tiles(picture, tiles, asking.scores, classes, folder, progress)
        progress.close()
        with times("write"):
            rows = Progress(picture.size_hw[0], "rows of px", "stitch", hosts.errors())
            regions, unmeasured = stitch(picture, tiles, folder, asking.background, asking.classes, out, rows)
            rows.close()
    counts = {"tiles": done + kept, "regions": regions, "unmeasured_px": unmeasured}
    say_whole(out, made_by, counts)
    said = f"; {kept} tiles were there already" * bool(kept)
    said += f"; {unmeasured} px have no value, and no class" * bool(unmeasured)
    hosts.say(f"time: {times.summary()}")
    name = out / picture.path.stem
    hosts.say(f"wrote {name}.tif and {name}.geojson with {regions} regions, of {done} tiles{said}; {next_step(args)}")
    return 0


def whole_video(args: argparse.Namespace, asking: Asking, times: StageTimes) -> int:
    """Every frame of a video, as a photo."""
    if args.format != "png" or args.distributed != hosts.OFF:
        raise UserError("--video: writes PNGs and a video, in one process: leave --format and --distributed out")
    path, out = Path(args.video), Path(args.out)
    if (out / f"{path.stem}.mp4").resolve() == path.resolve():
        raise UserError(f"--out={out}: the tinted video would take the place of the video; name another folder")
    count, video = about(path)
    made_by = {**asking.made_by(), **video}
    if is_whole(out, made_by):
        hosts.say(f"{out}: is whole already; {next_step(args)}")
        return 0
    claim(out, made_by, asking.classes)
    asking.towers.load_patches()

    def label(image: Pixels) -> NDArray[np.uint16]:
        with times("frames"):
            return asking.label_map(asking.towers.features(Photo("", image)), image)

    colours = np.array([info.colour for info in asking.classes], np.uint8)
    progress, writer = Progress(count, "frames", "predict", hosts.errors()), PngWriter(out, asking.classes)
    found = predict_video(path, out, label, writer, colours, progress)
    progress.close()
    total = found.masks + found.kept
    say_whole(out, made_by, {"masks": total, "damaged": found.damaged})
    said = f"; {found.kept} masks were there already" * bool(found.kept)
    said += f"; the video is damaged after frame {total}, what comes then has no mask" * found.damaged
    said += "; its sound is left out" * found.sound
    name = out / f"{path.stem}.mp4"
    hosts.say(f"wrote {found.masks} masks to {out / 'masks' / path.stem} and {name}{said}; {next_step(args)}")
    return 0


def start(args: argparse.Namespace) -> None:
    """Joins the other processes. Where torch will encode photos or words, jax leaves it memory of a GPU both are on."""
    if args.data and not args.words:
        hosts.start(args.distributed)
        return
    leave_room_for_torch()
    hosts.start(args.distributed)
    if line := how_shared(jax.local_devices()):
        hosts.say(line)


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
    return Photos(count, rows(), [], replaced, [], LeftOut())


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


def on_the_fly(restored: Restored, towers: Towers, args: argparse.Namespace, formats: Sequence[str]) -> Photos:
    """The photos of a folder, each encoded when its turn comes; bad ones go to `failures`.

    Those that have their mask already, as far as PNGs are wanted, are kept."""
    folder = args.photos
    if not Path(folder).is_dir():
        raise UserError(f"--photos={folder}: no such folder of photos")
    photos = restored.config.photos
    source = folder_source(Path(folder), photos.max_pixels, never=mask_folders(photos))
    towers.load_patches()
    failures: list[tuple[int, Failure]] = []
    changed: list[tuple[int, Failure]] = []
    names, predicted = source.list(), Predicted(Path(args.out), hosts.index())
    kept = list(already(folder, source, names, predicted)) if "png" in formats else []
    left = sorted({*hosts.own_rows(len(names))} - {each.number for each in kept})

    def rows() -> Iterator[Item]:
        for i in left:
            photo_id = names[i]
            file = source.file(photo_id)
            try:
                with liberties() as taken:
                    photo = source.load(photo_id)
            except PhotoError as error:
                failures.append((i, {"file": file, "reason": error.reason, "mend": error.fix}))
                continue
            changed.extend((i, {"file": file, "used": True, **each._asdict()}) for each in dict.fromkeys(taken))
            yield Item(i, photo_id, towers.features(photo), photo.image, *locate(folder, source, photo_id, photo_id))

    return Photos(len(left), rows(), failures, [], changed, source.left_out, kept, predicted, predicted.gone(names))


def already(folder: str, source: Source, names: Sequence[str], predicted: Predicted) -> Iterator[Kept]:
    """This host's photos that are done."""
    for i in hosts.own_rows(len(names)):
        file, path = locate(folder, source, names[i], names[i])
        if path is not None and predicted.has(names[i], path):
            yield Kept(i, names[i], file, path)


def next_step(args: argparse.Namespace) -> str:
    """What to do after prediction."""
    if args.words:
        return f"next: look at {args.out}"
    given = (name for name in ("data", "photos", "picture", "video") if getattr(args, name))
    photos = next(f"--{name}={getattr(args, name)}" for name in given)
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
        self._classes = len(classes)
        self._colours = np.array([info.colour for info in classes], np.uint8)
        self._masks = self._overlays = self._kept = 0

    def keep(self, photos: Photos) -> None:
        """Takes what is done already into the formats' files about all photos, by the masks."""
        self._kept = len(photos.kept)
        if photos.predicted is not None and self._formats != ("png",):
            for each in photos.kept:
                label_map = photos.predicted.label_map(each.name, self._classes)
                self._export.add(Annotated(each.number, each.name, each.file, each.path, label_map))

    def write(self, item: Item, label_map: NDArray[np.uint16], predicted: Predicted | None = None) -> None:
        """The mask and, where the picture is at hand, the overlay of one photo; which is then noted in `predicted`."""
        self._export.add(Annotated(item.number, item.name, item.file, item.path, label_map.astype(np.int32)))
        self._masks += 1
        if item.image is not None:
            data = io.BytesIO()
            Image.fromarray(overlay(item.image, label_map, self._colours)).save(data, "JPEG", quality=90)
            save(self._folder / "overlays" / f"{item.name}.jpg", data.getvalue())
            self._overlays += 1
        if predicted is not None and item.path is not None:
            predicted.note(item.name, item.path)

    def finish(self, photos: Photos, made_by: Mapping[str, Any]) -> str:
        """Writes failures.jsonl, the formats' last files and, last, that MASKS is whole; the last line to print.

        UserError when no photo could be used.
        """
        failures, replaced, changed = (in_order(of) for of in (photos.failures, photos.replaced, photos.changed))
        masks, overlays, kept = (int(n) for n in hosts.total(np.array([self._masks, self._overlays, self._kept])))
        states = hosts.gather(self._export.state())
        left = photos.left_out
        lines = [*failures, *replaced, *changed, *left.lines()]
        counts = {"masks": masks + kept, "overlays": overlays + kept}
        counts |= {"skipped": len(failures), "replaced": len(replaced)}
        if hosts.is_first():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._export.finish(states)
            text = "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)
            write_atomic(self._folder / "failures.jsonl", text.encode())
            say_whole(self._folder, made_by, counts)
        if failures and not masks and not kept:
            raise UserError(f"none of {len(failures)} photos could be read; {self._folder / 'failures.jsonl'} says why")
        kinds = "" if self._formats == ("png",) else f" ({', '.join(self._formats)})"
        see = f", see {self._folder / 'failures.jsonl'}"
        there = f"; {kept} masks were there already" * bool(kept)
        there += f"; {photos.gone} masks are of photos that are not there any more" * bool(photos.gone)
        taken = [f"; {count} {reason}{see}" for reason, count in Counter(line["reason"] for line in changed).items()]
        listed = f"; {left.said()}{see}" * bool(left.said())
        remarks = there + self._remarks(counts) + "".join(taken) + listed + self._export.remarks(states)
        without = "" if overlays or kept or replaced else " (no overlays: the photos are not at photos.root any more)"
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


def picture_arguments(flags: argparse.ArgumentParser) -> None:
    """How a large picture is looked at, and cut."""
    flags.add_argument(
        "--bands", type=numbers(int), default=(), metavar="R,G,B", help="of a picture: three bands, or one"
    )
    flags.add_argument(
        "--stretch",
        type=numbers(float),
        default=(),
        metavar="LOW,HIGH",
        help="of a picture: percentiles that become 0 and 255 (default: 0.5,99.5; 8 bits as they are)",
    )
    flags.add_argument(
        "--tile_px",
        type=whole(1),
        default=0,
        metavar="N",
        help="of a picture: px of a tile (default: the encoder's)",
    )
    flags.add_argument(
        "--overlap", type=share_below_one, default=0.25, metavar="P", help="of a picture: of neighbouring tiles"
    )


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m fmbseg_jax.predict`."""
    flags = parser(
        __doc__ or "",
        config=False,
        stopped="the same command goes on (with --data it begins again); until it ends MASKS is not whole",
    )
    flags.add_argument("--workdir", required=True, metavar="RUN", help="folder or url that fmbseg_jax.train wrote")
    photos = flags.add_mutually_exclusive_group(required=True)
    photos.add_argument("--data", metavar="DATA", help="encoded photos: folder or url that labelgen.run wrote")
    photos.add_argument("--photos", metavar="FOLDER", help="photos of any kind, encoded on the fly")
    photos.add_argument("--picture", metavar="FILE", help="one picture of any size, in tiles: GeoTIFF and others")
    photos.add_argument("--video", metavar="FILE", help="a video: a mask a frame, and the video tinted")
    picture_arguments(flags)
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
