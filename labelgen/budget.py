"""What a whole run will fetch, keep and take, said before it begins.

    python -m labelgen.budget --config=configs/voc.py --fetch=voc,sbd --out=FOLDER
    python -m labelgen.budget --config=configs/my_photos.py --out=FOLDER

Counts what is missing: archives in FOLDER, weights in weights_dir and the libraries' caches, DATA in FOLDER/data.
Seconds and bytes a photo are known for the models of configs/voc.py and for the presets of configs/my_photos.py (:fast,
:balanced, :best) alone: processor seconds as measured with untrained models (benchmarks/README.md), the presets' as
estimated by their operations (docs/presets.md), bytes from the shapes of the arrays; larger photos add to both by their
sizes, which some photos of each split are asked for. Exits with 2 where the disk of FOLDER has no room.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

from ml_collections import ConfigDict
from PIL import Image

from labelgen.core.command import command, command_line, config_flags, parser
from labelgen.core.config import load_config
from labelgen.core.download import MB, check_room, gb
from labelgen.core.errors import UserError
from labelgen.core.geometry import HW
from labelgen.models.teachers import needs
from labelgen.sources.archives import ARCHIVES, size
from labelgen.sources.registry import open_source


class Models(NamedTuple):
    """What a cost is of: clip.name, sam.name, encoder.name, sam.points_per_side."""

    clip: str
    sam: str
    encoder: str
    points: int


class Cost(NamedTuple):
    """Of a photo of 500 x 375 px: processor seconds and how they are known, and bytes of DATA: features in bfloat16,
    dense maps in float16, and some 5 % for all else."""

    processor_s: float
    photo_bytes: float
    known: str = "estimated by the models' operations, not measured"


VOC = Models("ViT-L-14", "vit_h", "vit_large_patch14_dinov2.lvd142m", 32)
COSTS = {
    VOC: Cost(306, 8 * MB, "measured, models untrained"),
    Models("ViT-B-16", "sam2.1_hiera_tiny", "vit_small_patch14_reg4_dinov2.lvd142m", 16): Cost(23, 1.7 * MB),
    Models("ViT-B-16", "sam2.1_hiera_base_plus", "vit_base_patch14_reg4_dinov2.lvd142m", 32): Cost(80, 5.6 * MB),
    Models("ViT-L-14", "sam2.1_hiera_large", "vit_large_patch14_reg4_dinov2.lvd142m", 32): Cost(235, 8 * MB),
}
MEASURED_HW = 375, 500
ROW_BYTES = 5_500
"""What a further row of the photo adds: 2.3 run lengths in each of 600 masks, as many as the pocket SAM's have."""
MEGAPIXEL_S = 0.5
"""What a further megapixel adds: reading, resizing, outlines of 1,024 points' masks; by the pocket SAM's at 12."""
LOOKED_AT = 64
"""Photos of a split whose size is read, evenly spread."""
VOC_PHOTOS = {"train": 1_464, "trainaug": 10_582, "val": 1_449}


class Budget(NamedTuple):
    """Bytes of archives and weights that are missing; photos; what one takes with these models, where it is known;
    bytes of DATA that are there; sizes of some photos, and how many pixels are too many."""

    archives: int
    weights: int
    photos: int
    cost: Cost | None
    data_bytes: int
    sizes: list[HW]
    max_pixels: int

    @property
    def usable(self) -> list[HW]:
        """Those of the sizes that are encoded; the measured one where none is known."""
        return [size for size in self.sizes if size[0] * size[1] <= self.max_pixels] or [MEASURED_HW]

    @property
    def photo_bytes(self) -> float:
        """Of DATA; 0 where it is not known."""
        return (
            0.0
            if self.cost is None
            else self.cost.photo_bytes + ROW_BYTES * fmean(max(0, height - MEASURED_HW[0]) for height, _ in self.usable)
        )

    @property
    def photo_s(self) -> float:
        """Of a processor; 0 where it is not known."""
        base = megapixels(MEASURED_HW)
        return (
            0.0
            if self.cost is None
            else self.cost.processor_s + MEGAPIXEL_S * fmean(max(0.0, megapixels(size) - base) for size in self.usable)
        )

    @property
    def disk(self) -> int:
        """Bytes that will be written. An archive stays beside what it unpacks to, which is about as large."""
        data = max(0, int(self.photos * self.photo_bytes) - self.data_bytes)
        return 2 * self.archives + self.weights + data


