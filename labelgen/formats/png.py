"""A palette PNG a photo with the class index of each pixel; beside them classes.json, and confidence as grey PNGs."""

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelgen.core.files import write_json
from labelgen.core.ontology import label_dtype
from labelgen.data.records import png_bytes
from labelgen.formats.base import Annotated, ClassInfo, State, save

UNLABELLED_COLOUR = (255, 255, 255)


class PngWriter:
    """masks/NAME.png, confidence/NAME.png, classes.json.

    A mask has the class index, 255 for unlabelled, in the classes' colours; with more than 255 classes it is 16-bit
    grey, 65535 for unlabelled.
    """

    def __init__(self, folder: Path, classes: Sequence[ClassInfo]) -> None:
        self.state = State()
        self._folder, self._classes = folder, classes
        colours = np.zeros((256, 3), np.uint8)
        colours[: len(classes)] = [info.colour for info in classes[:256]]
        colours[255] = UNLABELLED_COLOUR
        self._palette = colours.tobytes()

    def add(self, photo: Annotated) -> None:
        """See labelgen.formats.base.Writer; so the other methods."""
        save(self._folder / "masks" / f"{photo.name}.png", self._mask(photo.label_map))
        if photo.confidence is not None:
            save(self._folder / "confidence" / f"{photo.name}.png", png_bytes(photo.confidence))

    def finish(self, records: Sequence[Any]) -> None:
        classes = {
            info.name: {"index": i, "colour": "#" + bytes(info.colour).hex(), "words": list(info.words)}
            for i, info in enumerate(self._classes)
        }
        write_json(self._folder / "classes.json", classes)

    def remarks(self, counts: Counter[str]) -> list[str]:
        return []

    def _mask(self, label_map: NDArray[np.int32]) -> bytes:
        dtype = label_dtype(len(self._classes))
        values = np.where(label_map < 0, np.iinfo(dtype).max, label_map).astype(dtype)
        if dtype != np.uint8:
            return png_bytes(values)
        image = Image.fromarray(values, "P")
        image.putpalette(self._palette)
        data = io.BytesIO()
        image.save(data, "PNG")
        return data.getvalue()
