"""Photos as picture files, each with a mask file for its truth, where there is one, whose values stand for classes.

As people have them: a folder of pictures at any depth, and maybe a folder of masks beside it. A photo's id is its path
in the folder without the suffix; its mask is the PNG of the same id in the folder of masks.

As published data sets' archives unpack: a function for each layout says which photos a split has and where its masks
are. It takes the root, `photos` and `masks` of photos.splits (configs/default.py says what they mean in each layout)
and gives pairs of files and what the masks' values mean: by class tables, text files that people can read (`VALUE:
class name`, one class a line).
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import PhotoError, UserError
from labelgen.core.files import read_text
from labelgen.sources.decoding import read_photo
from labelgen.sources.finding import SUFFIXES, LeftOut, pictures
from labelgen.sources.listing import Listing, Named, by_id
from labelgen.sources.mask_readers import Reader, index_reader, label_map_of, read_black_and_white, read_voc
from labelgen.sources.photos import (
    Photo,
    Source,
    check_once,
    check_size,
    check_there,
    found,
    packed,
    read_mask,
)

FOLDER = Path(__file__).parent / "tables"


class Pairs(NamedTuple):
    """The photos of a split, and paths from the root on by photo id."""

    ids: Sequence[str]
    """Sorted."""
    photo: Callable[[str], str]
    """The ending in whatever case it has."""
    mask: Callable[[str], str]
    left_out: LeftOut
    """What lies among the photos."""


class Truth(Protocol):
    """What the values of a mask file mean."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the class indices; None where they are the lines of the user's own file of words."""

    @property
    def count(self) -> int | None:
        """How many classes there are; None: not known."""

    def __call__(self, path: Path, values: NDArray[np.integer]) -> NDArray[np.int64]:
        """Class indices [H, W] of a mask's values, -1 not annotated. UserError, naming `path`, for a wrong value."""


class PairSource:
    """Photos of one split as pairs of files."""

    def __init__(
        self, root: Path, pairs: Pairs, truth: Truth | None, max_pixels: int, read: Reader = read_mask
    ) -> None:
        """truth: None where masks are not wanted; read: its values from a file. UserError when masks are missing."""
        self._read = read
        self._root, self._pairs, self._truth, self._max_pixels = root, pairs, truth, max_pixels
        if truth is not None:
            fix = "add them, or set photos.splits' masks to empty to go without truth"
            check_there(root, map(pairs.mask, pairs.ids), "mask", fix)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """See labelgen.sources.photos.Source; so the other methods."""
        return self._truth.classes if self._truth else None

    @property
    def has_truth(self) -> bool:
        return self._truth is not None

    @property
    def left_out(self) -> LeftOut:
        return self._pairs.left_out

    def list(self) -> Sequence[str]:
        return self._pairs.ids

    def file(self, photo_id: str) -> str:
        photo = self._pairs.photo(photo_id)
        return found(self._root, photo) or photo

    def load(self, photo_id: str) -> Photo:
        try:
            photo_id.encode()
        except UnicodeEncodeError:
            raise PhotoError("its name is not UTF-8", "rename it") from None
        path = self._root / self.file(photo_id)
        image = read_photo(path, self._max_pixels)
        if self._truth is None:
            return Photo(photo_id, image)
        mask = self._mask(photo_id)
        values = self._read(mask)
        check_size(str(mask), values.shape, str(path), image.shape[:2])
        indices = self._truth(mask, values)
        highest = int(indices.max(initial=0))
        return Photo(photo_id, image, packed(indices, self._truth.count or highest + 1))

    def _mask(self, photo_id: str) -> Path:
        """UserError where there are two that differ in the ending's case alone."""
        named = self._pairs.mask(photo_id)
        mask = self._root / (found(self._root, named) or named)
        other = mask.with_suffix(mask.suffix.swapcase())
        if other.is_file() and not other.samefile(mask):
            raise UserError(
                f"{self._root / named}: {mask.name} and {other.name} would both be its mask; take one of them away"
            )
        return mask


def folder_source(
    root: Path,
    max_pixels: int,
    photos: str = "",
    masks: str = "",
    truth: Truth | None = None,
    never: Collection[Path] = (),
    names: Sequence[str] = (),
) -> Source:
    """Pictures under root/photos, at any depth, with the masks root/masks/ID.png where `truth` is given.

    never: folders whose pictures are no photos of this split: masks, other splits; names: what class indices stand
    for, where that is known. UserError when a folder is missing, empty or unreadable, when two pictures have one id,
    or when masks are missing.
    """
    for folder in (root, root / photos, root / masks):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder of photos; fix photos.root or photos.splits in the config")
    left = LeftOut(photos)
    never = [*never, root / masks] if masks else never
    listing = Listing(_unlike(root, photos, by_id(pictures(root / photos, left, never))))
    if not listing:
        there = f"; {left.said()}" * bool(left.said())
        raise UserError(f"{root / photos}: no pictures in it ({', '.join(sorted(SUFFIXES))}{there}); fix photos.root")
    pairs = Pairs(
        listing,
        photo=lambda photo_id: os.path.join(photos, listing.file(photo_id)),
        mask=lambda photo_id: os.path.join(masks, f"{photo_id}.png"),
        left_out=left,
    )
    read: Reader = read_mask
    if isinstance(truth, BlackAndWhiteTruth):
        read = read_black_and_white
    elif truth is not None:
        truth, read = label_map_of(root / masks) or (truth, index_reader(root / masks, names))
    return PairSource(root, pairs, truth, max_pixels, read)


