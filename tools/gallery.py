"""A picture of what was learnt: photo, truth, dense CLIP, head, side by side for some photos of a split.

    python -m tools.gallery --data=DATA --workdir=RUN --split=eval --out=docs/gallery.png

The photos must still lie where DATA was encoded from, and the split must have truth.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fmbseg_jax.inference.embedder import Embedder, check_fits
from fmbseg_jax.inference.label_maps import pixel_classes
from fmbseg_jax.runs.checkpoint import restore_run
from labelgen.core.command import command, parser
from labelgen.data.dataset import Dataset
from labelgen.data.records import EvidenceRow, FeatureRow
from labelgen.formats.palette import overlay, palette
from labelgen.labels.presence import dense_map
from labelgen.labels.scores import TruthReader
from labelgen.sources.registry import open_source

SIDE_PX, GAP_PX = 160, 6


def main(args: argparse.Namespace) -> int:
    """Write the picture."""
    data, restored = Dataset.open(args.data), restore_run(args.workdir)
    check_fits(restored, data)
    embed, config = Embedder(restored, 1), restored.config
    source = open_source(config.photos, args.split, truth=False)
    features, evidence = (data.reader(family, args.split) for family in ("features", "evidence"))
    truth = TruthReader(data, args.split, restored.ontology.names, config.eval.truth)
    rows = []
    for i in range(min(args.photos, len(features))):
        row, seen = FeatureRow.decode(features[i]), EvidenceRow.decode(evidence[i])
        dense = dense_map(seen, config.labels.variant)
        maps = [
            pixel_classes(patches, restored.prototypes, restored.ontology.word_class, row.size_hw)
            for patches in (dense, embed([row])[0])
        ]
        rows.append(strip(source.load(row.photo_id).image, [truth[i].label_map % 256, *maps]))
    half = (len(rows) + 1) // 2
    columns = [np.concatenate(part) for part in (rows[:half], rows[half:]) if part]
    height = max(len(column) for column in columns)
    padded = [np.pad(c, ((0, height - len(c)), (0, 0), (0, 0)), constant_values=255) for c in columns]
    Image.fromarray(np.concatenate(padded, 1)).quantize(128).save(args.out, optimize=True)
    size = Path(args.out).stat().st_size
    print(
        f"wrote {args.out} ({size} bytes): photo, truth, dense CLIP ({config.labels.variant}), head; next: look at it"
    )
    return 0


def strip(image: NDArray[np.uint8], label_maps: list[NDArray[np.integer]]) -> NDArray[np.uint8]:
    """The photo [H, W, 3] and its overlays in a row of squares, a gap after each."""
    tinted = [overlay(image, label_map, palette()) for label_map in label_maps]
    squares = [Image.fromarray(part).resize((SIDE_PX, SIDE_PX)) for part in (image, *tinted)]
    framed = [np.pad(np.asarray(square), ((0, GAP_PX), (0, GAP_PX), (0, 0)), constant_values=255) for square in squares]
    return np.concatenate(framed, 1)


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m tools.gallery`."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--data", required=True, metavar="DATA", help="folder that labelgen.run wrote")
    flags.add_argument("--workdir", required=True, metavar="RUN", help="folder that fmbseg_jax.train wrote")
    flags.add_argument("--split", default="eval", help="which photos (eval)")
    flags.add_argument("--photos", type=int, default=8, metavar="N", help="the first N of the split (8)")
    flags.add_argument("--out", required=True, metavar="FILE", help="PNG to write")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
