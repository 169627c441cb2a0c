"""What a page asks of a RUN: takes a photo in, names its pixels by words, remembers the last photos. No web in here."""

import hashlib
import io
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fmbseg_jax.inference.segmenter import Embedded, Labels, Segmenter
from labelgen.core.errors import PhotoError, UserError
from labelgen.core.ontology import Ontology, parse_words
from labelgen.formats.palette import palette
from labelgen.sources.decoding import check_bands, decode_photo

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What a browser may send; Pillow reads others too, some through other programs."""
VIEW_PX = 1280
"""The longer side of the picture that the page shows, and of the label maps that it gets."""
MAX_PHOTOS = 16
MAX_CLASSES, MAX_WORDS, MAX_CHARACTERS = 250, 1000, 100


class UnknownPhoto(KeyError):
    """A photo that was never given, or is no longer remembered."""


@dataclass(frozen=True)
class Remembered:
    """A photo after encoding."""

    key: str
    size_hw: tuple[int, int]
    view_hw: tuple[int, int]
    """Of the picture that is shown: at most VIEW_PX a side."""
    view: bytes
    """That picture, JPEG."""
    patches: Embedded


class Photos:
    """The photos that are being looked at. Encoded once; the last MAX_PHOTOS are remembered, in memory alone.

    Not for several threads at a time, as the Segmenter.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self._photos = OrderedDict[str, Remembered]()

    def add(self, data: bytes) -> Remembered:
        """Takes in the bytes of a picture file. UserError for what is no picture, or has too many pixels."""
        key = hashlib.sha256(data).hexdigest()[:32]
        if key not in self._photos:
            self._photos[key] = self._encoded(key, decoded(data, self.segmenter.max_pixels))
        self._photos.move_to_end(key)
        if len(self._photos) > MAX_PHOTOS:
            self._photos.popitem(last=False)
        return self._photos[key]

    def __getitem__(self, key: str) -> Remembered:
        """UnknownPhoto unless it is remembered."""
        if key not in self._photos:
            raise UnknownPhoto(key)
        return self._photos[key]

    def labels(self, key: str, lines: Sequence[str] | None, threshold: float, full: bool) -> Labels:
        """The class of every pixel, of the photo where `full`, else of the picture that is shown.

        lines: as parse_words takes them, None for the words of the RUN; threshold: less probable pixels are background,
        0 for none. UserError for words that cannot be used; UnknownPhoto.
        """
        photo = self[key]
        ontology = self.segmenter.ontology if lines is None else limited(lines)
        size_hw = photo.size_hw if full else photo.view_hw
        return self.segmenter.label(photo.patches, size_hw, ontology, threshold)

    def _encoded(self, key: str, image: NDArray[np.uint8]) -> Remembered:
        height, width = image.shape[:2]
        scale = min(1, VIEW_PX / max(height, width))
        view_hw = max(1, round(height * scale)), max(1, round(width * scale))
        view = Image.fromarray(image).resize(view_hw[::-1], Image.Resampling.BILINEAR, reducing_gap=2)
        file = io.BytesIO()
        view.save(file, "JPEG", quality=90)
        return Remembered(key, (height, width), view_hw, file.getvalue(), self.segmenter.embeddings(image))


def decoded(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of a picture file's bytes. UserError with the reason; its size is known before it is decoded."""
    try:
        Image.MAX_IMAGE_PIXELS = None  # max_pixels is the limit, with a reason
        width, height = _size(data)
        if width * height > max_pixels:
            raise UserError(f"{width} x {height} pixels are more than the {max_pixels} of this RUN; make it smaller")
        return decode_photo(data, Path("the photo"), max_pixels)
    except PhotoError as error:
        raise UserError(f"this picture: {error.reason}; save it again as JPEG or PNG") from None
    except UserError:
        raise
    except Exception as error:  # Pillow's readers raise of many kinds on broken files
        known = "" if isinstance(error, UnidentifiedImageError) else f" ({type(error).__name__})"
        raise UserError(f"this is no picture in {', '.join(FORMATS)}{known}; save it as JPEG or PNG") from None


def _size(data: bytes) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.size
    except UnidentifiedImageError:
        check_bands(io.BytesIO(data))
        raise


def limited(lines: Sequence[str]) -> Ontology:
    """The classes of lines of words. UserError, too, for more or longer ones than a page may ask for."""
    ontology = parse_words(lines, "line")
    for count, limit, what in (
        (len(ontology.names), MAX_CLASSES, "classes"),
        (len(ontology.words), MAX_WORDS, "words"),
        (max(map(len, (*ontology.names, *ontology.words))), MAX_CHARACTERS, "characters in a word"),
    ):
        if count > limit:
            raise UserError(f"{count} {what} are more than {limit}; write fewer")
    return ontology


def lines_of(ontology: Ontology) -> list[str]:
    """The lines that a person would write for these classes."""
    words = [
        [word for word, owner in zip(ontology.words, ontology.word_class, strict=True) if owner == i]
        for i in range(len(ontology.names))
    ]
    return [
        name if found == [name] else f"{name}: {', '.join(found)}"
        for name, found in zip(ontology.names, words, strict=True)
    ]


def answer(labels: Labels) -> dict[str, object]:
    """Labels as JSON: for each class name, colour, score and share; the map as runs [class, length, class ...].

    Runs go row by row. They are smaller than a picture would be and need no reading back from a canvas, which browsers
    that protect their users answer with noise.
    """
    colours = palette(max(256, len(labels.names)))
    classes = [
        {
            "name": name,
            "colour": "#" + colours[i].tobytes().hex(),
            "score": round(labels.scores[name], 4) if name in labels.scores else None,
            "share": round(labels.shares.get(name, 0), 6),
        }
        for i, name in enumerate(labels.names)
    ]
    height, width = labels.label_map.shape
    return {"classes": classes, "height": height, "width": width, "runs": runs(labels.label_map)}


def runs(label_map: NDArray[np.uint16]) -> list[int]:
    """[class, length, class, length ...] of the pixels, row by row."""
    flat = label_map.ravel()
    starts = np.flatnonzero(np.diff(flat.astype(np.int32), prepend=-1))
    lengths = np.diff(starts, append=flat.size)
    pairs: list[int] = np.stack([flat[starts], lengths], 1).ravel().tolist()
    return pairs


def share(value: object) -> float:
    """A threshold from outside, as a float in 0..1. UserError for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:  # nan is not
        raise UserError(f"threshold {value!r} is no number between 0 and 1")
    return float(value)
