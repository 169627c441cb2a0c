"""What a whole run will fetch, keep and take, said before it begins.

    python -m labelgen.budget --config=configs/voc.py --fetch=voc,sbd --out=FOLDER
    python -m labelgen.budget --config=configs/my_photos.py --out=FOLDER

Counts what is missing: archives in FOLDER, weights in weights_dir and the libraries' caches, DATA in FOLDER/data.
Seconds and bytes a photo are known for the models of configs/voc.py alone: processor seconds as measured with untrained
models (benchmarks/README.md), bytes from the shapes of the arrays. Exits with 2 where the disk of FOLDER has no room.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from labelgen.core.command import command, command_line, config_flags, parser
from labelgen.core.config import load_config
from labelgen.core.download import MB, check_room, gb
from labelgen.core.errors import UserError
from labelgen.models.teachers import needs
from labelgen.sources.archives import ARCHIVES, size
from labelgen.sources.registry import open_source

MODELS = ("ViT-L-14", "vit_h", "vit_large_patch14_dinov2.lvd142m")
"""Those that the following were measured or computed with, for photos of 500 x 375 px."""
PROCESSOR_S = 306
PHOTO_BYTES = 8 * MB
"""Features 37 x 37 x 1024 in bfloat16, three dense maps 28 x 37 x 768 in float16, and some 5 % for all else."""
VOC_PHOTOS = {"train": 1_464, "trainaug": 10_582, "val": 1_449}


class Budget(NamedTuple):
    """Bytes of archives and weights that are missing; photos; whether the models are those that were measured; bytes of
    DATA that are there."""

    archives: int
    weights: int
    photos: int
    measured: bool
    data_bytes: int

    @property
    def disk(self) -> int:
        """Bytes that will be written. An archive stays beside what it unpacks to, which is about as large."""
        data = max(0, self.photos * PHOTO_BYTES - self.data_bytes) if self.measured else 0
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
    measured = (config.clip.name, config.sam.name, config.encoder.name) == MODELS
    count = VOC_PHOTOS["trainaug" if "sbd" in names else "train"] + VOC_PHOTOS["val"] if archives else photos(config)
    budget = Budget(archives, weights, count, measured, size(out / "data"))
    print("\n".join(lines(budget, out)))
    check_room(out, budget.disk, "the whole run")
    print(f"next: {command_line('labelgen.weights', *config_flags(args))}")
    return 0


def photos(config: ConfigDict) -> int:
    """How many photos are encoded, of all splits."""
    return sum(len(open_source(config.photos, split, truth=False).list()) for split in config.photos.splits)


def lines(budget: Budget, out: Path) -> list[str]:
    """What is told, a line a fact."""
    count, hours = budget.photos, budget.photos * PROCESSOR_S / 3600
    data = f"{gb(count * PHOTO_BYTES)} in all" if budget.measured else "not known with these models, not counted"
    time = f"about {hours:.0f} processor hours" if budget.measured else "not measured with these models"
    fetched = f"archives {gb(budget.archives)}, weights {gb(budget.weights)}"
    return [
        f"to fetch:   {gb(budget.archives + budget.weights)} ({fetched})",
        f"disk:       {gb(budget.disk)} more in {out} and the libraries' caches; DATA of {count} photos: {data}",
        f"labels:     on CPUs {time} (measured: {PROCESSOR_S} s a photo, configs/voc.py's models untrained)",
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
