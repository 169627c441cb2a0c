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
from collections.abc import Sequence
from pathlib import Path

import jax

from fmbseg_jax.predicting.asking import Asking, claim
from fmbseg_jax.predicting.folder import Masks, encoded, on_the_fly, timed
from fmbseg_jax.predicting.picture import OVERLAP, Looking, whole_picture
from fmbseg_jax.predicting.video import whole_video
from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.shared_gpu import how_shared, leave_room_for_torch
from labelgen.core.command import command, command_line, numbers, parser, share_below_one, whole
from labelgen.core.errors import UserError
from labelgen.core.progress import Progress, StageTimes
from labelgen.formats.exporter import FORMATS, read_formats
from labelgen.sources.finding import check_apart
from labelgen.sources.registry import photo_folders


def main(args: argparse.Namespace) -> int:
    """Write masks, overlays and what else the formats have."""
    times = StageTimes()
    formats = read_formats(args.format)
    given = [name for name in ("bands", "stretch", "tile_px", "overlap") if getattr(args, name) is not None]
    if given and not args.picture:
        raise UserError(f"--{given[0]} belongs to --picture; leave it out, or name the picture")
    start(args)
    alone = next((name for name in ("picture", "video") if getattr(args, name)), "")
    if alone and (args.format != "png" or args.distributed != hosts.OFF):
        raise UserError(
            f"--{alone}: is written in its own formats, in one process: leave --format and --distributed out"
        )
    with times("load"):
        asking = Asking.of(
            args.workdir, args.weights_dir or "", args.words or "", args.background_threshold, args.sharpen
        )
    if asking.vocabulary.new:
        hosts.say(f"new to the head, found by CLIP's dense maps alone: {', '.join(asking.vocabulary.new)}")
    done = of_one(args, asking, times) if alone else photo_by_photo(args, formats, asking, times)
    hosts.say(f"{done}; {next_step(args)}")
    return 0


def of_one(args: argparse.Namespace, asking: Asking, times: StageTimes) -> str:
    """One picture or video; what was written."""
    if args.video:
        return whole_video(Path(args.video), Path(args.out), asking, times)
    overlap = OVERLAP if args.overlap is None else args.overlap
    looking = Looking(args.bands or (), args.stretch or (), args.tile_px or 0, overlap)
    return whole_picture(args.picture, Path(args.out), looking, asking, times)


def photo_by_photo(args: argparse.Namespace, formats: Sequence[str], asking: Asking, times: StageTimes) -> str:
    """The photos of DATA or of a folder; what was written."""
    restored, made_by, folder = asking.restored, asking.made_by(), Path(args.out)
    with times("load"):
        check_apart(args.out, [args.photos] if args.photos else photo_folders(restored.config.photos))
        if args.data:
            photos = encoded(restored, args.data)
        else:
            photos = on_the_fly(restored, asking.towers, args.photos, folder, formats)
    claim(folder, made_by, asking.classes)
    out = Masks(folder, asking.classes, formats, asking.sharpen)
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
    return out.finish(photos, made_by)


def start(args: argparse.Namespace) -> None:
    """Joins the other processes. Where torch will encode photos or words, jax leaves it memory of a GPU both are on."""
    if args.data and not args.words:
        hosts.start(args.distributed)
        return
    leave_room_for_torch()
    hosts.start(args.distributed)
    if line := how_shared(jax.local_devices()):
        hosts.say(line)


def next_step(args: argparse.Namespace) -> str:
    """What to do after prediction."""
    if args.words:
        return f"next: look at {args.out}"
    given = (name for name in ("data", "photos", "picture", "video") if getattr(args, name))
    photos = next(f"--{name}={getattr(args, name)}" for name in given)
    weights = [f"--weights_dir={args.weights_dir}"] * bool(args.weights_dir)
    again = [f"--workdir={args.workdir}", photos, *weights, "--words=FILE", "--out=OTHER"]
    return f"next: look at {args.out}; other words: {command_line('fmbseg_jax.predict', *again)}"


def probability(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: a number from 0 to 1")
    return value


def picture_arguments(flags: argparse.ArgumentParser) -> None:
    """How a large picture is looked at, and cut."""
    flags.add_argument("--bands", type=numbers(int), metavar="R,G,B", help="of a picture: three bands, or one")
    flags.add_argument(
        "--stretch",
        type=numbers(float),
        metavar="LOW,HIGH",
        help="of a picture: percentiles that become 0 and 255 (default: 0.5,99.5; 8 bits as they are)",
    )
    flags.add_argument(
        "--tile_px",
        type=whole(1),
        metavar="N",
        help="of a picture: px of a tile (default: the encoder's)",
    )
    flags.add_argument(
        "--overlap", type=share_below_one, metavar="P", help=f"of a picture: of neighbouring tiles (default: {OVERLAP})"
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
