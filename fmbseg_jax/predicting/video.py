"""A video to a mask a frame: each is a photo of its own."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fmbseg_jax.inference.video import about, predict_video
from fmbseg_jax.predicting.asking import Asking, Pixels, claim
from fmbseg_jax.runs import hosts
from labelgen.core.errors import UserError
from labelgen.core.progress import Progress, StageTimes
from labelgen.formats.claimed import is_whole, say_whole
from labelgen.formats.writers import PngWriter
from labelgen.sources.photos import Photo


def whole_video(path: Path, out: Path, asking: Asking, times: StageTimes) -> str:
    """A mask a frame, and the video tinted; what was written, in words.

    UserError for a video that cannot be read, and where the tinted one would take its place.
    """
    if (out / f"{path.stem}.mp4").resolve() == path.resolve():
        raise UserError(f"--out={out}: the tinted video would take the place of the video; name another folder")
    count, video = about(path)
    made_by = {**asking.made_by(), **video}
    if is_whole(out, made_by):
        return f"{out}: is whole already"
    claim(out, made_by, asking.classes)
    asking.towers.load_patches()

    def label(image: Pixels) -> NDArray[np.uint16]:
        with times("frames"):
            return asking.label_map(asking.towers.features(Photo("", image)), image)

    colours = np.array([info.colour for info in asking.classes], np.uint8)
    progress, writer = Progress(count, "frames", "predict", hosts.errors()), PngWriter(out, asking.classes)
    found = predict_video(path, out, label, writer, colours, progress)
    progress.close()
    total = found.masks + found.kept
    say_whole(out, made_by, {"masks": total, "damaged": found.damaged})
    said = f"; {found.kept} masks were there already" * bool(found.kept)
    said += f"; the video is damaged after frame {total}, what comes then has no mask" * found.damaged
    said += "; its sound is left out" * found.sound
    name = out / f"{path.stem}.mp4"
    return f"wrote {found.masks} masks to {out / 'masks' / path.stem} and {name}{said}"
