"""What an evaluation keeps: the counts of each reading over all hosts, and the protocol, which says what they mean.

RUN/eval/SPLIT.npz, for whoever asks which classes are taken for which, and which photos went well:

    names      str [C]                  the classes, in the order of the matrices
    readings   str [R]                  their titles
    counts     int64 [R, C, C + 1]      rows truth, columns prediction, the last one "no class"
    bands      int64 [R, 3, C]          pixels at the edges of each class: both agree, truth's, the prediction's
    photos     str [N]                  photo ids, in the order of the split
    miou       float32 [R, N]           of each photo by itself, over the classes that it or its prediction has
    accuracy   float32 [R, N]           share of its annotated pixels

The protocol, in RUN/eval/SPLIT.json: classes, background, pixels, windows; to lay figures beside others'.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from fmbseg_jax.inference.label_maps import SHARPEN_PX
from fmbseg_jax.inference.sharpening import DILATIONS, ITERATIONS
from fmbseg_jax.reporting.readings import Reading
from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.checkpoint import Restored
from labelgen.core.errors import UserError
from labelgen.core.files import write_atomic
from labelgen.core.ontology import BACKGROUND, Ontology
from labelgen.data.dataset import Dataset
from labelgen.labels.boundaries import DILATION_RATIO, BoundaryCounter
from labelgen.labels.scores import IGNORE, Counts, confusion, scores


def class_names(ontology: Ontology, threshold: float) -> tuple[str, ...]:
    """The classes that are counted: those of the words and, where a threshold makes it, the background after them.

    UserError when the words have a background of their own.
    """
    if not threshold:
        return ontology.names
    if BACKGROUND in ontology.roles:
        raise UserError(
            f"eval.background_threshold = {threshold}, but the words name a background themselves; choose one of the "
            "two: set the threshold to 0, or take the line `background: ...` out of the file of words"
        )
    return *ontology.names, BACKGROUND


SHARPENING = (
    f"PAMR, {ITERATIONS} iterations, dilations {', '.join(map(str, DILATIONS))}, on probabilities of patches, bilinear "
    f"to the photo's size, {SHARPEN_PX} px a side at most"
)
PhotoScores = dict[str, tuple[float, float]]
"""Title of a reading -> (mIoU, pixel accuracy) of one photo."""


class Tally:
    """Counts of a split: `add` each photo, then `of_all_hosts`."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self.counts: dict[Reading, Counts] = {}
        """Reading -> int64 [C, C + 1]."""
        self.bands: dict[Reading, Counts] = {}
        """Reading -> int64 [3, C], for boundary IoU."""
        self.photos: list[tuple[int, str, PhotoScores]] = []
        """(row, photo id, scores)."""

    def add(
        self, row: int, photo_id: str, truth: NDArray[np.integer], maps: Mapping[Reading, NDArray[np.integer]]
    ) -> None:
        """One photo: truth [H, W], -1 where nothing is compared; maps: reading -> class per pixel [H, W]."""
        photo_scores: PhotoScores = {}
        names, edges = [str(c) for c in range(self._classes)], BoundaryCounter(truth, self._classes)
        for reading, prediction in maps.items():
            counts = confusion(truth, prediction, self._classes)
            self.counts[reading] = self.counts.get(reading, 0) + counts
            self.bands[reading] = self.bands.get(reading, 0) + edges.counts(prediction)
            its = scores(counts, names)
            photo_scores[reading.title] = its.miou, its.pixel_accuracy
        self.photos.append((row, photo_id, photo_scores))

    def of_all_hosts(self) -> "Tally":
        """The sums and the photos of all hosts. All of them must call it."""
        all_hosts = Tally(self._classes)
        titles = [reading.title for reading in self.counts]
        readings = [*map(Reading.parse, next(filter(None, hosts.gather(titles)), []))]  # a host may have had no photo
        nothing, none = np.zeros((self._classes, self._classes + 1), np.int64), np.zeros((3, self._classes), np.int64)
        all_hosts.counts = {reading: hosts.total(self.counts.get(reading, nothing)) for reading in readings}
        all_hosts.bands = {reading: hosts.total(self.bands.get(reading, none)) for reading in readings}
        all_hosts.photos = sorted((row, name, each) for part in hosts.gather(self.photos) for row, name, each in part)
        return all_hosts

    def write(self, path: Path, names: Sequence[str]) -> None:
        """SPLIT.npz as above; names: of the C classes."""
        titles = [reading.title for reading in self.counts]
        figures = np.array([[each[title] for title in titles] for _, _, each in self.photos], np.float32)
        figures = figures.reshape(len(self.photos), len(titles), 2)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            names=np.array(names),
            readings=np.array(titles),
            counts=np.array(list(self.counts.values())),
            bands=np.array(list(self.bands.values())),
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


