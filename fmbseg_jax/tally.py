"""What evaluation counts: a confusion matrix of each reading, and each photo's own scores, over all hosts.

RUN/eval/SPLIT.npz, for whoever asks which classes are taken for which, and which photos went well:

    names      str [C]                  the classes, in the order of the matrices
    readings   str [R]
    counts     int64 [R, C, C + 1]      rows truth, columns prediction, the last one "no class"
    photos     str [N]                  photo ids, in the order of the split
    miou       float32 [R, N]           of each photo by itself, over the classes that it or its prediction has
    accuracy   float32 [R, N]           share of its annotated pixels
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fmbseg_jax.runs import hosts
from labelgen.core.errors import UserError
from labelgen.core.files import write_atomic
from labelgen.labels.scores import Counts, confusion, scores

PhotoScores = dict[str, tuple[float, float]]
"""Reading -> (mIoU, pixel accuracy) of one photo."""


class Tally:
    """Counts of a split: `add` each photo, then `of_all_hosts`."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self.counts: dict[str, Counts] = {}
        """Reading -> int64 [C, C + 1]."""
        self.photos: list[tuple[int, str, PhotoScores]] = []
        """(row, photo id, scores)."""

    def add(self, row: int, photo_id: str, truth: NDArray[np.integer], maps: Mapping[str, NDArray[np.integer]]) -> None:
        """One photo: truth [H, W], -1 where nothing is compared; maps: reading -> class per pixel [H, W]."""
        found: PhotoScores = {}
        names = [str(c) for c in range(self._classes)]
        for reading, prediction in maps.items():
            counts = confusion(truth, prediction, self._classes)
            self.counts[reading] = self.counts.get(reading, 0) + counts
            its = scores(counts, names)
            found[reading] = its.miou, its.pixel_accuracy
        self.photos.append((row, photo_id, found))

    def of_all_hosts(self) -> "Tally":
        """The sums and the photos of all hosts. All of them must call it."""
        both = Tally(self._classes)
        readings: list[str] = next(filter(None, hosts.gather(list(self.counts))), [])  # a host may have had no photo
        nothing = np.zeros((self._classes, self._classes + 1), np.int64)
        both.counts = {name: hosts.total(self.counts.get(name, nothing)) for name in readings}
        both.photos = sorted((row, name, found) for part in hosts.gather(self.photos) for row, name, found in part)
        return both

    def write(self, path: Path, names: Sequence[str]) -> None:
        """SPLIT.npz as above; names: of the C classes."""
        readings = list(self.counts)
        figures = np.array([[found[name] for name in readings] for _, _, found in self.photos], np.float32)
        figures = figures.reshape(len(self.photos), len(readings), 2)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            names=np.array(names),
            readings=np.array(readings),
            counts=np.array(list(self.counts.values())),
            photos=np.array([name for _, name, _ in self.photos]),
            miou=figures[..., 0].T,
            accuracy=figures[..., 1].T,
        )
        write_atomic(path, buffer.getvalue())


class Tallied(NamedTuple):
    """What SPLIT.npz has of one reading."""

    names: tuple[str, ...]
    counts: Counts
    photos: tuple[str, ...]
    miou: NDArray[np.float32]
    """[N], NaN for a photo without an annotated pixel."""


def read_tally(path: Path, reading: str) -> Tallied | None:
    """One reading of SPLIT.npz; None where there is no such file. UserError when it is damaged."""
    try:
        with np.load(path) as file:
            arrays: dict[str, NDArray[Any]] = dict(file)
        at = arrays["readings"].tolist().index(reading)
        names, photos = (tuple(map(str, arrays[key])) for key in ("names", "photos"))
        return Tallied(names, arrays["counts"][at], photos, arrays["miou"][at])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise UserError(f"{path}: cannot be read; write it anew with fmbseg_jax.evaluate") from None
