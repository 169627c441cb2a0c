"""A picture of any size to a GeoTIFF of classes and their regions as GeoJSON, tile by tile."""

from pathlib import Path
from typing import NamedTuple

from fmbseg_jax.inference.large import predict_tiles, stitch
from fmbseg_jax.inference.tiles import tiling
from fmbseg_jax.predicting.asking import Asking, claim
from fmbseg_jax.runs import hosts
from labelgen.core.errors import UserError
from labelgen.core.progress import Progress, StageTimes
from labelgen.formats.claimed import is_whole, say_whole
from labelgen.sources.large import LargePicture

OVERLAP = 0.25
"""Of neighbouring tiles, unless one says otherwise."""


class Looking(NamedTuple):
    """How a picture is looked at, and cut; see labelgen.sources.large and fmbseg_jax.inference.tiles."""

    bands: tuple[int, ...]
    stretch: tuple[float, ...]
    tile_px: int
    overlap: float


def whole_picture(path: str, out: Path, looking: Looking, asking: Asking, times: StageTimes) -> str:
    """Masks of a picture in tiles; what was written, in words.

    UserError for a picture that cannot be read, and where the masks would take its place.
    """
    if asking.sharpen:
        raise UserError("--picture: is not sharpened by its colours; --no-sharpen")
    towers = asking.towers
    if (out / Path(path).with_suffix(".tif").name).resolve() == Path(path).resolve():
        raise UserError(f"--out={out}: the mask would take the place of the picture; name another folder")
    with LargePicture(path, looking.bands, looking.stretch) as picture:
        tiles = tiling(picture.size_hw, towers.grid_hw, towers.patch_px, looking.tile_px, looking.overlap)
        seen = {**picture.identity(), "px_a_patch": tiles.cell_px, "overlap": looking.overlap}
        made_by = {**asking.made_by(), **seen}
        if is_whole(out, made_by):
            return f"{out}: is whole already"
        claim(out, made_by, asking.classes)
        count = len(tiles.starts(0)) * len(tiles.starts(1))
        hosts.say(f"{picture.path.name}: {picture.size_hw[1]} x {picture.size_hw[0]} px in {count} tiles")
        for remark in picture.remarks:
            hosts.say(f"{picture.path.name}: {remark}")
        progress, folder = Progress(count, "tiles", "predict", hosts.errors()), out / f"{picture.path.stem}.tiles"
        classes = len(asking.vocabulary.ontology.names)
        with times("tiles"):
            done, kept = predict_tiles(picture, tiles, asking.scores, classes, folder, progress)
        progress.close()
        with times("write"):
            rows = Progress(picture.size_hw[0], "rows of px", "stitch", hosts.errors())
            regions, unmeasured = stitch(picture, tiles, folder, asking.background, asking.classes, out, rows)
            rows.close()
    counts = {"tiles": done + kept, "regions": regions, "unmeasured_px": unmeasured}
    say_whole(out, made_by, counts)
    said = f"; {kept} tiles were there already" * bool(kept)
    said += f"; {unmeasured} px have no value, and no class" * bool(unmeasured)
    hosts.say(f"time: {times.summary()}")
    name = out / picture.path.stem
    return f"wrote {name}.tif and {name}.geojson with {regions} regions, of {done} tiles{said}"
