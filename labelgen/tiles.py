"""A picture of any size as a folder of photos: windows of it, to encode, label and train on as any others.

    python -m labelgen.tiles --picture=FIELD.tif --out=PHOTOS                          # 1,024 px each
    python -m labelgen.tiles --picture=FIELD.tif --out=PHOTOS --bands=4,3,2 --stretch=2,98 --tile_px=512

GeoTIFF, OME-TIFF and whatever else rasterio opens (pip install "fmbseg-jax[large]"). Windows of one size cover the
picture, flush with its edges, and share `--overlap` of a side at least. Each is a PNG of 8 bits, NAME@LEFT,TOP.png by
its upper left px; those where nothing was measured are left out and counted. NAME.tiles.json says which bands, and
which values became 0 and 255; another picture or another look into the same folder is refused. Killed, the same
command goes on. Masks of the whole picture come from `fmbseg_jax.predict --picture` with the same bands and stretch.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from labelgen.core.command import GOES_ON, command, command_line, numbers, parser, share_below_one, whole
from labelgen.core.errors import UserError
from labelgen.core.files import check_same, read_json, size_of, write_atomic, write_json
from labelgen.core.geometry import HW, spread
from labelgen.core.progress import Progress, say
from labelgen.sources.large import LargePicture


def main(args: argparse.Namespace) -> int:
    """Writes the windows that are not there yet."""
    out = Path(args.out)
    with LargePicture(args.picture, args.bands, args.stretch) as picture:
        path, name = out / f"{picture.path.stem}.tiles.json", picture.path.stem
        look = {**picture.identity(), "tile_px": args.tile_px, "overlap": args.overlap}
        if path.exists():
            check_same(read_json(path, f"delete {out}"), look, str(path), "take another --out, or delete its photos")
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, look)
        for remark in picture.remarks:
            say(f"{picture.path.name}: {remark}")
        side_hw = min(args.tile_px, picture.size_hw[0]), min(args.tile_px, picture.size_hw[1])
        places = list(windows(picture.size_hw, side_hw, args.overlap))
        written = kept = empty = 0
        progress = Progress(len(places), "photos", "cut")
        for top, left in places:
            file = out / f"{name}@{left},{top}.png"
            if size_of(file):
                kept += 1
                progress.skip(1)
                continue
            image, measured = picture.window(top, left, side_hw)
            if measured.any():
                data = io.BytesIO()
                Image.fromarray(image).save(data, "PNG")
                write_atomic(file, data.getvalue())
            written, empty = written + bool(measured.any()), empty + (not measured.any())
            progress.add()
        progress.close()
    if not written and not kept:
        raise UserError(f"{args.picture}: nothing was measured anywhere in it; there is nothing to cut")
    said = f"; {kept} were there already" * bool(kept) + f"; {empty} windows without a value left out" * bool(empty)
    following = command_line("labelgen.run", "--config=FILE", f"--config.photos.root={out}", "--out=DATA")
    print(f"wrote {written} photos of {side_hw[1]} x {side_hw[0]} px to {out}{said}. next: {following}")
    return 0


def windows(size_hw: HW, side_hw: HW, overlap: float) -> Iterator[tuple[int, int]]:
    """(top, left) px of windows that cover the picture."""
    strides = [max(1, round(side * (1 - overlap))) for side in side_hw]
    tops, lefts = (spread(*each) for each in zip(size_hw, side_hw, strides, strict=True))
    yield from ((int(top), int(left)) for top in tops for left in lefts)


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m labelgen.tiles`."""
    flags = parser(__doc__ or "", config=False, stopped=GOES_ON)
    flags.add_argument("--picture", required=True, metavar="FILE", help="GeoTIFF, OME-TIFF and others")
    flags.add_argument("--out", required=True, metavar="PHOTOS", help="folder for the photos")
    flags.add_argument("--bands", type=numbers(int), default=(), metavar="R,G,B", help="three bands, or one")
    flags.add_argument(
        "--stretch",
        type=numbers(float),
        default=(),
        metavar="LOW,HIGH",
        help="percentiles that become 0 and 255 (default: 0.5,99.5; 8 bits as they are)",
    )
    flags.add_argument("--tile_px", type=whole(1), default=1024, metavar="N", help="a side of a photo (default: 1024)")
    flags.add_argument("--overlap", type=share_below_one, default=0.0, metavar="P", help="of neighbours (default: 0)")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
