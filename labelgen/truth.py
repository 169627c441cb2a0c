"""Truth in the words' classes: DATA keeps it in the classes of its source, each list of words has its own.

Classes are matched by name, so one DATA serves VOC with background and without. Read by quality, evaluate and the
oracle alone.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.core.ontology import ignore_value
from labelgen.data.dataset import Dataset
from labelgen.data.records import TruthRow

IGNORE, REST = "ignore", "*"


class TruthMap(NamedTuple):
    """The truth of one photo: label_map int64 [H, W], class of the words or -1 where nothing is to be compared."""

    photo_id: str
    label_map: NDArray[np.int64]


class TruthReader:
    """The truth of a split in the classes `names`: len() and [i] -> TruthMap. truth/ is opened here."""

    def __init__(self, data: Dataset, split: str, names: Sequence[str], rules: Mapping[str, str]) -> None:
        """rules: eval.truth. UserError when the split has no truth, or a class of it has no place in `names`."""
        self._rows = data.reader("truth", split)
        classes = data.truth_classes(split)
        self._lookup = None if classes is None else lookup(classes, names, rules)
        self._count = len(names)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> TruthMap:
        known = TruthRow.decode(self._rows[row])
        annotated = known.label_map != ignore_value(known.label_map)
        label_map = np.where(annotated, known.label_map.astype(np.int64), -1)
        if self._lookup is None:
            return TruthMap(known.photo_id, np.where(label_map < self._count, label_map, -1))
        return TruthMap(known.photo_id, self._lookup[label_map])


def lookup(classes: Sequence[str], names: Sequence[str], rules: Mapping[str, str]) -> NDArray[np.int64]:
    """int64 [len(classes) + 1]: for each class of the source the index of its class in `names`, or -1; the last is -1.

    rules: class of the source -> class in `names` or "ignore"; "*" is for all that neither rules nor names have.
    UserError for a class that is nowhere, and for rules that name what is not there.
    """
    for source, target in rules.items():
        if source != REST and source not in classes:
            raise UserError(f"eval.truth has {source!r}; the truth's classes are {', '.join(classes)}")
        if target != IGNORE and target not in names:
            raise UserError(f"eval.truth.{source} = {target!r} is neither 'ignore' nor one of {', '.join(names)}")
    place = {name: i for i, name in enumerate(names)} | {IGNORE: -1}
    wanted = [rules.get(name, name if name in place else rules.get(REST, "")) for name in classes]
    homeless = [name for name, target in zip(classes, wanted, strict=True) if not target]
    if homeless:
        raise UserError(
            f"the truth has classes that the words lack: {', '.join(homeless)}; add them to the file of words, or say "
            "in the config's eval.truth what they count as: {class: another class, or 'ignore'; '*': all others}"
        )
    return np.array([*(place[target] for target in wanted), -1])
