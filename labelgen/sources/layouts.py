"""The folder trees of published data sets, as their archives unpack: which photos a split has and where its masks are.

Each function takes the root, `photos` and `masks` of photos.splits (configs/default.py says what they mean in each
layout) and gives pairs of files and what the masks' values mean.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from labelgen.core.errors import UserError
from labelgen.sources.base import check_once, check_there
from labelgen.sources.pairs import Pairs, Truth
from labelgen.sources.pictures import walk
from labelgen.sources.tables import table_truth


class Layout(NamedTuple):
    """A split: its photos with their files, and the meaning of the mask values."""

    pairs: Pairs
    truth: Truth


def voc(root: Path, photos: str, masks: str) -> Layout:
    """Pascal VOC 2012: JPEGImages, ImageSets/Segmentation/LIST.txt, SegmentationClass or SegmentationClassAug."""
    return Layout(_listed(root, "Segmentation", photos, masks), table_truth("voc", 255))


def context(root: Path, photos: str, masks: str) -> Layout:
    """PASCAL-Context in VOC 2010's tree: ImageSets/SegmentationContext/LIST.txt, SegmentationClassContext."""
    return Layout(_listed(root, "SegmentationContext", photos, masks), table_truth("context", 255))


def _listed(root: Path, kind: str, lists: str, masks: str) -> Pairs:
    """Photos of a list, its first column; of several lists, `trainaug|train`, the first that is there."""
    folder = _folder(root / "ImageSets" / kind)
    files = [folder / f"{name}.txt" for name in lists.split("|")]
    path = next((file for file in files if file.is_file()), None)
    if path is None:
        there = ", ".join(sorted(file.stem for file in folder.glob("*.txt"))) or "none"
        raise UserError(f"{files[0]}: no such list of photos; lists there: {there}; mend photos.splits")
    ids = [line.split()[0] for line in path.read_text().splitlines() if line.split()]
    check_once(ids, str(path))
    pairs = Pairs(
        sorted(ids), lambda photo_id: f"JPEGImages/{photo_id}.jpg", lambda photo_id: f"{masks}/{photo_id}.png"
    )
    mend = f"{path} names them: unpack the rest of the photos, or take the list that belongs to them"
    check_there(root, map(pairs.photo, pairs.ids), "photo", mend)
    return pairs


def cityscapes(root: Path, photos: str, masks: str) -> Layout:
    """Cityscapes: leftImg8bit/SPLIT/CITY/ID_leftImg8bit.png, gtFine/SPLIT/CITY/ID_gtFine_labelIds.png."""
    ending = "_leftImg8bit.png"
    names = _named(root / "leftImg8bit" / photos, ending)
    pairs = Pairs(
        names,
        lambda name: f"leftImg8bit/{photos}/{name}{ending}",
        lambda name: f"gtFine/{photos}/{name}_gtFine_{masks}.png",
    )
    if masks == "labelTrainIds":
        return Layout(pairs, table_truth("cityscapes_train_ids", 255))
    if masks not in ("", "labelIds"):
        raise UserError(f"photos.splits: masks = {masks!r}; of Cityscapes set labelIds, labelTrainIds or nothing")
    return Layout(pairs, table_truth("cityscapes", *range(34), 255))  # what is not evaluated is ignored


def ade20k(root: Path, photos: str, masks: str) -> Layout:
    """ADE20K scene parsing: images/SPLIT/ID.jpg, annotations/SPLIT/ID.png."""
    names = _named(root / "images" / photos, ".jpg")
    pairs = Pairs(names, lambda name: f"images/{photos}/{name}.jpg", lambda name: f"{masks}/{photos}/{name}.png")
    return Layout(pairs, table_truth("ade20k", 0))


def camvid(root: Path, photos: str, masks: str) -> Layout:
    """CamVid as SegNet has it: SPLIT/ID.png, SPLITannot/ID.png."""
    names = _named(root / photos, ".png")
    pairs = Pairs(names, lambda name: f"{photos}/{name}.png", lambda name: f"{masks}/{name}.png")
    return Layout(pairs, table_truth("camvid", 11))


def coco_stuff(root: Path, photos: str, masks: str) -> Layout:
    """COCO-Stuff's pixel maps: SPLIT/ID.jpg or images/SPLIT/ID.jpg, MASKS/SPLIT/ID.png or ID_labelTrainIds.png.

    The file's name tells the two orders of labels apart: ID.png holds category ids less one (gaps, up to 181),
    ID_labelTrainIds.png the 171 classes without gaps.
    """
    folder = photos if (root / photos).is_dir() else f"images/{photos}"
    names = _named(root / folder, ".jpg")
    gapless = (root / masks / photos / f"{names[0]}_labelTrainIds.png").is_file()
    ending = "_labelTrainIds.png" if gapless else ".png"
    pairs = Pairs(names, lambda name: f"{folder}/{name}.jpg", lambda name: f"{masks}/{photos}/{name}{ending}")
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
            f"{path}: no such folder; mend photos.root or photos.splits, or unpack the rest of the data set "
            "(docs/datasets.md shows the tree)"
        )
    return path


def _named(folder: Path, ending: str) -> list[str]:
    """Names of the pictures under the folder that end so, without the ending, sorted."""
    names: Iterable[str] = walk(_folder(folder))
    found = sorted(name.removesuffix(ending) for name in names if name.endswith(ending))
    if not found:
        raise UserError(f"{folder}: no {ending} picture in it; unpack the photos there (docs/datasets.md)")
    return found
