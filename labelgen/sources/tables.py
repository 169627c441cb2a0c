"""Class tables of the data sets, as text files that people can read: `VALUE: class name`, one class a line."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError

FOLDER = Path(__file__).parent / "tables"


@dataclass(frozen=True)
class TableTruth:
    """Values of a data set's masks by its class table; class indices are the table's lines.

    values: int [n] value of each class, ascending; ignored: further values that the data set's masks have, for pixels
    that belong to no class.
    """

    name: str
    classes: tuple[str, ...]
    values: tuple[int, ...]
    ignored: frozenset[int]

    @property
    def count(self) -> int:
        """See labelgen.sources.pairs.Truth."""
        return len(self.classes)

    def __call__(self, path: Path, values: NDArray[np.integer]) -> NDArray[np.int64]:
        known = np.array(self.values)
        there = np.flatnonzero(np.bincount(values.ravel().astype(np.int64)))
        foreign = sorted(set(there.tolist()) - set(self.values) - self.ignored)
        if foreign:
            raise UserError(
                f"{path}: value {foreign[0]} stands for no class of {self.name} ({self.values[0]} to "
                f"{self.values[-1]}); are these its masks? mend photos.source or photos.splits' masks"
            )
        index = np.full(int(there[-1]) + 1, -1, np.int64)
        index[known[known < len(index)]] = np.flatnonzero(known < len(index))
        return index[values.astype(np.int64)]


def read_table(name: str) -> dict[int, str]:
    """Value -> class name, values ascending, of a table that ships with the project."""
    lines = (line.split("#")[0].strip() for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines())
    pairs = (line.partition(":") for line in lines if line)
    return dict(sorted((int(value), label.strip()) for value, _, label in pairs))


def table_truth(name: str, *ignored: int) -> TableTruth:
    """The truth of masks with the values of table `name`; `ignored`: what else they have."""
    table = read_table(name)
    return TableTruth(name, tuple(table.values()), tuple(table), frozenset(ignored))
