"""Frames of a video to a mask each, and to the video tinted by them. PyAV (pip install "fmbseg-jax[video]") reads and
writes it.

MASKS/masks/NAME/000000.png     a mask a frame, by its place in the video
MASKS/NAME.mp4                  the video tinted, in its own pace; written anew by each run, of masks that are there
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelgen.core.errors import UserError
from labelgen.core.files import size_of, sync_folder
from labelgen.core.progress import Progress
from labelgen.formats.palette import overlay
from labelgen.formats.writers import Annotated, PngWriter

Pixels = NDArray[np.uint8]
LabelMap = NDArray[np.integer]
INSTALL = 'pip install "fmbseg-jax[video]"'


def open_av() -> ModuleType:
    """The module. UserError with what to install where it is missing."""
    try:
        import av
    except ImportError:
        raise UserError(f"PyAV is not installed, which reads videos: {INSTALL}") from None
    module: ModuleType = av
    return module


class Frames(NamedTuple):
    """What was made of a video."""

    masks: int
    """Written now."""
    kept: int
    """That were there from before a kill."""
    damaged: bool
    """Whether it could be read up to some frame alone."""
    sound: bool
    """Whether it has sound, which is left out."""


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The container. UserError for a file that is no video."""
    av = open_av()
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path}: has no pictures; name a video")
            container.streams.video[0].thread_type = "AUTO"
            yield container
    except (av.error.FFmpegError, OSError) as error:
        reason = " ".join(str(error).replace(str(path), path.name).split())
        raise UserError(f"{path}: cannot be read as a video: {reason}") from None


def about(path: Path) -> tuple[int, dict[str, Any]]:
    """(frames, as far as the file says, else 0; which video this is, as JSON)."""
    if not path.is_file():
        raise UserError(f"{path}: no such video")
    with opened(path) as container:
        stream = container.streams.video[0]
        count = int(stream.frames)
        if not count and stream.duration and stream.average_rate:
            count = int(stream.duration * stream.time_base * stream.average_rate)
    file = os.stat(path)
    return count, {"video": path.name, "bytes": file.st_size, "changed_ns": file.st_mtime_ns}


def predict_video(
    path: Path, out: Path, label: Callable[[Pixels], LabelMap], writer: PngWriter, colours: Pixels, progress: Progress
) -> Frames:
    """Masks of all frames and the tinted video. Masks that are there are not predicted again.

    label: class indices [H, W] of a frame uint8 [H, W, 3].
    """
    av = open_av()
    name = path.stem
    partial, masks, kept = out / f"{name}.tmp.mp4", 0, 0
    out.mkdir(parents=True, exist_ok=True)
    with opened(path) as container, av.open(str(partial), "w") as tinted:
        source, stream = container.streams.video[0], None
        sound = bool(container.streams.audio)
        frames = _Frames(container, av)
        for number, (image, time) in enumerate(frames):
            file = out / "masks" / name / f"{number:06}.png"
            if size_of(file):
                label_map: LabelMap = np.asarray(Image.open(file)).astype(np.int32)
                kept += 1
                progress.skip(1)
            else:
                label_map = label(image).astype(np.int32)
                writer.add(Annotated(number, f"{name}/{number:06}", path.name, path, np.asarray(label_map)))
                masks += 1
                progress.add()
            stream = stream or _stream(tinted, source, image)
            _put(tinted, stream, overlay(image, label_map, colours), time, av)
        if stream is None:
            raise UserError(f"{path}: not one frame could be read")
        tinted.mux(stream.encode())
    os.replace(partial, out / f"{name}.mp4")
    sync_folder(out)
    writer.finish([])
    return Frames(masks, kept, frames.damaged, sound)


class _Frames:
    """(frame uint8 [H, W, 3] upright, its time stamp) of a container; `damaged` once the rest cannot be decoded."""

    def __init__(self, container: Any, av: ModuleType) -> None:
        self._container, self._av, self.damaged = container, av, False

    def __iter__(self) -> Iterator[tuple[Pixels, Any]]:
        try:
            for frame in self._container.decode(video=0):
                image = frame.to_ndarray(format="rgb24")
                yield np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90))), frame.pts
        except self._av.error.FFmpegError:
            self.damaged = True


def _stream(tinted: Any, source: Any, image: Pixels) -> Any:
    """H.264 in the pace of the source; sides are even there."""
    stream = tinted.add_stream("libx264", rate=source.average_rate or source.guessed_rate or 25)
    stream.height, stream.width = image.shape[0] // 2 * 2 or 2, image.shape[1] // 2 * 2 or 2
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = source.time_base
    return stream


def _put(tinted: Any, stream: Any, image: Pixels, time: Any, av: ModuleType) -> None:
    h, w = stream.height, stream.width
    even = np.pad(image, ((0, max(0, h - image.shape[0])), (0, max(0, w - image.shape[1])), (0, 0)), "edge")[:h, :w]
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
    frame.pts, frame.time_base = time, stream.codec_context.time_base
    tinted.mux(stream.encode(frame))
