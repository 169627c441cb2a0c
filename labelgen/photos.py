"""Photos as people have them: a folder of pictures of any common kind, and maybe a folder of masks beside it.

A bad picture is a PhotoError: it is listed in failures.jsonl and the run goes on. A bad setup (no folder, nothing in
it, a mask that is not its photo's) is a UserError: the run stops, since more of it would be wrong.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from labelgen.errors import UserError
from labelgen.records import ignore_value, label_dtype

SUFFIXES = frozenset(["jpg", "jpeg", "jfif", "png", "webp", "bmp", "tif", "tiff", "gif", "avif", "heic", "heif"])
_CONVERT = "convert it to JPEG or PNG, or take it out of the folder"


class PhotoError(Exception):
    """A photo that cannot be used: why, and what would mend it."""

    def __init__(self, reason: str, mend: str):
        super().__init__(reason)
        self.reason = reason
        self.mend = mend


@dataclass(frozen=True)
class Photo:
    """One photo, upright."""

    photo_id: str
    image: NDArray[np.uint8]
    """[H, W, 3] RGB."""
    label_map: NDArray[Any] | None = None
    """[H, W] uint8 or uint16 class indices, 255 / 65535 not annotated; None where the source has no masks."""


class FolderSource:
    """Pictures under root/photos, at any depth; the photo id is the path there without its suffix.

    With masks, the truth of photo ID is root/masks/ID.png: class indices as its grey or palette values.
    """

    def __init__(
        self,
        root: str | Path,
        photos: str,
        masks: str = "",
        *,
        classes: int | None = None,
        ignore_index: int = 255,
        max_pixels: int = 50_000_000,
    ):
        """classes: how many there are, for the check of the masks' values (None: no check).

        UserError when a folder is missing or empty, when two pictures have one id, or when masks are missing.
        """
        if not root:
            raise UserError("photos.root is not set; set it to the folder of your photos: --config.photos.root=FOLDER")
        self._root = Path(root)
        self._folder, self._masks = self._root / photos, self._root / masks if masks else None
        for folder in filter(None, (self._root, self._folder, self._masks)):
            if not folder.is_dir():
                raise UserError(f"{folder}: no such folder of photos; mend photos.root or photos.splits in the config")
        self._classes, self._ignore, self._max_pixels = classes, ignore_index, max_pixels
        self._files = self._find()
        if self._masks:
            self._check_masks(self._masks)

    def list(self) -> list[str]:
        """Photo ids, sorted."""
        return sorted(self._files)

    def file(self, photo_id: str) -> str:
        """The picture's path, from the root on."""
        return self._path(photo_id).relative_to(self._root).as_posix()

    def load(self, photo_id: str) -> Photo:
        """The photo, upright, in RGB, with its label map. PhotoError for a bad picture, UserError for a bad mask."""
        path = self._path(photo_id)
        try:
            photo_id.encode()
        except UnicodeEncodeError:
            raise PhotoError("its name is not UTF-8", "rename it") from None
        image = self._read(path)
        label_map = self._read_mask(photo_id, path, image.shape[:2]) if self._masks else None
        return Photo(photo_id, image, label_map)

    def _path(self, photo_id: str) -> Path:
        return self._folder / self._files[photo_id]

    def _find(self) -> dict[str, str]:
        """Photo id -> file name under the folder."""
        files: dict[str, str] = {}
        for name in _walk(self._folder):
            photo_id = os.path.splitext(name)[0]
            if photo_id in files:
                raise UserError(
                    f"{self._folder}: {files[photo_id]} and {name} would have the same mask and results; rename one"
                )
            files[photo_id] = name
        if not files:
            raise UserError(f"{self._folder}: no pictures in it ({', '.join(sorted(SUFFIXES))}); mend photos.root")
        return files

    def _check_masks(self, masks: Path) -> None:
        missing = [photo_id for photo_id in self.list() if not (masks / f"{photo_id}.png").is_file()]
        if missing:
            raise UserError(
                f"{masks}: no mask for {len(missing)} of {len(self._files)} photos, the first is {missing[0]}.png; "
                "add them, or set photos.splits' masks to empty to go without truth"
            )

    def _read(self, path: Path) -> NDArray[np.uint8]:
        try:
            if not path.stat().st_size:
                raise PhotoError("the file is empty", "copy it again")
            Image.MAX_IMAGE_PIXELS = None  # photos.max_pixels is the limit, with a reason in failures.jsonl
            with Image.open(path) as image:
                if image.width * image.height > self._max_pixels:
                    raise PhotoError(
                        f"{image.width} x {image.height} pixels are more than photos.max_pixels = {self._max_pixels}",
                        "make it smaller, or raise photos.max_pixels",
                    )
                return to_rgb(ImageOps.exif_transpose(image))
        except (PhotoError, MemoryError):
            raise
        except UnidentifiedImageError:
            raise PhotoError("not a picture in a format that can be read", _CONVERT) from None
        except Exception as error:  # Pillow's decoders raise of many kinds on broken files
            reason = f"cannot be decoded: {error}".replace(str(path), path.name)
            raise PhotoError(reason, f"copy it again, or {_CONVERT}") from None

    def _read_mask(self, photo_id: str, path: Path, size_hw: tuple[int, ...]) -> NDArray[Any]:
        mask_path = f"{self._masks}/{photo_id}.png"
        mask = self._mask_values(mask_path)
        if mask.shape != size_hw:
            raise UserError(
                f"{mask_path}: {mask.shape[1]} x {mask.shape[0]} px, but its photo {path} has {size_hw[1]} x "
                f"{size_hw[0]}; draw the mask on the upright photo, in its size"
            )
        annotated = mask != self._ignore
        highest = int(mask.max(initial=0, where=annotated))
        if self._classes is not None and highest >= self._classes:
            raise UserError(
                f"{mask_path}: class index {highest} (photo {path}), but the ontology has {self._classes} classes, "
                f"0 to {self._classes - 1}; mend the mask, the ontology or photos.ignore_index = {self._ignore}"
            )
        label_map = mask.astype(label_dtype(self._classes or highest + 1))
        return np.where(annotated, label_map, label_map.dtype.type(ignore_value(label_map)))

    @staticmethod
    def _mask_values(path: str) -> NDArray[Any]:
        """[H, W] class indices of a grey or palette PNG."""
        try:
            with Image.open(path) as image:
                values = np.asarray(image)
                mode = image.mode
        except Exception as error:
            raise UserError(
                f"{path}: the mask cannot be read: {' '.join(str(error).split())}; write it again"
            ) from None
        if mode not in ("1", "L", "P", "I", "I;16"):
            raise UserError(f"{path}: a mask of mode {mode}; class indices as grey or palette values are wanted")
        return values


def _walk(folder: Path) -> Iterator[str]:
    """Names of pictures under the folder, "/" between folders; hidden files and folders are left out."""
    for where, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and name.rpartition(".")[2].lower() in SUFFIXES:
                yield os.path.relpath(os.path.join(where, name), folder).replace(os.sep, "/")


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of a picture of any mode: transparency over white, 16 bits scaled to 8."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        return np.repeat((grey.clip(0, 65535) // 257).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode == "F":
        raise PhotoError("floating-point pixels", "convert it to 8 bits a channel")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))
