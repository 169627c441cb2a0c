"""Memory of `predict --picture` by the picture's size, and whether seams of tiles can be seen, on pictures drawn here.

    python -m benchmarks.large_pictures --workdir=RUN --out=FOLDER

RUN is of the pocket models (make demo). The picture is a mosaic of pocket scenes, written strip by strip. Memory is the
peak of the process, less that of a picture of one tile: what is left is the picture's. Seams: the mask in tiles against
that of the same picture in one piece (the encoder sees all of it at once), as the share of px that differ, near the
edges of tiles and elsewhere; with the overlap, and without.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelgen.core.command import command, parser, whole
from labelgen.core.errors import UserError
from labelgen.sources.large import LargePicture, open_rasterio
from pocket.scenes import draw

SCENES, SIDE = 64, 256
"""Scenes that are drawn, px of each in the mosaic."""
ONE_PIECE = 576
"""Px of the picture that the encoder sees in one piece."""


def write_picture(path: Path, side: int) -> None:
    """A tiled GeoTIFF of side x side px, RGB."""
    from PIL import Image

    rasterio = open_rasterio()
    scenes = [
        np.asarray(Image.fromarray(draw(0, i).photo).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        for i in range(SCENES)
    ]
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "crs": "EPSG:32633"}
    layout = {"tiled": True, "blockxsize": SIDE, "blockysize": SIDE, "compress": "deflate", "BIGTIFF": "IF_SAFER"}
    transform = rasterio.Affine(0.5, 0, 500000, 0, -0.5, 5400000)
    with rasterio.open(path, "w", **profile, **layout, transform=transform, photometric="rgb") as file:
        for top in range(0, side, SIDE):
            rows = min(SIDE, side - top)
            strip = np.concatenate([scenes[i] for i in rng.integers(0, SCENES, -(-side // SIDE))], 1)[:rows, :side]
            file.write(strip.transpose(2, 0, 1), window=((top, top + rows), (0, side)))


def predict(workdir: str, picture: Path, out: Path, *more: str) -> dict[str, float]:
    """Seconds and MB at most of the command in a process of its own."""
    arguments = [f"--workdir={workdir}", f"--picture={picture}", f"--out={out}", *more]
    start = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "fmbseg_jax.predict", *arguments])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if status:
        raise UserError(f"fmbseg_jax.predict ended with {child.returncode}; see above")
    return {"seconds": time.monotonic() - start, "peak_MB": usage.ru_maxrss / 1024}


def mask(path: Path) -> NDArray[np.uint8]:
    """[H, W] of a small one."""
    with open_rasterio().open(path) as file:
        return np.asarray(file.read(1))


def one_piece(workdir: str, picture: Path) -> tuple[NDArray[np.uint16], int, int]:
    """(mask [H, W], px of a tile, px a patch) of a picture that the encoder sees as a whole, at the px of tiles."""
    from fmbseg_jax.inference.embedder import Embedder
    from fmbseg_jax.inference.label_maps import pixel_classes
    from fmbseg_jax.runs.checkpoint import restore_run
    from labelgen.data.records import feature_row
    from labelgen.models.trunks import load_encoder

    restored = restore_run(workdir)
    config = restored.config.copy_and_resolve_references()
    tile = int(config.encoder.size_px)
    with config.unlocked():
        config.encoder.size_px = ONE_PIECE
    encoder = load_encoder(config, config.weights_dir)
    with LargePicture(picture) as opened:
        image, _ = opened.window(0, 0, opened.size_hw)
    found = encoder.features(image)
    row = feature_row("", image.shape[:2], found, found.shape[:2], np.dtype(np.float32))
    z = Embedder(restored, 1)([row])[0]
    label_map = pixel_classes(z, restored.prototypes, restored.ontology.word_class, (image.shape[0], image.shape[1]))
    return label_map, tile, encoder.patch_px


def seams(tile_px: int, patch_px: int, overlap: float) -> NDArray[np.bool_]:
    """bool [H, W]: px within two patches of an edge of a tile that lies in the picture."""
    from fmbseg_jax.inference.tiles import tiling

    cells = tile_px // patch_px
    tiles = tiling((ONE_PIECE, ONE_PIECE), (cells, cells), patch_px, 0, overlap)
    near = np.zeros(ONE_PIECE, bool)
    for start in tiles.starts(0):
        for edge in (start * patch_px, (start + cells) * patch_px):
            if 0 < edge < ONE_PIECE:
                near[max(0, edge - 2 * patch_px) : edge + 2 * patch_px] = True
    return near[:, None] | near


def main(args: argparse.Namespace) -> int:
    """Prints a line a figure, and writes them to large_pictures.json."""
    out, figures = Path(args.out), dict[str, Any]()
    out.mkdir(parents=True, exist_ok=True)
    for side in (SIDE, args.side // 4, args.side):
        path = out / f"picture-{side}.tif"
        if not path.exists():
            write_picture(path, side)
        found = predict(
            args.workdir, path, out / f"masks-{side}", *([f"--tile_px={args.tile_px}"] if args.tile_px else [])
        )
        found["beside_the_models_MB"] = found["peak_MB"] - figures.get(f"{SIDE} px", found)["peak_MB"]
        figures[f"{side} px"] = {name: round(value, 1) for name, value in found.items()}
        print(f"{side} x {side} px: {figures[f'{side} px']}", flush=True)
    path = out / "piece.tif"
    write_picture(path, ONE_PIECE)
    whole_map, tile, patch = one_piece(args.workdir, path)
    for overlap in (0.25, 0.0):
        predict(args.workdir, path, out / f"piece-{overlap}", f"--overlap={overlap}")
        differs, near = mask(out / f"piece-{overlap}/piece.tif") != whole_map, seams(tile, patch, overlap)
        shares = {"near_seams": float(differs[near].mean()), "elsewhere": float(differs[~near].mean())}
        figures[f"px that differ from one piece, overlap {overlap}"] = {k: round(v, 4) for k, v in shares.items()}
        print(f"overlap {overlap}: px that differ from one piece: {shares}", flush=True)
    (out / "large_pictures.json").write_text(json.dumps(figures, indent=1))
    print(f"wrote {out / 'large_pictures.json'}; next: delete {out}, it is large")
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m benchmarks.large_pictures`."""
    flags = parser(__doc__ or "", config=False, stopped="the same command goes on")
    flags.add_argument("--workdir", required=True, metavar="RUN", help="of the pocket models")
    flags.add_argument("--out", required=True, metavar="FOLDER", help="for pictures and masks")
    flags.add_argument("--side", type=whole(1), default=20000, metavar="N", help="px of the largest picture's side")
    flags.add_argument("--tile_px", type=whole(1), default=0, metavar="N", help="as fmbseg_jax.predict has it")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
