"""DATA as a folder: its names, its readers, and the file whose presence says that it is complete.

DATA/dataset.json                            splits, counts, encoders; written last
DATA/FAMILY/SPLIT-00003-of-00016.tfrecord    features, evidence, truth; each with .index
DATA/labels/NAME/                            ontology.json, prototypes.npy, shards, labels.json (written last)
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from labelgen.core.errors import UserError
from labelgen.core.files import listed, read_json
from labelgen.core.ontology import Ontology
from labelgen.records import FORMAT
from labelgen.tfrecord import ShardReader, shard_name


class SplitReader:
    """The rows of one split of one family, over all its shards: len() and [i] -> bytes. Picklable."""

    def __init__(
        self, folder: Path, split: str, rows: list[int], open_shard: Callable[[Path], ShardReader] = ShardReader
    ):
        """rows: how many each shard has, as the finishing run counted them.

        A shard is opened when the first of its rows is read: a large DATA has more shards than a start should open.
        UserError where one is missing; a shard with other rows is one when it is opened.
        """
        self._folder, self._split, self._open = folder, split, open_shard
        self._ends = np.cumsum([0, *rows])
        self._shards: dict[int, ShardReader] = {}
        there = set(listed(folder))
        for i in range(len(rows)):
            name = shard_name(split, i, len(rows))
            if name not in there or f"{name}.index" not in there:
                open_shard(folder / name)  # says what is missing

    def _shard(self, shard: int) -> ShardReader:
        if shard not in self._shards:
            count = len(self._ends) - 1
            reader = self._open(self._folder / shard_name(self._split, shard, count))
            expected = self._ends[shard + 1] - self._ends[shard]
            if len(reader) != expected:
                raise UserError(
                    f"{reader.name}: has {len(reader)} rows, {expected} are expected; it is of another run: "
                    "delete it and run labelgen.run again"
                )
            self._shards[shard] = reader
        return self._shards[shard]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, row: int) -> bytes:
        shard, record = self.locate(row)
        return shard[record]

    def locate(self, row: int) -> tuple[ShardReader, int]:
        """The shard that holds `row`, and which of its records that is."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        shard = int(np.searchsorted(self._ends, row, "right")) - 1
        return self._shard(shard), row - int(self._ends[shard])


def check_format(info: dict[str, Any], file: Path | str) -> None:
    """UserError when the fields of dataset.json are of another version."""
    if info.get("format") != FORMAT:
        raise UserError(f"{file}: format {info.get('format')!r}, this version reads {FORMAT}; encode again")


class Labels(NamedTuple):
    """The words of labels/NAME."""

    ontology: Ontology
    prototypes: NDArray[np.float32]
    """[K, E] unit rows."""