def _unlike(root: Path, photos: str, files: Iterable[Named]) -> Iterator[Named]:
    """The files, which are in the order of their ids. UserError for the first two that have one id."""
    before: Named = ("", "")
    for file in files:
        if file[0] == before[0]:
            first, second = (os.path.join(photos, "".join(name)) for name in (before, file))
            raise UserError(f"{root}: {first} and {second} would have the same mask and results; rename one")
        yield file
        before = file


@dataclass(frozen=True)
class BlackAndWhiteTruth:
    """White is the foreground, black the background; eval.truth says which classes these are."""

    classes: tuple[str, ...] = ("background", "foreground")
    count: int = 2

    def __call__(self, path: Path, values: NDArray[np.integer]) -> NDArray[np.int64]:
        return values.astype(np.int64)


class Layout(NamedTuple):
    """A split: its photos with their files, and the meaning of the mask values."""

    pairs: Pairs
    truth: Truth
    read: Reader = read_mask


def voc(root: Path, photos: str, masks: str) -> Layout:
    """Pascal VOC 2012: JPEGImages, ImageSets/Segmentation/LIST.txt, SegmentationClass or SegmentationClassAug.

    With a labelmap.txt beside the masks, as other tools write it, classes are those of that file.
    """
    return _named_or(
        root, masks, Layout(_listed(root, "Segmentation", photos, masks), table_truth("voc", 255), read_voc)
    )


def context(root: Path, photos: str, masks: str) -> Layout:
    """PASCAL-Context in VOC 2010's tree: ImageSets/SegmentationContext/LIST.txt, SegmentationClassContext."""
    layout = Layout(_listed(root, "SegmentationContext", photos, masks), table_truth("context", 255), read_voc)
    return _named_or(root, masks, layout)


def _named_or(root: Path, masks: str, layout: Layout) -> Layout:
    """The layout with the classes of the label map that another tool wrote beside the masks, where there is one."""
    named = label_map_of(root / masks) if masks else None
    return Layout(layout.pairs, *named) if named else layout


def _listed(root: Path, kind: str, lists: str, masks: str) -> Pairs:
    """Photos of a list, its first column; of several lists, `trainaug|train`, the first that is there."""
    folder = _folder(root / "ImageSets" / kind)
    files = [folder / f"{name}.txt" for name in lists.split("|")]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        there = ", ".join(sorted(file.stem for file in folder.glob("*.txt"))) or "none"
        raise UserError(f"{files[0]}: no such list of photos; lists there: {there}; fix photos.splits")
    ids = [line.split()[0] for line in read_text(path).splitlines() if line.split()]
    check_once(ids, str(path))
    pairs = Pairs(sorted(ids), lambda name: f"JPEGImages/{name}.jpg", lambda name: f"{masks}/{name}.png", LeftOut())
    fix = f"{path} names them: unpack the rest of the photos, or take the list that belongs to them"
    check_there(root, map(pairs.photo, pairs.ids), "photo", fix)
    return pairs


def cityscapes(root: Path, photos: str, masks: str) -> Layout:
    """Cityscapes: leftImg8bit/SPLIT/CITY/ID_leftImg8bit.png, gtFine/SPLIT/CITY/ID_gtFine_labelIds.png."""
    ending = "_leftImg8bit.png"
    names, left = _named(root / "leftImg8bit" / photos, ending)
    pairs = Pairs(
        names,
        lambda name: f"leftImg8bit/{photos}/{name}{ending}",
        lambda name: f"gtFine/{photos}/{name}_gtFine_{masks}.png",
        left,
    )
    if masks == "labelTrainIds":
        return _named_or(root, "gtFine", Layout(pairs, table_truth("cityscapes_train_ids", 255)))
    if masks not in ("", "labelIds"):
        raise UserError(f"photos.splits: masks = {masks!r}; of Cityscapes set labelIds, labelTrainIds or nothing")
    ids = Layout(pairs, table_truth("cityscapes", *range(34), 255))  # what is not evaluated is ignored
    return _named_or(root, "gtFine", ids)


