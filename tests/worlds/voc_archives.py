"""Archives of the official layouts of VOC 2012 and SBD, small: pocket scenes stand in for the photos."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from pocket.scenes import draw

TRAIN, EXTRA, VAL = ("2007_000001", "2007_000002", "2007_000003", "2007_000004"), ("2008_000005",), ("2008_000006",)
PHOTOS = (*TRAIN, *EXTRA, *VAL)
SBD_LISTS = {"train": (TRAIN[0], VAL[0]), "val": EXTRA}
"""SBD's train list has photos of VOC's val, as the official one."""


def png(mask: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "png")
    return file.getvalue()


def jpg(photo: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "jpeg")
    return file.getvalue()


def voc_files() -> dict[str, bytes]:
    """What VOCtrainval_11-May-2012.tar holds, by its members' names; some of it is of no use here."""
    root = "VOCdevkit/VOC2012"
    files = {
        f"{root}/Annotations/{PHOTOS[0]}.xml": b"<annotation/>",
        f"{root}/SegmentationObject/{PHOTOS[0]}.png": b"x",
    }
    for i, name in enumerate(PHOTOS):
        scene = draw(0, i, "train")
        files[f"{root}/JPEGImages/{name}.jpg"] = jpg(scene.photo)
        if name not in EXTRA:
            files[f"{root}/SegmentationClass/{name}.png"] = png(scene.mask)
    for split, names in (("train", TRAIN), ("val", VAL), ("trainval", (*TRAIN, *VAL))):
        files[f"{root}/ImageSets/Segmentation/{split}.txt"] = "".join(f"{name}\n" for name in names).encode()
    return files | {f"{root}/ImageSets/Main/train.txt": b"of no use"}


def sbd_files() -> dict[str, bytes]:
    """What benchmark.tgz holds of use, and some of the rest."""
    root = "benchmark_RELEASE"
    lists = {f"{root}/dataset/{name}.txt": "\n".join(ids).encode() for name, ids in SBD_LISTS.items()}
    return {f"{root}/dataset/cls/{TRAIN[0]}.mat": b"MATLAB", **lists, f"{root}/categories.m": b"% of no use"}


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    """A tar of these files, folders before them as in the official one."""
    with tarfile.open(path, mode) as tar:
        folders = sorted({str(parent) for name in files for parent in Path(name).parents if str(parent) != "."})
        for folder in folders:
            member = tarfile.TarInfo(folder)
            member.type = tarfile.DIRTYPE
            tar.addfile(member)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path
