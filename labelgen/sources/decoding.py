"""Picture files as pixels: uint8 RGB, upright, as a person would see them; the same wherever a photo comes in.

8 bits a channel stay what they are. Of 16 bits that are used the upper 8 are kept. Where the file declares a range, or
the pixels of a photo fit into 14 bits (12-bit cameras, CT, microscopes), that range becomes 0 to 255. A TIFF's fourth
band is alpha where the file says so and it can be.
"""

import contextlib
import io
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from labelgen.core.errors import PhotoError
from labelgen.core.progress import say

Pixels = NDArray[np.uint8]
_CONVERT = "convert it to JPEG or PNG, or take it out of the folder"
_PERCENTILES = (0.5, 99.5)
_UNUSED = 1 << 14
"""Values of 16 bits whose upper percentile is below: the upper bits are not used."""
_OPAQUE_SHARE = 0.5
"""Of an alpha band's values at least so many are 0 or the highest; near infrared is anything between."""
_COLOURS = {
    0: ("grey",),
    1: ("grey",),
    2: ("R", "G", "B"),
    3: ("index",),
    5: ("C", "M", "Y", "K"),
    6: ("Y", "Cb", "Cr"),
}
"""By TIFF's PhotometricInterpretation."""
_EXTRAS = {1: "premultiplied alpha", 2: "alpha", 999: "alpha"}
"""By TIFF's ExtraSamples; others are unspecified."""
_OTHER_BYTE = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""A raw mode's letter for the order of bytes -> that by which Pillow takes the lower byte for the upper one."""


class Liberty(NamedTuple):
    """What is taken of a photo's pixels that its file does not say, or holds more of."""

    reason: str
    mend: str


PERCENTILES = Liberty(
    "scaled by percentiles of its own, for want of a range", "write 8 bits a channel, or say the range in the file"
)
BAND = Liberty(
    "without its last band, which is no alpha", "nothing, if the others are to be seen; else write those three"
)
PAGES = Liberty("by the first of its pages", "write the others as files of their own")
_said: set[Liberty] = set()
_taken: ContextVar[list[Liberty] | None] = ContextVar("taken", default=None)


@contextlib.contextmanager
def liberties() -> Iterator[list[Liberty]]:
    """The liberties taken with pictures that are decoded inside, by this thread."""
    found: list[Liberty] = []
    token = _taken.set(found)
    try:
        yield found
    finally:
        _taken.reset(token)


def read_photo(path: Path, max_pixels: int) -> Pixels:
    """uint8 [H, W, 3] RGB of a picture file, upright. PhotoError, with the reason, for one that cannot be used."""
    with _decoding(path, path):
        return _opened(path, path.name, path.stat().st_size, max_pixels)


def decode_photo(data: bytes, path: Path, max_pixels: int) -> Pixels:
    """The same of the bytes of a picture file; path: what they are called."""
    file = io.BytesIO(data)
    with _decoding(path, file):
        return _opened(file, path.name, len(data), max_pixels)


@contextlib.contextmanager
def _decoding(path: Path, file: Path | io.BytesIO) -> Iterator[None]:
    """Whatever goes wrong inside is a PhotoError with the reason."""
    try:
        yield
    except (PhotoError, MemoryError):
        raise
    except UnidentifiedImageError:
        check_bands(file)
        raise PhotoError("not a picture in a format that can be read", _CONVERT) from None
    except Exception as error:  # Pillow's decoders raise of many kinds on broken files
        reason = f"cannot be decoded: {error}".replace(str(path), path.name)
        raise PhotoError(reason, f"copy it again, or {_CONVERT}") from None


def _opened(file: Path | io.BytesIO, name: str, size: int, max_pixels: int) -> Pixels:
    if not size:
        raise PhotoError("the file is empty", "copy it again")
    Image.MAX_IMAGE_PIXELS = None  # photos.max_pixels is the limit, with a reason in failures.jsonl
    with Image.open(file) as image:
        if image.width * image.height > max_pixels:
            raise PhotoError(
                f"{image.width} x {image.height} pixels are more than photos.max_pixels = {max_pixels}",
                "make it smaller, raise photos.max_pixels, or cut it: labelgen.tiles; its mask: predict --picture",
            )
        pixels = upright(image, name)
        _say_pages(image, name)
        return pixels


