"""Masks of photos by a trained head: every pixel the class whose words fit best. No truth, no SAM, no dense CLIP.

    python -m fmbseg_jax.predict --workdir=RUN --photos=FOLDER --out=MASKS
    python -m fmbseg_jax.predict --workdir=RUN --photos=FOLDER --out=MASKS --words=other_words.txt

Takes RUN, and either DATA (encoded photos) or a folder of photos, which are encoded on the fly. --words names other
classes than the head was trained with; nothing is trained again. Writes into MASKS:

    masks/ID.png        class index a pixel, exactly the photo's size (palette PNG; 16-bit grey beyond 256 classes)
    overlays/ID.jpg     the photo tinted by its mask
    classes.json        name -> index, colour, words
    failures.jsonl      one line a photo that could not be read: file, reason, mend

Over several hosts (the same command on each, with --distributed) each writes the masks of its share of the photos.
"""

import argparse
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray
from PIL import Image

from fmbseg_jax import hosts
from fmbseg_jax.checkpoint import Restored, restore_run
from fmbseg_jax.embed import Embedder, check_fits, check_same_weights
from fmbseg_jax.palette import overlay, palette
from fmbseg_jax.segment import pixel_classes
from labelgen.config import command, parser
from labelgen.dataset import write_json
from labelgen.errors import UserError
from labelgen.ontology import Ontology, read_words
from labelgen.progress import Progress, StageTimes
from labelgen.records import FEATURE_DTYPES, FeatureRow
from labelgen.sources.base import PhotoError, Source
from labelgen.sources.choose import open_source
from labelgen.sources.folder import folder_source
from labelgen.staging import open_data
from labelgen.tfrecord import write_atomic

Pixels = NDArray[np.uint8]


Failure = dict[str, str]


class Item(NamedTuple):
    """A photo to predict; image uint8 [H, W, 3], None where the picture itself is not at hand."""

    name: str
    row: FeatureRow
    image: Pixels | None


class Photos(NamedTuple):
    """This host's share of what there is to predict; `failures` (the photo's number, why) fill up as `rows` is read."""

    total: int
    rows: Iterator[Item]
    failures: list[tuple[int, Failure]]


def main(args: argparse.Namespace) -> int:
    """Write masks, overlays and classes.json."""
    times = StageTimes()
    hosts.start(args.distributed)
    with times("load"):
        restored = restore_run(args.workdir)
        if args.weights_dir:
            with restored.config.unlocked():
                restored.config.weights_dir = args.weights_dir
        ontology, prototypes = wanted_words(restored, args.words)
        photos = encoded(restored, args.data) if args.data else on_the_fly(restored, args.photos, args.out)
    out = Masks(Path(args.out), ontology)
    embed = Embedder(restored, batch_size=1)
    progress = Progress(photos.total, "photos", "predict", hosts.errors())
    for item in timed(photos.rows, times):
        with times("head"):
            label_map = pixel_classes(embed([item.row])[0], prototypes, ontology.word_class, item.row.size_hw)
        with times("write"):
            out.write(item, label_map)
        progress.add()
    progress.close()
    hosts.say(f"time: {times.summary()}")
    hosts.say(f"{out.finish(photos)}; {next_step(args)}")
    return 0


def next_step(args: argparse.Namespace) -> str:
    """What to do after prediction."""
    photos = f"--data={args.data}" if args.data else f"--photos={args.photos}"
    other = "" if args.words else f"; other words: python -m fmbseg_jax.predict --workdir={args.workdir} {photos} "
    return f"next: look at {args.out}" + (other and f"{other}--words=FILE --out=OTHER")


def timed(rows: Iterator[Item], times: StageTimes) -> Iterator[Item]:
    """The same rows; the time that making them takes counts as `read`."""
    while True:
        with times("read"):
            item = next(rows, None)
        if item is None:
            return
        yield item


def wanted_words(restored: Restored, words: str | None) -> tuple[Ontology, NDArray[np.float32]]:
    """The trained words, or those of a file: (ontology, float32 [K, E] unit rows by the RUN's text tower)."""
    if not words:
        return restored.ontology, restored.prototypes
    ontology = read_words(words)
    from labelgen.clip import load_clip  # the only need of torch here

    config = restored.config
    clip = load_clip(config.clip, config.weights_dir, config.device, config.dtype)
    check_same_weights(restored, "clip", clip.identity(), config.weights_dir)
    return ontology, clip.text(ontology.words, config.labels.templates)


def encoded(restored: Restored, path: str) -> Photos:
    """The photos of a DATA, split by split; their pictures from photos.root while that is there."""
    data = open_data(path, restored.config.get("data_cache", ""))
    check_fits(restored, data)

    def rows() -> Iterator[Item]:
        for split in data.splits:
            source = pictures(restored.config, split)
            reader = data.reader("features", split)
            data.stage(split, ["features"], hosts.share(len(reader)))
            for i in hosts.share(len(reader)):
                row = FeatureRow.decode(reader[i])
                image = None if source is None else picture(source, row)
                yield Item(f"{split}/{row.photo_id}", row, image)

    return Photos(sum(len(hosts.share(data.count(split))) for split in data.splits), rows(), [])


def pictures(config: ConfigDict, split: str) -> Source | None:
    """The photos that DATA was made of; None where they no longer are, or where RUN knows no such split."""
    try:
        return open_source(config.photos, split, truth=False)
    except (UserError, KeyError):
        return None


