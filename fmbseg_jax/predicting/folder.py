"""Photos one after the other, of DATA or of a folder, to a folder of masks that says what is missing in it."""

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmbseg_jax.inference.embedder import Towers, check_fits
from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.checkpoint import Restored
from labelgen.core.errors import PhotoError, UserError
from labelgen.core.files import write_atomic
from labelgen.core.progress import StageTimes
from labelgen.data.records import FeatureRow
from labelgen.data.staging import open_data
from labelgen.data.thumbnail import is_same
from labelgen.formats.claimed import say_whole
from labelgen.formats.exporter import Export, locate, split_source
from labelgen.formats.palette import overlay
from labelgen.formats.predicted import Predicted
from labelgen.formats.writers import Annotated, ClassInfo, save
from labelgen.sources.decoding import liberties
from labelgen.sources.finding import LeftOut
from labelgen.sources.folders import folder_source
from labelgen.sources.photos import Source
from labelgen.sources.registry import mask_folders

Pixels = NDArray[np.uint8]
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


def on_the_fly(restored: Restored, towers: Towers, folder: str, out: Path, formats: Sequence[str]) -> Photos:
    """The photos of a folder, each encoded when its turn comes; bad ones go to `failures`.

    Those that have their mask in `out` already, as far as PNGs are wanted, are kept.
    """
    if not Path(folder).is_dir():
        raise UserError(f"--photos={folder}: no such folder of photos")
    photos = restored.config.photos
    source = folder_source(Path(folder), photos.max_pixels, never=mask_folders(photos))
    towers.load_patches()
    failures: list[tuple[int, Failure]] = []
    changed: list[tuple[int, Failure]] = []
    names, predicted = source.list(), Predicted(out, hosts.index())
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

    def __init__(
        self, folder: Path, classes: Sequence[ClassInfo], formats: Sequence[str], sharpen: bool = False
    ) -> None:
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