def read_tally(path: Path, reading: Reading) -> Tallied | None:
    """One reading of SPLIT.npz; None where there is no such file. UserError when it is damaged."""
    try:
        with np.load(path) as file:
            arrays: dict[str, NDArray[Any]] = dict(file)
        at = arrays["readings"].tolist().index(reading.title)
        names, photos = (tuple(map(str, arrays[key])) for key in ("names", "photos"))
        return Tallied(names, arrays["counts"][at], photos, arrays["miou"][at])
    except FileNotFoundError:
        return None
    except Exception:  # numpy's readers raise of many kinds
        raise UserError(f"{path}: cannot be read; write it anew with fmbseg_jax.evaluate") from None


def protocol(
    data: Dataset, split: str, restored: Restored, names: Sequence[str], words: str, config: ConfigDict
) -> dict[str, Any]:
    """The protocol of a split's figures, JSON-able. names: the classes counted; words: where they were asked from."""
    trained, encoded = restored.config.train, data.info["config"]
    return {
        "split": split,
        "photos": data.count(split),
        "use": "own photos" if split == trained.split else "unseen photos",
        "labels": restored.config.labels.name,
        "targets": trained.targets,
        "checkpoint": f"step {restored.step}, the lowest loss on held-out training photos",
        "classes": len(names),
        "background": _background(names, config),
        "words": words,
        "truth": _truth(data, split, config),
        "head sees": _head_views(encoded["encoder"]),
        "dense CLIP sees": _clip_views(encoded["clip"]),
        "pixels": "patch logits (max over a class's words), bilinear to the photo's full size, argmax",
        "boundary IoU": f"bands of {DILATION_RATIO} of the diagonal; pixels without truth in no band and no edge",
        "present classes": {"from": "crops, thresholds of the config, the same for all photos", **config.presence},
        "refined": {"vote": "majority in each SAM mask, small over large", "min_iou": config.eval.refine_min_iou},
        **({"sharpened": SHARPENING} if config.eval.sharpen else {}),
    }


def summary(fields: dict[str, Any]) -> str:
    """The protocol in one line, for under the table."""
    return (
        f"protocol: {fields['classes']} classes, all of them asked unless a row says present; background: "
        f"{fields['background']}; {fields['use']}; truth: {fields['truth']}; head sees {fields['head sees']}; "
        f"dense CLIP sees {fields['dense CLIP sees']}"
    )


def _background(names: Sequence[str], config: ConfigDict) -> str:
    threshold = config.eval.background_threshold
    if threshold:
        return f"best class below {threshold} of the softmax; the threshold is the config's, for all photos"
    return "by words, a class like any other" if BACKGROUND in names else "none"


def _truth(data: Dataset, split: str, config: ConfigDict) -> str:
    rules = config.eval.truth.to_dict()
    ignored = [name for name, target in rules.items() if target == IGNORE]
    merged = [f"{name} counts as {target}" for name, target in rules.items() if target != IGNORE]
    classes = data.truth_classes(split)
    said = [f"{len(classes)} classes of the source" if classes else "classes by number", "full size"]
    return ", ".join([*said, "not annotated pixels left out", *(f"{name} left out" for name in ignored), *merged])


def _head_views(encoder: dict[str, Any]) -> str:
    high = encoder["height_px"] or encoder["size_px"]
    fitted = f"the photo fitted into {encoder['size_px']} x {high} px"
    if not encoder["window_px"]:
        return f"{fitted}, one pass"
    return f"{fitted}, windows of {encoder['window_px']} px every {encoder['stride_px']} px"


def _clip_views(clip: dict[str, Any]) -> str:
    return f"short side {clip['short_side_px']} px, windows of {clip['window_px']} px every {clip['stride_px']} px"
