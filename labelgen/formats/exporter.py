"""All formats that are wanted of a folder at once: writers, classes, and where the picture of a photo lies."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from labelgen.core.errors import UserError
from labelgen.formats.fiftyone import FiftyoneWriter
from labelgen.formats.writers import (
    Annotated,
    ClassInfo,
    CocoWriter,
    CvatWriter,
    LabelmeWriter,
    PngWriter,
    Writer,
    YoloWriter,
)
from labelgen.sources.photos import Source
from labelgen.sources.registry import open_source

FORMATS: dict[str, Callable[[Path, Sequence[ClassInfo]], Writer]] = {
    "png": PngWriter,
    "coco": CocoWriter,
    "labelme": LabelmeWriter,
    "cvat": CvatWriter,
    "yolo": YoloWriter,
    "fiftyone": FiftyoneWriter,
}


def read_formats(text: str) -> tuple[str, ...]:
    """ "png,coco" -> ("png", "coco"). UserError for a name that is no format."""
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in FORMATS]
    if unknown or not names:
        raise UserError(f"--format={text}: {(unknown or [text])[0]!r} is no format; there are {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(names))


class Export:
    """Writes photos in every format; `state`s of several hosts make the files about all photos."""

    def __init__(self, folder: Path, formats: Sequence[str], classes: Sequence[ClassInfo]) -> None:
        self._writers = {name: FORMATS[name](folder, classes) for name in formats}

    def add(self, photo: Annotated) -> None:
        """The photo's own files in every format."""
        for writer in self._writers.values():
            writer.add(photo)

    def state(self) -> dict[str, Any]:
        """What this process knows of its photos, JSON-able."""
        return {name: [writer.state.records, writer.state.counts] for name, writer in self._writers.items()}

    def remarks(self, states: Sequence[dict[str, Any]]) -> str:
        """What the last line must say of all processes' photos: "" or "; …"."""
        formats_by_remark: dict[str, list[str]] = {}
        for name, writer in self._writers.items():
            for remark in writer.remarks(sum((Counter(state[name][1]) for state in states), Counter())):
                formats_by_remark.setdefault(remark, []).append(name)
        return "".join(f"; {', '.join(names)}: {remark}" for remark, names in formats_by_remark.items())

    def finish(self, states: Sequence[dict[str, Any]]) -> None:
        """The files about all photos, from the states of all processes."""
        for name, writer in self._writers.items():
            records = [record for state in states for record in state[name][0]]
            writer.finish([record for _, record in sorted(records, key=lambda record: record[0])])


def split_source(photos: ConfigDict, split: str) -> Source | None:
    """The pictures of a split of config.photos; None where they no longer are, or where it knows no such split."""
    try:
        return open_source(photos, split, truth=False)
    except (UserError, KeyError):
        return None


def locate(root: str, source: Source | None, photo_id: str, name: str) -> tuple[str, Path | None]:
    """(the picture's path from the root of the photos on, where it is); (`name`, None) where that is not known."""
    try:
        file = None if source is None else source.file(photo_id)
    except KeyError:
        file = None
    path = Path(root, file) if file else None
    return (file, path) if file and path and path.is_file() else (name, None)
