"""Which class a pixel of a mask file is: by the legend beside the masks, by name.

Values and colours are local to files. What gives them names is labelmap.txt (`name:R,G,B:parts:actions`, a class a
line: CVAT's and datumaro's Pascal VOC), label_colors.txt (`R G B name`: their CamVid and Cityscapes), or classes.json
(labelgen.export). Without one the palette of a file can still contradict what its values are taken for.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelgen.core.errors import UserError
from labelgen.core.files import read_json, read_text

Colour = tuple[int, int, int]
"""R, G, B."""
LABELMAP, LABEL_COLORS, CLASSES = "labelmap.txt", "label_colors.txt", "classes.json"
BLANK = frozenset([(255, 255, 255), (224, 224, 192)])
"""Colours of unlabelled pixels where they are no class's: labelgen.export's, Pascal VOC's border."""
_FIX = "fix it, or take the file of words that the labels were exported with"


class Legend(NamedTuple):
    """What names the values and colours of masks."""

    where: str
    """What messages call it."""
    names: tuple[str, ...]
    values: tuple[int, ...]
    """The value of each class in masks of values."""
    colours: tuple[Colour, ...]
    """The colour of each class; none where it has no colours."""


class Drawn(NamedTuple):
    """A mask file as it was drawn."""

    pixels: NDArray[Any]
    """[H, W] values, or uint8 [H, W, 3] colours."""
    palette: NDArray[np.uint8] | None
    """[n, 3] colours of values 0 to n - 1; None where the file has none, or a ramp of greys or one colour alone."""


def read_drawn(path: Path) -> Drawn:
    """A grey, palette or colour mask. UserError for what is none, and where pixels are transparent."""
    try:
        with Image.open(path) as image:
            mode, palette = image.mode, image.getpalette() if image.mode == "P" else None
            pixels = np.asarray(image)
    except FileNotFoundError:
        raise UserError(f"{path}: no such mask; add it, or set photos.splits' masks to empty") from None
    except Exception as error:  # Pillow's decoders raise of many kinds on broken files
        raise UserError(f"{path}: the mask cannot be read: {' '.join(str(error).split())}; write it again") from None
    if mode == "RGBA" and (pixels[..., 3] == 255).all():
        mode, pixels = "RGB", pixels[..., :3]
    if mode not in ("1", "L", "P", "I", "I;16", "RGB"):
        raise UserError(f"{path}: a mask of mode {mode}; class indices as grey or palette values are wanted")
    if palette is None:
        return Drawn(pixels, None)
    colours = np.array(palette, np.uint8).reshape(-1, 3)
    ramp = np.repeat(np.arange(len(colours), dtype=np.uint8)[:, None], 3, axis=1)
    silent = np.array_equal(colours, ramp) or (colours == colours[:1]).all()
    return Drawn(pixels, None if silent else colours)


def is_wide(path: Path) -> bool:
    """Whether a mask has more than 8 bits a pixel."""
    with Image.open(path) as image:
        return image.mode in ("I", "I;16")


def find_legend(folder: Path) -> Legend | None:
    """That of the masks in a folder: it lies there, or beside the folder, or beside the one above. UserError for two
    in one place.
    """
    for place in (folder, *folder.parents[:2]):
        there = [place / name for name in (LABELMAP, LABEL_COLORS, CLASSES) if (place / name).is_file()]
        if len(there) > 1:
            raise UserError(f"{there[0]}: and {there[1]} too; take away the one that is not of these masks")
        if there:
            return _read_classes(there[0]) if there[0].name == CLASSES else _read_lines(there[0])
    return None


def _read_lines(path: Path) -> Legend:
    """Values are lines, colours those of the lines; where no line has one, Pascal VOC's."""
    fix = "write `name:R,G,B::`, a class a line" if path.name == LABELMAP else "write `R G B name`, a class a line"
    names: list[str] = []
    colours: list[Colour | None] = []
    for line in (line.strip() for line in read_text(path).splitlines()):
        if not line or line.startswith("#"):
            continue
        *given, name = line.split(maxsplit=3) if path.name == LABEL_COLORS else _labelmap_fields(line)
        if not name or len(given) not in (0, 3) or not all(part.isdecimal() and int(part) < 256 for part in given):
            raise UserError(f"{path}: {line!r} is no class; {fix}")
        names.append(name)
        colours.append((int(given[0]), int(given[1]), int(given[2])) if given else None)
    there = tuple(colour for colour in colours if colour)
    if not names or len(there) not in (0, len(names)):
        lacks = f"{names[colours.index(None)]!r} has no colour, others have one" if names else "no class in it"
        raise UserError(f"{path}: {lacks}; {fix}")
    return _checked(Legend(str(path), tuple(names), tuple(range(len(names))), there or voc_colours(len(names))), fix)


