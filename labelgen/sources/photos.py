"""What a source of photos is to the encode stage: it lists photos and loads one, with its truth where there is some.

A photo that cannot be used is a PhotoError: it is listed in failures.jsonl and the run goes on. A setup that cannot be
right (no folder, half of it, truth of another data set) is a UserError: the run stops, since more of it would be wrong.

Sources read picture files of any common kind: photos upright in RGB (labelgen.sources.decoding), masks, here, as the
values that were drawn.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelgen.core.errors import UserError
from labelgen.core.ontology import label_dtype
from labelgen.sources.finding import LeftOut


@dataclass(frozen=True)
class Photo:
    """One photo, upright."""

    photo_id: str
    image: NDArray[np.uint8]
    """[H, W, 3] RGB."""
    label_map: NDArray[Any] | None = None
    """[H, W] uint8 or uint16 class indices, 255 / 65535 not annotated; None where the source has no masks."""


class Source(Protocol):
    """The photos of one split."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names of the truth's class indices; None where they are the lines of the user's own file of words."""

    @property
    def has_truth(self) -> bool:
        """Whether photos come with a label map."""

    @property
    def left_out(self) -> LeftOut:
        """What lies among the photos and is not taken for one."""

    def list(self) -> Sequence[str]:
        """Photo ids, sorted; "/" between folders, no suffix. Maybe read from disk when asked for: millions of them."""

    def file(self, photo_id: str) -> str:
        """What failures.jsonl calls the picture: its path from the root on."""

    def load(self, photo_id: str) -> Photo:
        """The photo with its label map. PhotoError for a bad picture, UserError for truth that cannot be right."""


@dataclass(frozen=True)
class IndexTruth:
    """Values are class indices: lines of the user's file of words. count: how many there are (None: no check)."""

    count: int | None
    ignore_index: int
    classes: tuple[str, ...] | None = None

    def __call__(self, path: Path, values: NDArray[np.integer]) -> NDArray[np.int64]:
        annotated = values != self.ignore_index
        highest = int(values.max(initial=0, where=annotated))
        if self.count is not None and highest >= self.count:
            raise UserError(
                f"{path}: class index {highest}, but there are {self.count} classes, 0 to {self.count - 1}; "
                f"fix the mask, the ontology or photos.ignore_index = {self.ignore_index}"
            )
        return np.where(annotated, values.astype(np.int64), -1)


def packed(label_map: NDArray[np.integer], classes: int) -> NDArray[Any]:
    """Class indices [H, W], negative where not annotated, as a Photo holds them: uint8 or uint16."""
    narrow = label_dtype(classes)
    return np.where(label_map < 0, np.iinfo(narrow).max, label_map).astype(narrow)


def check_size(truth: str, truth_hw: tuple[int, ...], photo: str, photo_hw: tuple[int, ...]) -> None:
    """UserError unless truth and photo have the same pixels."""
    if truth_hw != photo_hw:
        raise UserError(
            f"{truth}: {truth_hw[1]} x {truth_hw[0]} px, but its photo {photo} has {photo_hw[1]} x {photo_hw[0]}; "
            "take the mask of this very photo, drawn on it upright and in its size"
        )


def found(root: Path, file: str) -> str:
    """The file with its ending in the case that it has under the root, .png, .PNG or .Png; "" where there is none."""
    stem, ending = os.path.splitext(file)
    cases = (ending, ending.upper(), ending.lower(), ending.title())
    return next((stem + each for each in cases if (root / (stem + each)).is_file()), "")


def check_there(root: Path, files: Iterable[str], what: str, fix: str) -> None:
    """UserError, with `fix`, unless all these files are under the root: half-unpacked archives are common."""
    missing, first, count = 0, "", 0
    for file in files:
        count += 1
        if not found(root, file):
            missing, first = missing + 1, min(first or file, file)
    if missing:
        raise UserError(
            f"{root / first}: no such {what}; {missing} of {count} {what}s are missing, this is the first; {fix}"
        )


def check_once(photo_ids: Sequence[str], source: str) -> None:
    """UserError when there is no photo, or one is named twice: both would have the same results."""
    if not photo_ids:
        raise UserError(f"{source}: names no photo; take it as it was published")
    photo_id, count = Counter(photo_ids).most_common(1)[0]
    if count > 1:
        raise UserError(f"{source}: photo {photo_id} stands there {count} times; take it as it was published")


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