class Dataset:
    """A complete DATA. Opening reads dataset.json only; truth/ is opened when somebody asks for its reader."""

    def __init__(self, path: Path, info: dict[str, Any]):
        self.path = path
        self.info = info
        """What dataset.json says: encoders with digests, config, versions beside what the properties give."""

    @staticmethod
    def open(path: str | Path) -> "Dataset":
        """UserError when there is no complete DATA, or one of another format."""
        path = Path(path)
        mend = "DATA is not complete: run labelgen.run with it as --out until it says so"
        info = read_json(path / "dataset.json", mend)
        check_format(info, path / "dataset.json")
        return Dataset(path, info)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self.info["splits"])

    @property
    def grid_hw(self) -> tuple[int, int]:
        """The fixed patch grid h, w."""
        height, width = self.info["grid_hw"]
        return int(height), int(width)

    @property
    def feature_width(self) -> int:
        """D."""
        return int(self.info["feature_width"])

    @property
    def text_width(self) -> int:
        """E."""
        return int(self.info["text_width"])

    def count(self, split: str) -> int:
        """Photos of a split, those that failed left out."""
        return sum(self._split(split)["rows"])

    def has_truth(self, split: str) -> bool:
        """Whether the source had masks for the split; does not open truth/."""
        return bool(self._split(split)["truth"])

    def truth_classes(self, split: str) -> tuple[str, ...] | None:
        """Names of the classes in truth/; None where they are the lines of the file of words."""
        names = self._split(split)["truth_classes"]
        return None if names is None else tuple(names)

    def reader(self, family: str, split: str) -> SplitReader:
        """family: features, evidence or truth. UserError for a split without truth, and for shards that do not fit."""
        if family == "truth" and not self.has_truth(split):
            raise UserError(
                f"{self.path}: split {split!r} has no truth; set photos.splits.{split}.masks and encode into a new DATA"
            )
        return self._open_split(family, split)

    def stage(
        self, split: str, families: Sequence[str], rows: Iterable[int], stopped: Callable[[], bool] = lambda: False
    ) -> bool:
        """Brings rows near before they are read; True once all are, False when `stopped` said to end it before.

        families: of reader, and labels/NAME. Here there is nothing to do; see labelgen.staging.
        """
        return True

    def labels_info(self, name: str) -> dict[str, Any]:
        """What labels/NAME/labels.json says: config, digest, splits."""
        mend = (
            f"label first: python -m labelgen.run --stage=label --config.labels.name={name}{self._other_labels(name)}"
        )
        return read_json(self.path / "labels" / name / "labels.json", mend)

    def labels(self, name: str) -> Labels:
        """The words and prototypes of labels/NAME, once these labels are complete (UserError before)."""
        self.labels_info(name)
        folder = self.path / "labels" / name
        ontology = Ontology.from_json(read_json(folder / "ontology.json", "label again"), str(folder / "ontology.json"))
        return Labels(ontology, read_prototypes(folder / "prototypes.npy", len(ontology.words), self.text_width))

    def labels_file(self, name: str, file: str) -> dict[str, Any]:
        """The fields of a JSON file of labels/NAME."""
        return read_json(self.path / "labels" / name / file, "label again, under another labels.name")

    def label_reader(self, name: str, split: str) -> SplitReader:
        """The LabelRows of a split; row i is the photo of row i everywhere else."""
        labelled = self.labels_info(name)["splits"]
        if split not in labelled:
            raise UserError(
                f"{self.path}/labels/{name}: split {split!r} is not labelled, only {', '.join(labelled)}; "
                "add it to labels.splits and label under another labels.name"
            )
        return self._open_split(f"labels/{name}", split)

    def _open_split(self, folder: str, split: str) -> SplitReader:
        return SplitReader(self.path / folder, split, self._split(split)["rows"])

    def _split(self, split: str) -> dict[str, Any]:
        try:
            fields: dict[str, Any] = self.info["splits"][split]
        except KeyError:
            raise UserError(f"{self.path}: no split {split!r}; it has {', '.join(self.splits)}") from None
        return fields

    def _other_labels(self, name: str) -> str:
        done = sorted(path.parent.name for path in self.path.glob("labels/*/labels.json"))
        return f" (there are: {', '.join(done)})" if done else ""


def read_prototypes(path: str | Path, words: int, width: int | None) -> NDArray[np.float32]:
    """float32 [K, E] of a .npy file. UserError for another count or width and for rows without direction.

    width: None where any will do.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of text embeddings") from None
    except (ValueError, EOFError, OSError):
        raise UserError(f"{path}: not a .npy file of text embeddings; write it with numpy.save") from None
    fits = array.ndim == 2 and len(array) == words and width in (None, array.shape[1])
    if not fits or not np.issubdtype(array.dtype, np.floating):
        raise UserError(
            f"{path}: {array.dtype} {list(array.shape)}, but floats [{words}, {width or 'E'}] are wanted: "
            "a row a word, in the order of the words, as wide as CLIP's text embeddings"
        )
    prototypes: NDArray[np.float32] = array.astype(np.float32)
    norms = np.linalg.norm(prototypes, axis=1)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise UserError(f"{path}: row {int(np.argmin(norms > 0))} is zero or not finite; embed that word again")
    return prototypes
