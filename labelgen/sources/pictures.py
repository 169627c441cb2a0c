"""Picture files of any common kind as arrays: photos upright in RGB, masks as the values that were drawn."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from labelgen.core.errors import UserError
from labelgen.sources.base import PhotoError

SUFFIXES = frozenset(["jpg", "jpeg", "jfif", "png", "webp", "bmp", "tif", "tiff", "gif", "avif", "heic", "heif"])
_CONVERT = "convert it to JPEG or PNG, or take it out of the folder"


def walk(folder: Path) -> Iterator[str]:
    """Names of pictures under the folder, "/" between folders; hidden files and folders are left out."""
    folders = [""]
    while folders:
        inside = folders.pop()
        with contextlib.suppress(OSError), os.scandir(folder / inside) as entries:  # os.walk would list a folder whole
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    folders.append(f"{inside}{entry.name}/")
                elif entry.name.rpartition(".")[2].lower() in SUFFIXES:
                    yield inside + entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def read_photo(path: Path, max_pixels: int) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] RGB of a picture file, upright. PhotoError, with the reason, for one that cannot be used."""
    with _decoding(path):
        return _upright(path, path.stat().st_size, max_pixels)


def decode_photo(data: bytes, path: Path, max_pixels: int) -> NDArray[np.uint8]:
    """The same of the bytes of a picture file; path: what they are called."""
    with _decoding(path):
        return _upright(io.BytesIO(data), len(data), max_pixels)


@contextlib.contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is a PhotoError with the reason."""
    try:
        yield
    except (PhotoError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise PhotoError("not a picture in a format that can be read", _CONVERT) from None
    except Exception as error:  # Pillow's decoders raise of many kinds on broken files
        reason = f"cannot be decoded: {error}".replace(str(path), path.name)
        raise PhotoError(reason, f"copy it again, or {_CONVERT}") from None


def _upright(file: Path | io.BytesIO, size: int, max_pixels: int) -> NDArray[np.uint8]:
    if not size:
        raise PhotoError("the file is empty", "copy it again")
    Image.MAX_IMAGE_PIXELS = None  # photos.max_pixels is the limit, with a reason in failures.jsonl
    with Image.open(file) as image:
        if image.width * image.height > max_pixels:
            raise PhotoError(
                f"{image.width} x {image.height} pixels are more than photos.max_pixels = {max_pixels}",
                "make it smaller, or raise photos.max_pixels",
            )
        return to_rgb(ImageOps.exif_transpose(image))


def read_mask(path: Path) -> NDArray[Any]:
    """[H, W] values of a grey or palette PNG. UserError for any other kind: colours are not class indices."""
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
            mode = image.mode
    except FileNotFoundError:
        raise UserError(f"{path}: no such mask; add it, or set photos.splits' masks to empty") from None
    except Exception as error:
        raise UserError(f"{path}: the mask cannot be read: {' '.join(str(error).split())}; write it again") from None
    if mode not in ("1", "L", "P", "I", "I;16"):
        raise UserError(f"{path}: a mask of mode {mode}; class indices as grey or palette values are wanted")
    return values


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