def _labelmap_fields(line: str) -> list[str]:
    """R, G and B, where there is a colour, and the name."""
    name, *rest = line.split(":")
    return [*(part.strip() for part in rest[0].split(",")), name] if rest and rest[0] else [name]


def _read_classes(path: Path) -> Legend:
    fix = "export the labels again, or take it away where indices are lines of the words"
    fields = read_json(path, fix)
    try:
        values = tuple(int(field["index"]) for field in fields.values())
        coloured = [str(field["colour"]) for field in fields.values() if "colour" in field]
        colours = [bytes.fromhex(colour.removeprefix("#")) for colour in coloured]
        given = tuple((c[0], c[1], c[2]) for c in colours)
    except (TypeError, KeyError, ValueError, IndexError):
        raise UserError(f"{path}: not name -> {{index: …}}; export the labels again") from None
    if not values or min(values) < 0:
        raise UserError(f"{path}: {'an index below 0' if values else 'no class in it'}; {fix}")
    return _checked(Legend(str(path), tuple(fields), values, given if len(given) == len(values) else ()), fix)


def _checked(legend: Legend, fix: str) -> Legend:
    """UserError where two classes have one name, value or colour (beyond 256, palettes have none to tell by)."""
    kinds: dict[str, Sequence[Any]] = {"name": legend.names, "index": legend.values, "colour": legend.colours[:256]}
    for what, given in kinds.items():
        twice = next((each for i, each in enumerate(given) if each in given[:i]), None)
        if twice is not None:
            raise UserError(f"{legend.where}: {what} {twice} is there twice; {fix}")
    return legend


def is_foreign(legend: Legend) -> bool:
    """Whether another tool wrote it, in which "background" is what nobody has drawn."""
    return not legend.where.endswith(CLASSES)


def voc_colours(count: int) -> tuple[Colour, ...]:
    """Pascal VOC's colour of each value: bit b of R, G and B, from above, is bit 3b, 3b + 1 and 3b + 2 of the value."""
    values, bits = np.arange(count)[:, None], np.arange(3)
    colours = sum((values >> (3 * b + bits) & 1) << (7 - b) for b in range(8))
    return tuple((int(r), int(g), int(b)) for r, g, b in np.asarray(colours))


def by_legend(path: Path, legend: Legend) -> NDArray[np.int32]:
    """int32 [H, W] of a mask file: index into legend.names, -1 unlabelled.

    By colour where the file and the legend have colours, else by value. UserError for what the legend does not have.
    """
    drawn = read_drawn(path)
    if drawn.pixels.ndim == 3:
        return _by_colour(path, drawn.pixels, legend)
    if drawn.palette is not None and legend.colours:
        return _by_palette(path, drawn.pixels, drawn.palette, legend)
    greys = {r for r, g, b in legend.colours if r == g == b}
    if legend.colours and len(greys) == len(legend.colours):  # colours that a grey file can have
        return _by_colour(path, np.repeat(drawn.pixels.astype(np.uint8)[..., None], 3, axis=-1), legend)
    return _by_value(path, drawn.pixels, legend)


def _by_value(path: Path, pixels: NDArray[Any], legend: Legend) -> NDArray[np.int32]:
    """255 is unlabelled, in a file of 16 bits 65535, and 255 where it is no class."""
    place = {value: i for i, value in enumerate(legend.values)}
    blank = {65535} if pixels.dtype.itemsize > 1 else {255}
    blank |= {255} - place.keys()
    values, where = np.unique(pixels, return_inverse=True)
    foreign = [int(value) for value in values if int(value) not in blank | place.keys()]
    if foreign:
        raise _foreign(path, foreign[0], None, legend)
    indices = [-1 if int(value) in blank else place[int(value)] for value in values]
    return np.array(indices, np.int32)[where.reshape(pixels.shape)]


