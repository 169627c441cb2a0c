"""What a trained head is asked: photos, encoded before or now, and words. No truth."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmbseg_jax.inference.embedder import Towers, check_fits
from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.checkpoint import Restored
from labelgen.core.errors import UserError
from labelgen.core.ontology import Ontology, read_words
from labelgen.data.records import FeatureRow
from labelgen.data.staging import open_data
from labelgen.formats.exporter import locate, split_source
from labelgen.sources.folders import folder_source
from labelgen.sources.photos import PhotoError, Source

Pixels = NDArray[np.uint8]
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
    """This host's share of what there is to predict; `failures` (the photo's number, why) fill up as `rows` is read."""

    total: int
    rows: Iterator[Item]
    failures: list[tuple[int, Failure]]


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

    def rows() -> Iterator[Item]:
        before = 0
        for split in data.splits:
            source = split_source(config.photos, split)
            reader = data.reader("features", split)
            data.stage(split, ["features"], hosts.share(len(reader)))
            for i in hosts.share(len(reader)):
                row = FeatureRow.decode(reader[i])
                name = f"{split}/{row.photo_id}"
                image = None if source is None else picture(source, row)
                yield Item(before + i, name, row, image, *locate(config.photos.root, source, row.photo_id, name))
            before += len(reader)

    return Photos(sum(len(hosts.share(data.count(split))) for split in data.splits), rows(), [])


def picture(source: Source, row: FeatureRow) -> Pixels | None:
    """The photo of a row uint8 [H, W, 3], None where it is not there any more or has another size."""
    try:
        image = source.load(row.photo_id).image
    except (PhotoError, KeyError):
        return None
    return image if image.shape[:2] == row.size_hw else None


def on_the_fly(restored: Restored, towers: Towers, folder: str, out: str) -> Photos:
    """The photos of a folder, each encoded when its turn comes; bad ones go to `failures`."""
    if Path(folder).resolve() in [Path(out).resolve(), *Path(out).resolve().parents]:
        raise UserError(f"--out={out} lies within --photos={folder}: masks would become photos; name another folder")
    if not Path(folder).is_dir():
        raise UserError(f"--photos={folder}: no such folder of photos")
    source = folder_source(Path(folder), restored.config.photos.max_pixels)
    towers.load_patches()
    failures: list[tuple[int, Failure]] = []
    names = source.list()

    def rows() -> Iterator[Item]:
        for i in hosts.share(len(names)):
            photo_id = names[i]
            try:
                photo = source.load(photo_id)
            except PhotoError as error:
                failures.append((i, {"file": source.file(photo_id), "reason": error.reason, "mend": error.mend}))
                continue
            yield Item(i, photo_id, towers.features(photo), photo.image, *locate(folder, source, photo_id, photo_id))

    return Photos(len(hosts.share(len(names))), rows(), failures)
