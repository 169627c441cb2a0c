"""Photos a second of labelling by words, from evidence of pocket and of real size: array work of one core, no model.

    python -m benchmarks.relabel [--photos=20] [--out=F.json]

Evidence is made up: random crops and dense maps, masks of overlapping discs, four in ten of them automatic.
"""

import argparse
import sys
import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.setting import median, publish, spread, table
from labelgen.core.command import command, parser
from labelgen.core.config import load_config
from labelgen.core.ontology import Ontology
from labelgen.data import rle
from labelgen.data.records import EvidenceRow
from labelgen.data.rle import MaskSet
from labelgen.labels.free_labels import LabelSettings, label_photo
from labelgen.labels.presence import Calibration

Vectors = NDArray[np.float32]
GOALS = {"pocket": 100, "21 classes": 20, "171 classes": 20}
CORES = 2
"""The goals are for so many; photos are independent, a worker a core."""


class Size(NamedTuple):
    """What a photo's evidence and the words are like."""

    size_hw: tuple[int, int]
    grid_hw: tuple[int, int]
    width: int
    crops: int
    points: int
    masks: int
    classes: int


SIZES = {
    "pocket": Size((201, 215), (22, 24), 128, 60, 144, 186, 12),
    "21 classes": Size((375, 500), (28, 37), 768, 52, 1024, 600, 21),
    "171 classes": Size((480, 640), (28, 37), 768, 52, 1024, 600, 171),
}


def main(args: argparse.Namespace) -> int:
    """Measure every size."""
    rows, result = [], {}
    for name, size in SIZES.items():
        rates = measure(size, args.photos)
        result[name] = rates
        rows.append([name, spread(rates), f"{CORES * median(rates):.3g}", GOALS[name]])
    heads = ["evidence", "photos a processor second, one core", f"on {CORES} cores", "goal"]
    publish(args, {"rates": result}, table(heads, rows))
    return 0


def measure(size: Size, count: int) -> list[float]:
    """Photos a processor second, one by one, from record to record."""
    rng = np.random.default_rng(0)
    words = tuple(f"class {i}" for i in range(size.classes))
    ontology = Ontology(words, words, tuple(range(size.classes)), ("",) * size.classes)
    prototypes = units(rng, size.classes, size.width)
    settings = LabelSettings.from_config(load_config("configs/default.py", []))
    records = [evidence(rng, size, prototypes).encode() for _ in range(count + 1)]
    rates = []
    for record in records:
        start = time.process_time()
        row = EvidenceRow.decode(record)
        label_photo(row, settings, ontology, prototypes, Calibration.none(size.classes), size.grid_hw).encode()
        rates.append(1 / (time.process_time() - start))
    return rates[1:]


def units(rng: np.random.Generator, count: int, width: int) -> Vectors:
    """float32 [count, width] unit rows."""
    rows = rng.normal(size=(count, width)).astype(np.float32)
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def evidence(rng: np.random.Generator, size: Size, prototypes: Vectors) -> EvidenceRow:
    """A photo with some six classes, each strong in one column of the grid."""
    shown = rng.integers(size.classes, size=6)
    h, w = size.grid_hw
    columns = prototypes[shown[np.arange(w) * 6 // w]]
    dense = np.broadcast_to(columns, (h, w, size.width)) + 0.02 * rng.normal(size=(h, w, size.width))
    crops = prototypes[rng.choice(shown, size.crops)] + 0.02 * rng.normal(size=(size.crops, size.width))
    corner = rng.uniform(0, 0.6, (size.crops, 2))
    boxes = np.concatenate([corner, corner + 0.4], 1).astype(np.float32)
    maps = {"proxyclip": dense.astype(np.float16)}
    return EvidenceRow("a", size.size_hw, size.grid_hw, crops.astype(np.float16), boxes, maps, masks(rng, size))


def masks(rng: np.random.Generator, size: Size) -> MaskSet:
    """Discs of all sizes."""
    height, width = size.size_hw
    centres, radii = rng.uniform(0, 1, (size.masks, 2)) * (height, width), rng.uniform(4, height / 3, size.masks)
    y, x = np.ogrid[:height, :width]
    bitmaps = [(y - cy) ** 2 + (x - cx) ** 2 <= r**2 for (cy, cx), r in zip(centres, radii, strict=True)]
    runs = [rle.encode_mask(bitmap) for bitmap in bitmaps]
    side = int(size.points**0.5)
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) + 0.5
    spans = np.concatenate([centres - radii[:, None], centres + radii[:, None]], 1)[:, [1, 0, 3, 2]]
    return MaskSet(
        runs=np.concatenate(runs),
        offsets=np.cumsum([0, *map(len, runs)]).astype(np.int64),
        size_hw=size.size_hw,
        boxes=spans.clip(0).astype(np.float32),
        iou=rng.uniform(0.5, 1, size.masks).astype(np.float32),
        stability=rng.uniform(0.5, 1, size.masks).astype(np.float32),
        automatic=rng.random(size.masks) < 0.4,
        points_xy=(grid / side * (width, height)).astype(np.float32),
        point_masks=rng.integers(0, size.masks, (len(grid), 3)).astype(np.int32),
    )


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--photos", type=int, default=20, metavar="N")
    flags.add_argument("--out", metavar="F.json", help="also write every photo's figure there")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