def _say_pages(image: Image.Image, name: str) -> None:
    """Of a TIFF whose first page is read: that there are others. What is broken beyond it is none."""
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.next:
        with contextlib.suppress(Exception):  # of many kinds
            if (pages := image.n_frames) > 1:
                _take(PAGES, f"{name}: has {pages} pages; of such photos the first is taken")


def upright(image: Image.Image, name: str = "the picture") -> Pixels:
    """uint8 [H, W, 3] of a picture of any mode, as a person would see it: transparency over white, 16 bits scaled to 8.

    name: what is said of it. PhotoError for pixels without a meaning as colours. Of 16 bits a channel, a picture that
    was loaded before has the upper 8 alone.
    """
    file = _File.of(image)
    if file.tags:
        _check_bands(file.tags)
    seen = ImageOps.exif_transpose(image)
    if seen.mode == "F":
        raise PhotoError("floating-point pixels", "convert it to 8 bits a channel")
    if seen.mode.startswith("I"):
        grey = np.asarray(seen)
        grey = grey if grey.dtype.itemsize == 2 else grey.astype(np.int64)
        scaled = _to_8_bits(grey, file, name)
        white_is_zero = file.tags is not None and file.tags.get(262) == 0  # which Pillow minds in 8 bits alone
        return np.repeat((255 - scaled if white_is_zero else scaled)[..., None], 3, axis=-1)
    seen = _without_false_alpha(seen, file, name)
    if file.is_deep and (_is_dark(seen) or (file.tags and file.declared)):
        seen = _scaled(seen, file, name)
    if seen.has_transparency_data:
        seen = seen.convert("RGBA")
        seen = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
    return np.array(seen.convert("RGB"))


class _File(NamedTuple):
    """What a picture's file says that its pixels do not."""

    origin: Any
    """What opens it once more; None for a picture whose file is not at hand."""
    raw: str
    """Pillow's raw mode: how the file lays out its pixels."""
    tags: Any
    """Of a TIFF, else None."""
    declared: tuple[int, int] | None
    """The range of the values, where the file says one."""

    @staticmethod
    def of(image: Image.Image) -> "_File":
        tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else None
        declared = _declared_by_tiff(tags) if tags else None
        if not isinstance(image, ImageFile.ImageFile) or not image.tile or image.fp is None:
            return _File(None, "", tags, declared)
        args, origin = image.tile[0].args, image.filename or image.fp
        raw = str(args[0] if isinstance(args, tuple) else args)
        if tags and len(image.tile) > 1 and raw == "R" and tags.get(258) and set(tags[258]) == {16}:
            raw = f"{image.mode};16{'L' if tags.prefix == b'II' else 'B'}"
            _set_raw(image, raw)  # Pillow would take each band's bytes for pixels of 8 bits
        if image.format == "PNG" and ";16" in raw:
            declared = _declared_by_png(image.fp)
        return _File(origin, raw, tags, declared)

    @property
    def is_deep(self) -> bool:
        """Whether Pillow drops the lower 8 of 16 bits, and can be had to read them."""
        return self.origin is not None and self.raw[:3] in ("RGB", "LA;") and ";16" in self.raw

    @property
    def nothing(self) -> int | None:
        """The value of pixels that nothing was measured at, as GDAL writes it."""
        try:
            return int(float(str(self.tags[42113]).strip(" \0"))) if self.tags else None
        except (KeyError, ValueError, OverflowError):
            return None

    def read_as(self, raw: str) -> Image.Image:
        """The picture by another raw mode, upright."""
        with Image.open(self.origin) as image:
            assert isinstance(image, ImageFile.ImageFile)
            _set_raw(image, raw)
            return ImageOps.exif_transpose(image)


