"""How a mask file becomes the values that truth is made of, where these are more than its numbers: palettes, colours.

A reader takes a path and gives [H, W]; labelgen.sources.photos.read_mask is the one for plain numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.core.ontology import BACKGROUND
from labelgen.sources.legends import (
    LABELMAP,
    Colour,
    Drawn,
    by_legend,
    check_not_voc,
    check_palette,
    find_legend,
    is_foreign,
    read_drawn,
    voc_colours,
)
from labelgen.sources.photos import read_mask

Reader = Callable[[Path], NDArray[Any]]


@dataclass(frozen=True)
class NamedTruth:
    """Values are indices of `classes` already, -1 not annotated, as by_legend gives them."""

    classes: tuple[str, ...]

    @property
    def count(self) -> int:
        """See labelgen.sources.folders.Truth."""
        return len(self.classes)

    def __call__(self, path: Path, values: NDArray[np.integer]) -> NDArray[np.int64]:
        return values.astype(np.int64)


def label_map_of(masks: Path) -> tuple[NamedTruth, Reader] | None:
    """What the label map of another tool beside the masks names; None where there is none."""
    legend = find_legend(masks) if masks.is_dir() else None
    if legend is None or not is_foreign(legend):
        return None
    return NamedTruth(legend.names), partial(by_legend, legend=legend)


def index_reader(masks: Path, names: Sequence[str] = ()) -> Reader:
    """Of masks of indices. It refuses a palette that contradicts the classes.json of labelgen.export beside them.

    names: what indices stand for where there is none; then palettes may not contradict them, or each other.
    """
    legend = find_legend(masks)
    if legend is None:
        return IndexReader(names[0] if names else "")
    if is_foreign(legend) or not legend.colours:
        return read_mask
    colours: list[Colour | None] = [None] * (max(legend.values) + 1)
    for value, colour in zip(legend.values, legend.colours, strict=True):
        colours[value] = colour
    return partial(_checked, colours=colours, what=legend.where)


@dataclass
class IndexReader:
    """Of masks whose indices are lines of the words."""

    line_1: str
    """Of the words; "": not known."""
    first: tuple[str, Sequence[Colour]] | None = None
    """The first file with a palette, and its colours by value."""

    def __call__(self, path: Path) -> NDArray[Any]:
        """[H, W]. UserError where value 0 is no background in the words, but in Pascal VOC's palette, which the file
        has, and where a value has the colour that another one has in the first file: tools sort palettes.
        """
        drawn = read_drawn(path)
        if drawn.pixels.ndim == 3:
            return read_mask(path)  # refuses it
        if drawn.palette is None:
            return drawn.pixels
        if self.line_1 and BACKGROUND not in self.line_1.casefold():
            check_not_voc(path, drawn, self.line_1)
        colours: list[Colour] = [(r, g, b) for r, g, b in drawn.palette.tolist()]
        where, known = self.first = self.first or (str(path), colours)
        for value in np.unique(drawn.pixels).tolist():
            if value < min(len(known), len(colours)) and known[value] != colours[value] in known:
                raise UserError(
                    f"{path}: value {value} has the colour of value {known.index(colours[value])} in {where}: another "
                    f"tool has sorted a palette; put a {LABELMAP} beside the masks that names the colours, or save "
                    "them as grey PNGs of class indices"
                )
        return drawn.pixels


def _checked(path: Path, colours: Sequence[Colour | None], what: str) -> NDArray[Any]:
    check_palette(path, read_drawn(path), colours, what)
    return read_mask(path)


def read_voc(path: Path) -> NDArray[Any]:
    """Values in Pascal VOC's order. UserError where the palette says that they are in another."""
    return _checked(path, voc_colours(60), "Pascal VOC")


def read_black_and_white(path: Path) -> NDArray[np.bool_]:
    """Whether a pixel is white: by its colour where the file has a palette or colours; edges may be soft.

    UserError for a mask that is neither black nor white: coloured, without white though not black, or of indices 0, 1.
    """
    drawn = read_drawn(path)
    if drawn.pixels.dtype == np.bool_:
        return drawn.pixels.copy()
    grey = _grey(path, drawn)
    white = 128 << 8 * (grey.dtype.itemsize - 1) if grey.dtype.itemsize <= 2 else 1 << 15
    dark = set(np.unique(grey[grey < white]).tolist())
    if dark and max(dark) and (dark <= {0, 1} or not (grey >= white).any()):
        raise UserError(
            f"{path}: value {max(dark)} is neither black nor white; write {255 if white == 128 else 65535} for white, "
            "or set photos.source = folder for masks of class indices"
        )
    return np.asarray(grey >= white)


def _grey(path: Path, drawn: Drawn) -> NDArray[Any]:
    """[H, W] brightness."""
    pixels = drawn.pixels
    if drawn.palette is not None:
        beyond = int(pixels.max(initial=0)) >= len(drawn.palette)
        pixels = drawn.palette[np.minimum(pixels, len(drawn.palette) - 1)] if not beyond else pixels
    if pixels.ndim == 2:
        return pixels
    colour = pixels[(pixels != pixels[..., :1]).any(-1)]
    if len(colour):
        raise UserError(
            f"{path}: colour #{bytes(colour[0].tolist()).hex()} is neither black nor white; write the mask in black "
            "and white, or set photos.source = folder for masks of class indices"
        )
    return np.asarray(pixels[..., 0])