def _by_palette(path: Path, pixels: NDArray[Any], palette: NDArray[np.uint8], legend: Legend) -> NDArray[np.int32]:
    """By colour, which is what is seen: tools sort palettes anew. 255 may have any where all else fits by value too."""
    index, place = _index_of(legend), {value: i for i, value in enumerate(legend.values)}
    used = [int(value) for value in np.unique(pixels)]
    found = {value: index.get(_colour(palette, value)) for value in used}
    strays = [value for value in used if found[value] is None]
    fits = all(found[value] == place.get(value) for value in used if value not in strays)
    if strays == [255] and 255 not in place and fits:
        found[255] = -1
    elif strays:
        raise _foreign(path, strays[0], _colour(palette, strays[0]), legend)
    lookup = np.zeros(256, np.int32)
    for value in used:
        lookup[value] = found[value] or 0
    drawn: NDArray[np.int32] = lookup[pixels]
    return drawn


def _by_colour(path: Path, pixels: NDArray[np.uint8], legend: Legend) -> NDArray[np.int32]:
    """Of colours [H, W, 3]."""
    if not legend.colours:
        raise UserError(
            f"{path}: a mask of mode RGB, and {legend.where} has no colours; class indices as grey or palette values "
            f"are wanted, or a {LABELMAP} beside the masks that names their colours"
        )
    index = _index_of(legend)
    codes, where = np.unique(pixels.astype(np.int64) @ np.array([65536, 256, 1]), return_inverse=True)
    colours: list[Colour] = [(code >> 16, code >> 8 & 255, code & 255) for code in codes.tolist()]
    found = [index.get(colour) for colour in colours]
    if None in found:
        lacks = _written(colours[found.index(None)])
        raise UserError(
            f"{path}: a mask of mode RGB; class indices as grey or palette values are wanted, or the colours of "
            f"{legend.where}, without blending: it does not have {lacks}"
        )
    return np.array(found, np.int32)[where.reshape(pixels.shape[:2])]


def _index_of(legend: Legend) -> Mapping[Colour | None, int]:
    """Class index, or -1, of each colour."""
    index: dict[Colour | None, int] = dict.fromkeys(BLANK, -1)
    return index | {colour: i for i, colour in enumerate(legend.colours)}


def _colour(palette: NDArray[np.uint8], value: int) -> Colour | None:
    if value >= len(palette):
        return None
    red, green, blue = palette[value].tolist()
    return red, green, blue


def _foreign(path: Path, value: int, colour: Colour | None, legend: Legend) -> UserError:
    """For a value, or for its colour where the value by itself would do."""
    if colour is None or value not in legend.values:
        return UserError(f"{path}: class index {value}, which {legend.where} does not have; {_FIX}")
    return UserError(
        f"{path}: class index {value} has colour {_written(colour)}, which {legend.where} does not have; save it in "
        "the colours there, or as a grey PNG of the indices there"
    )


def _written(colour: Colour) -> str:
    return "#" + bytes(colour).hex()


def check_palette(path: Path, drawn: Drawn, colours: Sequence[Colour | None], what: str) -> None:
    """UserError where a value has the colour of another one, by `colours` of values 0, 1, …, which are `what`'s.

    Such a file was saved with its palette in another order: its values stand for other classes than they seem to.
    """
    if drawn.palette is None:
        return
    value_of = {colour: value for value, colour in reversed(list(enumerate(colours)))}
    for value in np.unique(drawn.pixels).tolist():
        colour = _colour(drawn.palette, value)
        if colour in value_of and colour is not None and value_of[colour] != value:
            raise UserError(
                f"{path}: value {value} has colour {_written(colour)}, that of value {value_of[colour]} in {what}: "
                f"another tool has sorted its palette; put a {LABELMAP} or {CLASSES} beside the masks that names the "
                "colours, or save it as a grey PNG of class indices"
            )


def begins_with_background(drawn: Drawn) -> bool:
    """Whether the palette is Pascal VOC's, in which value 0 is the background."""
    count = 0 if drawn.palette is None else min(8, len(drawn.palette))
    return count > 1 and drawn.palette is not None and np.array_equal(drawn.palette[:count], voc_colours(count))


def check_not_voc(path: Path, drawn: Drawn, line_1: str) -> None:
    """UserError for Pascal VOC's palette, where line 1 of the words, by which its values are read, is no background."""
    if begins_with_background(drawn):
        raise UserError(
            f"{path}: its palette is Pascal VOC's, where value 0 is background, but line 1 of the words is {line_1!r}; "
            f"put a {LABELMAP} or {CLASSES} beside the masks, with the names of their values"
        )