def _set_raw(image: ImageFile.ImageFile, raw: str) -> None:
    """Has a picture that is not loaded read by another raw mode; RGB;16L: of separate bands R;16L, G;16L, B;16L."""
    separate = isinstance(image.tile[0].args, tuple) and image.tile[0].args[0] in ("R", "R;16L", "R;16B")
    tiles = image.tile[: len(image.mode)] if separate else image.tile
    modes = [band + raw[raw.index(";") :] for band in image.mode] if separate else [raw] * len(tiles)
    args = [
        (mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode
        for mode, tile in zip(modes, tiles, strict=True)
    ]
    image.tile = [tile._replace(args=arg) for tile, arg in zip(tiles, args, strict=True)]


def _declared_by_tiff(tags: Any) -> tuple[int, int] | None:
    """By BitsPerSample, or by Min- and MaxSampleValue where these are not what goes without saying."""
    bits, signed = tags.get(258, (1,))[0], tags.get(339, (1,))[0] == 2
    low, high = (tags.get(one, tags.get(other)) for one, other in ((280, 340), (281, 341)))
    if high is not None:
        high = int(np.max(high))
        low = int(np.min(low)) if low is not None else -high - 1 if signed else 0
        if low < high < (1 << (bits - signed)) - 1:
            return low, high
    return (0, (1 << bits) - 1) if 8 < bits < 16 else None


def _declared_by_png(file: IO[bytes]) -> tuple[int, int] | None:
    """By sBIT, the bits that are significant; whether they are the upper or the lower ones the values say."""
    place = file.tell()
    file.seek(0)
    head = file.read(4096).partition(b"IDAT")[0]
    file.seek(place)
    at = head.find(b"sBIT")
    bits = max(head[at + 4 : at + 4 + head[at - 1]], default=0) if at > 0 else 0
    return (0, (1 << bits) - 1) if 8 < bits < 15 else None


def _to_8_bits(values: NDArray[np.integer], file: _File, name: str) -> Pixels:
    """0 to 255 of values of any range, of the same shape."""
    low, high = file.declared or (0, 0)
    if not file.declared or (not file.tags and values.max() > high):
        there = values if file.nothing is None else values[values != file.nothing]
        low, high = _percentiles(there if there.size else values)
        least, most = int(values.min()), int(values.max())
        if least >= 0 and most < 1 << 16 and (high >= _UNUSED or least == most):
            return (values // 257).astype(np.uint8)
        low, high = (low, high) if low < high else (least, most)
        _take(
            PERCENTILES,
            f"{name}: more than 8 bits, of a range that the file does not say ({least} to {most}); such photos are "
            f"scaled by their own percentiles {_PERCENTILES[0]} and {_PERCENTILES[1]}, here {low} to {high}",
        )
    return np.rint((values.clip(low, high) - low) * np.float32(255 / max(1, high - low))).astype(np.uint8)


def _percentiles(values: NDArray[np.integer]) -> tuple[int, int]:
    """The values nearest to both ranks; of 16 bits by counting, which takes a tenth of the time of sorting."""
    if values.dtype != np.uint16:
        low, high = np.percentile(values, _PERCENTILES, method="nearest").tolist()
        return low, high
    counts = sum(np.bincount(part.ravel(), minlength=1 << 16) for part in np.array_split(values, 16))
    ranks = [round(share / 100 * (values.size - 1)) for share in _PERCENTILES]
    low, high = np.searchsorted(np.cumsum(counts), ranks, side="right").tolist()
    return low, high


def _is_dark(upper: Image.Image) -> bool:
    """Whether colours of 16 bits, by their upper 8, leave the uppermost unused."""
    colours = np.asarray(upper)[..., :3]
    return bool(np.count_nonzero(colours >= _UNUSED >> 8) * 100 <= colours.size * (100 - _PERCENTILES[1]))


def _scaled(upper: Image.Image, file: _File, name: str) -> Image.Image:
    """The picture by all of its 16 bits a channel, colours on one common scale."""
    if file.tags and file.tags.get(284) == 2 and file.raw.endswith("N"):  # libtiff gives the upper bytes alone
        raise PhotoError(
            "16 bits a channel, compressed, in separate planes", "write it anew: gdal_translate -co INTERLEAVE=PIXEL"
        )
    if file.raw.startswith("LA;"):  # its two values of two bytes, as if they were four of one
        four = np.asarray(file.read_as("RGBA")).astype(np.uint16)
        values = (four[..., ::2] << 8 | four[..., 1::2])[..., [0, 0, 0, 1]]
    else:
        raw = file.raw.replace("RGBa", "RGBA")  # as it is written
        upper = upper if raw == file.raw else file.read_as(raw).convert(upper.mode)
        lower = file.read_as(raw[:-1] + _OTHER_BYTE[raw[-1]]).convert(upper.mode)
        values = np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)
    colours = _to_8_bits(values[..., :3], file, name)
    if values.shape[-1] == 3:
        return Image.fromarray(colours)
    alpha = values[..., 3:] * np.float32(255 / max(1, int(values[..., 3].max())))
    return Image.fromarray(np.concatenate([colours, alpha.astype(np.uint8)], -1))


def _without_false_alpha(image: Image.Image, file: _File, name: str) -> Image.Image:
    """A TIFF's colours alone where its last band is no alpha."""
    if not file.tags or image.mode not in ("RGBA", "LA"):
        return image
    alpha = np.asarray(image)[..., -1]
    declared = any(kind in _EXTRAS for kind in file.tags.get(338, ()))
    if declared and alpha.any() and np.isin(alpha, (0, alpha.max())).mean() >= _OPAQUE_SHARE:
        return image
    which, taken = ("fourth", "first three are") if image.mode == "RGBA" else ("second", "first is")
    _take(
        BAND,
        f"{name}: has a {which} band that is no alpha ({'its values are between' if declared else 'undeclared'}); of "
        f"such photos the {taken} taken",
    )
    if file.origin is not None and file.raw.startswith("RGBa"):  # its colours were divided by that band
        image = file.read_as(file.raw.replace("RGBa", "RGBA"))
    return image.convert("RGB" if image.mode == "RGBA" else "L")


def check_bands(file: Path | io.BytesIO) -> None:
    """PhotoError, with the bands, for a TIFF that has other ones than colours have; nothing for any other file."""
    if tags := _tags(file):
        _check_bands(tags, known=False)


def _tags(file: Path | io.BytesIO) -> Any:
    """Of a TIFF; None of any other file."""
    try:
        with open(file, "rb") if isinstance(file, Path) else contextlib.nullcontext(file) as opened:
            opened.seek(0)
            head = opened.read(8)
            if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                return None
            head += opened.read(8) if b"+" in head[:4] else b""  # BigTIFF
            tags = TiffImagePlugin.ImageFileDirectory_v2(head)
            opened.seek(tags.next)
            tags.load(opened)
            return tags if len(tags) else None
    except Exception:  # of many kinds, on broken files
        return None


def _check_bands(tags: Any, known: bool = True) -> None:
    """known: whether the picture can be read otherwise."""
    samples, kinds = tags.get(277, 1), tags.get(338, ())
    colours = _COLOURS.get(tags.get(262, 1), ("colour",) * 3)
    bits, others = sorted(set(tags.get(258, (1,)))), samples - len(colours)
    if bits == [8] and 2 in tags.get(339, ()):
        raise PhotoError("signed values of 8 bits", "write it unsigned: gdal_translate -ot Byte -scale -128 127 0 255")
    if others < (2 if known else 1) and (known or bits[-1] <= 16):
        return
    named = [_EXTRAS.get(kind, "unspecified") for kind in (*kinds, *[0] * others)[: max(0, others)]]
    bands = f"{samples} band{'s' * (samples > 1)} of {' and '.join(map(str, bits))} bits"
    raise PhotoError(
        f"{bands} ({', '.join((*colours[:samples], *named))})",
        "write the three that are to be seen as an RGB file of 8 bits: gdal_translate -b 1 -b 2 -b 3 -ot Byte -scale",
    )


def _take(liberty: Liberty, text: str) -> None:
    """Says the first of a kind, and has it counted."""
    if (taken := _taken.get()) is not None:
        taken.append(liberty)
    if liberty not in _said:
        _said.add(liberty)
        say(text)