def picture(source: Source, row: FeatureRow) -> Pixels | None:
    """The photo of a row uint8 [H, W, 3], None where it is not there any more or has another size."""
    try:
        image = source.load(row.photo_id).image
    except (PhotoError, KeyError):
        return None
    return image if image.shape[:2] == row.size_hw else None


def on_the_fly(restored: Restored, folder: str, out: str) -> Photos:
    """The photos of a folder, each encoded when its turn comes; bad ones go to `failures`."""
    if Path(folder).resolve() in [Path(out).resolve(), *Path(out).resolve().parents]:
        raise UserError(f"--out={out} lies within --photos={folder}: masks would become photos; name another folder")
    if not Path(folder).is_dir():
        raise UserError(f"--photos={folder}: no such folder of photos")
    from labelgen.dinov2 import load_encoder
    from labelgen.encode import feature_row  # torch, for photos that are not encoded yet

    config = restored.config
    source = folder_source(Path(folder), config.photos.max_pixels)
    encoder = load_encoder(config.encoder, config.weights_dir, config.device, config.dtype)
    check_same_weights(restored, "encoder", encoder.identity(), config.weights_dir)
    failures: list[tuple[int, Failure]] = []
    names = source.list()
    dtype = FEATURE_DTYPES[config.encode.feature_dtype]

    def rows() -> Iterator[Item]:
        for i in hosts.share(len(names)):
            photo_id = names[i]
            try:
                photo = source.load(photo_id)
            except PhotoError as error:
                failures.append((i, {"file": source.file(photo_id), "reason": error.reason, "mend": error.mend}))
                continue
            row = feature_row(photo, encoder.features(photo.image), encoder.grid_hw, dtype)
            yield Item(photo_id, row, photo.image)

    return Photos(len(hosts.share(len(names))), rows(), failures)


class Masks:
    """The folder of masks: writes each photo's, counts, and ends with what the colours mean."""

    def __init__(self, folder: Path, ontology: Ontology) -> None:
        self._folder, self._ontology = folder, ontology
        self._colours = palette(max(256, len(ontology.names)))
        self._masks = self._overlays = 0

    def write(self, item: Item, label_map: NDArray[np.uint16]) -> None:
        """The mask and, where the picture is at hand, the overlay of one photo."""
        self._save("masks", f"{item.name}.png", self._mask(label_map), optimize=False)
        self._masks += 1
        if item.image is not None:
            tinted = Image.fromarray(overlay(item.image, label_map, self._colours))
            self._save("overlays", f"{item.name}.jpg", tinted, quality=90)
            self._overlays += 1

    def finish(self, photos: Photos) -> str:
        """Writes classes.json and failures.jsonl; the last line to print. UserError when no photo could be used."""
        ontology = self._ontology
        failures = [failure for _, failure in sorted(sum(hosts.gather(photos.failures), []), key=lambda pair: pair[0])]
        masks, overlays = hosts.total(np.array([self._masks, self._overlays]))
        classes = {
            name: {"index": i, "colour": "#" + self._colours[i].tobytes().hex(), "words": words_of(ontology, i)}
            for i, name in enumerate(ontology.names)
        }
        lines = "".join(json.dumps(failure, sort_keys=True) + "\n" for failure in failures)
        if hosts.is_first():
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._folder / "classes.json", classes)
            write_atomic(self._folder / "failures.jsonl", lines.encode())
        if failures and not masks:
            raise UserError(f"none of {len(failures)} photos could be read; {self._folder / 'failures.jsonl'} says why")
        skipped = f"; skipped {len(failures)} photos, see {self._folder / 'failures.jsonl'}" if failures else ""
        without = "" if overlays else " (no overlays: the photos are not at photos.root any more)"
        return f"wrote {masks} masks and {overlays} overlays{without} to {self._folder}{skipped}"

    def _mask(self, label_map: NDArray[np.uint16]) -> Image.Image:
        if len(self._ontology.names) > 256:
            return Image.fromarray(label_map)
        image = Image.fromarray(label_map.astype(np.uint8), "P")
        image.putpalette(self._colours[:256].tobytes())
        return image

    def _save(self, kind: str, name: str, image: Image.Image, **options: Any) -> None:
        path = self._folder / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = io.BytesIO()
        image.save(data, {"png": "PNG", "jpg": "JPEG"}[name[-3:]], **options)
        write_atomic(path, data.getvalue())


def words_of(ontology: Ontology, index: int) -> list[str]:
    """The words of one class."""
    return [word for word, owner in zip(ontology.words, ontology.word_class, strict=True) if owner == index]


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m fmbseg_jax.predict`."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--workdir", required=True, metavar="RUN", help="folder that fmbseg_jax.train wrote")
    photos = flags.add_mutually_exclusive_group(required=True)
    photos.add_argument("--data", metavar="DATA", help="encoded photos: folder that labelgen.run wrote")
    photos.add_argument("--photos", metavar="FOLDER", help="photos of any kind, encoded on the fly")
    flags.add_argument("--words", metavar="FILE", help="other words, a class a line: `name: word, word`")
    flags.add_argument("--weights_dir", metavar="FOLDER", help="where the weights are now (default: as when trained)")
    flags.add_argument(
        "--distributed", default=hosts.OFF, metavar="HOW", help="off, auto, or ADDRESS:PORT,COUNT,ID of this process"
    )
    flags.add_argument("--out", required=True, metavar="MASKS", help="folder to write to")
    return flags


if __name__ == "__main__":
    hosts.leave(command(main, arguments()))
