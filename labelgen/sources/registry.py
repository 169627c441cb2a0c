"""Opens the source that a config names: `photos.source` is the layout of `photos.root`."""

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from labelgen.core.errors import UserError
from labelgen.sources.coco import coco_source, find_folder
from labelgen.sources.coco_panoptic import panoptic_source
from labelgen.sources.folders import LAYOUTS, BlackAndWhiteTruth, PairSource, TableTruth, Truth, folder_source
from labelgen.sources.legends import find_legend, is_foreign
from labelgen.sources.photos import IndexTruth, Source
from labelgen.sources.tfds import tfds_source

FOLDERS = ("folder", "black_and_white")
JSONS = {"coco": coco_source, "coco_panoptic": panoptic_source}
TFDS = "tfds:"
"""Begins the name of a TensorFlow Datasets' builder."""


def photo_folders(photos: ConfigDict) -> list[Path]:
    """Where the photos of config.photos lie, as far as that is there: whatever else lies there may be taken for one."""
    if not photos.root:
        return []
    below = ("",) if photos.source in FOLDERS else ("", "images", "leftImg8bit")
    names = [split.photos for split in photos.splits.values()]
    found = [Path(photos.root, part, name) for name in names for part in (below if name else ("",))]
    return [path for path in found if path.is_dir()]


def mask_folders(photos: ConfigDict) -> list[Path]:
    """Where masks of a plain folder of photos lie."""
    masks = [split.masks for split in photos.splits.values() if split.masks]
    return [Path(photos.root, folder) for folder in masks] if photos.root and photos.source in FOLDERS else []


def open_source(
    photos: ConfigDict, split: str, classes: int | None = None, truth: bool = True, names: Sequence[str] = ()
) -> Source:
    """The photos of a split of `config.photos`.

    classes: how many lines the file of words has, for the check of masks that hold its indices; truth: False for the
    photos alone; names: what these indices stand for, where that is known. UserError when files or folders are
    missing, or are of another layout.
    """
    if not photos.root:
        raise UserError("photos.root is not set; set it to the folder of your photos: --config.photos.root=FOLDER")
    root, split_config = Path(photos.root), photos.splits[split]
    if not root.is_dir():
        raise UserError(f"{root}: no such folder of photos; fix photos.root")
    masks = split_config.masks if truth else ""
    if photos.source in FOLDERS:
        meaning = _meaning(root / masks, photos, classes) if masks else None
        never = [*photo_folders(photos), *mask_folders(photos)]
        return folder_source(root, photos.max_pixels, split_config.photos, masks, meaning, never, names)
    if photos.source in JSONS and not masks:  # every picture of the folder
        never = [*photo_folders(photos), root / "annotations"]
        return folder_source(root, photos.max_pixels, find_folder(root, split_config.photos), never=never)
    if photos.source in JSONS:
        return JSONS[photos.source](root, split_config.photos, masks, photos.max_pixels)
    if photos.source.startswith(TFDS):
        name = photos.source.removeprefix(TFDS)
        values = IndexTruth(classes, photos.ignore_index)
        return tfds_source(root, name, split_config.photos, masks, values, photos.max_pixels)
    layout = LAYOUTS[photos.source](root, split_config.photos, masks)
    return PairSource(root, layout.pairs, layout.truth if masks else None, photos.max_pixels, layout.read)


def _meaning(masks: Path, photos: ConfigDict, classes: int | None) -> Truth:
    """What the values of a plain folder's masks stand for."""
    if photos.source == "black_and_white":
        return BlackAndWhiteTruth()
    return _by_class_table(masks, photos.ignore_index) or IndexTruth(classes, photos.ignore_index)


def _by_class_table(masks: Path, ignore_index: int) -> TableTruth | None:
    """By classes.json, which labelgen.export and fmbseg_jax.predict write beside masks: values are those of the table,
    whatever the file of words says. `ignore_index`, and 65535, are not annotated unless they are a class's."""
    legend = find_legend(masks)
    if legend is None or is_foreign(legend):
        return None
    names = dict(sorted(zip(legend.values, legend.names, strict=True)))
    unlabelled = frozenset({ignore_index, 65535}) - names.keys()
    return TableTruth(legend.where, tuple(names.values()), tuple(names), unlabelled)