def ade20k(root: Path, photos: str, masks: str) -> Layout:
    """ADE20K scene parsing: images/SPLIT/ID.jpg, annotations/SPLIT/ID.png."""
    names, left = _named(root / "images" / photos, ".jpg")
    pairs = Pairs(names, lambda name: f"images/{photos}/{name}.jpg", lambda name: f"{masks}/{photos}/{name}.png", left)
    return Layout(pairs, table_truth("ade20k", 0))


def camvid(root: Path, photos: str, masks: str) -> Layout:
    """CamVid as SegNet has it: SPLIT/ID.png, SPLITannot/ID.png."""
    names, left = _named(root / photos, ".png")
    pairs = Pairs(names, lambda name: f"{photos}/{name}.png", lambda name: f"{masks}/{name}.png", left)
    return _named_or(root, masks, Layout(pairs, table_truth("camvid", 11)))


def coco_stuff(root: Path, photos: str, masks: str) -> Layout:
    """COCO-Stuff's pixel maps: SPLIT/ID.jpg or images/SPLIT/ID.jpg, MASKS/SPLIT/ID.png or ID_labelTrainIds.png.

    The file's name tells the two orders of labels apart: ID.png holds category ids less one (gaps, up to 181),
    ID_labelTrainIds.png the 171 classes without gaps.
    """
    folder = photos if (root / photos).is_dir() else f"images/{photos}"
    names, left = _named(root / folder, ".jpg")
    gapless = bool(found(root, f"{masks}/{photos}/{names[0]}_labelTrainIds.png"))
    ending = "_labelTrainIds.png" if gapless else ".png"
    pairs = Pairs(names, lambda name: f"{folder}/{name}.jpg", lambda name: f"{masks}/{photos}/{name}{ending}", left)
    return Layout(pairs, table_truth("coco_stuff_train_ids" if gapless else "coco_stuff_ids", 255))


LAYOUTS: dict[str, Callable[[Path, str, str], Layout]] = {
    "voc": voc,
    "context": context,
    "cityscapes": cityscapes,
    "ade20k": ade20k,
    "camvid": camvid,
    "coco_stuff": coco_stuff,
}


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise UserError(
            f"{path}: no such folder; fix photos.root or photos.splits, or unpack the rest of the data set "
            "(docs/datasets.md shows the tree)"
        )
    return path


def _named(folder: Path, ending: str) -> tuple[list[str], LeftOut]:
    """Names of the pictures under the folder that end so, in any case, without the ending, sorted; what else is there.

    UserError for two that differ in the ending's case alone.
    """
    names, left, suffix = list[str](), LeftOut(str(folder)), "." + ending.rpartition(".")[2]
    for name in pictures(_folder(folder), left):
        if f"{os.path.splitext(name)[0]}{suffix}".endswith(ending) and name.lower().endswith(suffix):
            names.append(name[: -len(ending)])
        else:
            left.foreign(name)
    if not names:
        raise UserError(f"{folder}: no {ending} picture in it; unpack the photos there (docs/datasets.md)")
    names.sort()
    if twice := next((name for name, other in pairwise(names) if name == other), ""):
        raise UserError(f"{folder}: {twice}{ending} is there twice, with its ending in another case; take one away")
    return names, left


@dataclass(frozen=True)
class TableTruth:
    """Values of a data set's masks by its class table; class indices are the table's lines.

    values: int [n] value of each class, ascending; ignored: further values that the data set's masks have, for pixels
    that belong to no class.
    """

    name: str
    classes: tuple[str, ...]
    values: tuple[int, ...]
    ignored: frozenset[int]

    @property
    def count(self) -> int:
        """See labelgen.sources.folders.Truth."""
        return len(self.classes)

    def __call__(self, path: Path, values: NDArray[np.integer]) -> NDArray[np.int64]:
        known = np.array(self.values)
        distinct = np.flatnonzero(np.bincount(values.ravel().astype(np.int64)))
        foreign = sorted(set(distinct.tolist()) - set(self.values) - self.ignored)
        if foreign:
            raise UserError(
                f"{path}: value {foreign[0]} stands for no class of {self.name} ({self.values[0]} to "
                f"{self.values[-1]}); are these its masks? fix photos.source or photos.splits' masks"
            )
        index = np.full(int(distinct[-1]) + 1, -1, np.int64)
        index[known[known < len(index)]] = np.flatnonzero(known < len(index))
        return index[values.astype(np.int64)]


def table_truth(name: str, *ignored: int) -> TableTruth:
    """The truth of masks with the values of table `name`; `ignored`: what else they have."""
    table = read_table(name)
    return TableTruth(name, tuple(table.values()), tuple(table), frozenset(ignored))


def read_table(name: str) -> dict[int, str]:
    """Value -> class name, values ascending, of a table that ships with the project."""
    lines = (line.split("#")[0].strip() for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines())
    pairs = (line.partition(":") for line in lines if line)
    return dict(sorted((int(value), label.strip()) for value, _, label in pairs))
