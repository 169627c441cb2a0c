"""Masks for FiftyOne's ImageSegmentationDirectory: grey PNGs of the index of the class plus one, 0 unlabelled.

Value 0 is background to FiftyOne: it is not drawn, and not evaluated. A class there would be gone. classes.json beside
the masks says the values, so that they come back by name.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.core.files import write_json
from labelgen.core.ontology import UNLABELLED
from labelgen.data.records import png_bytes
from labelgen.formats.writers import Annotated, ClassInfo, State, save


def mask_values(label_map: NDArray[np.int32], classes: int) -> NDArray[Any]:
    """uint8 [H, W], uint16 beyond 254 classes: index + 1, 0 unlabelled. label_map: [H, W] class, -1 unlabelled."""
    values: NDArray[Any] = (label_map + 1).astype(np.uint8 if classes < 255 else np.uint16)
    return values


def mask_targets(names: Sequence[str]) -> dict[int, str]:
    """Value -> class name, as a dataset's mask_targets."""
    return dict(enumerate(names, 1))


class FiftyoneWriter:
    """fiftyone/masks/NAME.png and fiftyone/classes.json, whose first class is __ignore__, 0."""

    def __init__(self, folder: Path, classes: Sequence[ClassInfo]) -> None:
        self.state = State()
        self._folder, self._classes = folder / "fiftyone", classes

    def add(self, photo: Annotated) -> None:
        """See labelgen.formats.writers.Writer; so the other methods."""
        values = mask_values(photo.label_map, len(self._classes))
        save(self._folder / "masks" / f"{photo.name}.png", png_bytes(values))

    def finish(self, records: Sequence[Any]) -> None:
        classes: dict[str, dict[str, Any]] = {UNLABELLED: {"index": 0, "colour": "#ffffff", "words": []}}
        for i, info in enumerate(self._classes, 1):
            classes[info.name] = {"index": i, "colour": "#" + bytes(info.colour).hex(), "words": list(info.words)}
        write_json(self._folder / "classes.json", classes)

    def remarks(self, counts: Counter[str]) -> list[str]:
        return []
