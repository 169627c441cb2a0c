"""A folder of masks belongs to what made them, as DATA and RUN belong to their settings: made_by.json says what.

It is claimed before the first mask is written: masks of other words would be read by the wrong names. It says that the
folder is whole only once everything is there.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labelgen.core.errors import UserError
from labelgen.core.files import check_same, read_json, write_json

FILE = "made_by.json"
_WRITTEN = ("masks", "confidence", "overlays", "coco", "labelme", "cvat", "yolo", "fiftyone")
_FIX = "take another --out, or delete it"


def claim_folder(folder: Path, maker: Mapping[str, Any], names: Sequence[str]) -> None:
    """Claims the folder for `maker`, JSON-able; it is not whole from here on. names: the classes, in their order.

    UserError, naming the first field that differs, where it has masks that something else made, and where it has some
    from before folders were claimed and its classes.json has other classes.
    """
    path = folder / FILE
    if path.exists():
        check_same(read_json(path, _FIX).get("made_by", {}), maker, str(folder), _FIX)
    elif any((folder / name).exists() for name in _WRITTEN) and _classes(folder) != list(names):
        raise UserError(f"{folder}: has masks, and nothing says that they are of the same words; {_FIX}")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, {"made_by": maker, "whole": False})


def is_whole(folder: Path, maker: Mapping[str, Any]) -> bool:
    """Whether the folder has all that `maker` makes."""
    path = folder / FILE
    fields = read_json(path, _FIX) if path.exists() else {}
    return bool(fields.get("whole")) and fields.get("made_by") == json.loads(json.dumps(maker))


def say_whole(folder: Path, maker: Mapping[str, Any], counts: Mapping[str, int]) -> None:
    """To be called last. counts: of what is in the folder."""
    write_json(folder / FILE, {"made_by": maker, "whole": True, **counts})


def _classes(folder: Path) -> list[str] | None:
    """The classes of classes.json in the order of their indices; None where there is none that says them."""
    path = folder / "classes.json"
    try:
        fields = read_json(path, _FIX) if path.exists() else {}
        return sorted(fields, key=lambda name: int(fields[name]["index"])) or None
    except (TypeError, KeyError, ValueError):
        return None