def main(args: argparse.Namespace) -> int:
    """Says it; 2 where there is no room."""
    config, out = load_config(args.config, args.overrides), Path(args.out)
    names = [name for name in args.fetch.split(",") if name]
    unknown = [name for name in names if name not in ARCHIVES]
    if unknown:
        raise UserError(f"--fetch={args.fetch}: {unknown[0]!r} is none of {', '.join(ARCHIVES)}")
    archives = sum(ARCHIVES[name].to_fetch(out) for name in names)
    weights = sum(need.to_fetch() for need in needs(config))
    models = Models(config.clip.name, config.sam.name, config.encoder.name, config.sam.points_per_side)
    if archives:
        count, looked = VOC_PHOTOS["trainaug" if "sbd" in names else "train"] + VOC_PHOTOS["val"], [MEASURED_HW]
    else:
        count, looked = photos(config)
    budget = Budget(archives, weights, count, COSTS.get(models), size(out / "data"), looked, config.photos.max_pixels)
    print("\n".join(lines(budget, out)))
    check_room(out, budget.disk, "the whole run")
    print(f"next: {command_line('labelgen.weights', *config_flags(args))}")
    return 0


def photos(config: ConfigDict) -> tuple[int, list[HW]]:
    """How many photos there are, of all splits, and the sizes of some: of picture files, by their headers."""
    count, sizes = 0, []
    Image.MAX_IMAGE_PIXELS = None  # photos.max_pixels is the limit
    for split in config.photos.splits:
        source = open_source(config.photos, split, truth=False)
        ids = source.list()
        count += len(ids)
        for i in range(0, len(ids), -(-len(ids) // LOOKED_AT)):
            with suppress(OSError), Image.open(Path(config.photos.root, source.file(ids[i]))) as image:
                sizes.append((image.height, image.width))
    return count, sizes


def megapixels(size_hw: HW) -> float:
    """Of a photo."""
    return size_hw[0] * size_hw[1] / 1e6


def size_line(budget: Budget) -> str:
    """What the photos' sizes are, and how many will not be used."""
    if not budget.sizes:
        return "sizes not known, counted as 500 x 375 px"
    looked = [megapixels(size) for size in budget.sizes]
    too_large = sum(height * width > budget.max_pixels for height, width in budget.sizes)
    left_out = f"; {too_large} of these are more than photos.max_pixels = {budget.max_pixels}: left out"
    return (
        f"{median(looked):.1f} megapixels, {min(looked):.1f} to {max(looked):.1f} ({len(looked)} looked at"
        f"{left_out if too_large else ''})"
    )


def lines(budget: Budget, out: Path) -> list[str]:
    """What is told, a line a fact."""
    count, hours = budget.photos, budget.photos * budget.photo_s / 3600
    data = f"{gb(count * budget.photo_bytes)} in all" if budget.cost else "not known with these models, not counted"
    time = "not measured with these models"
    if budget.cost:
        cost = budget.cost
        time = f"about {hours:.0f} processor hours ({cost.processor_s:.0f} s a photo of 500 x 375 px: {cost.known})"
    fetched = f"archives {gb(budget.archives)}, weights {gb(budget.weights)}"
    return [
        f"to fetch:   {gb(budget.archives + budget.weights)} ({fetched})",
        f"photos:     {count}, {size_line(budget)}",
        f"disk:       {gb(budget.disk)} more in {out} and the libraries' caches; DATA of {count} photos: {data}",
        f"labels:     on CPUs {time}",
        "            on a GPU not measured",
        "training:   by train.steps, benchmarks/README.md has steps a second on a CPU; on a GPU not measured",
    ]


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m labelgen.budget`."""
    flags = parser(__doc__ or "")
    flags.add_argument("--out", required=True, metavar="FOLDER", help="where archives and DATA will go")
    flags.add_argument("--fetch", default="", metavar="NAMES", help="archives that will be fetched: voc, or voc,sbd")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
