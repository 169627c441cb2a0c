"""Photos among whatever else lies in a folder: pictures are taken, what only looks like one is counted.

Never photos are what this program wrote (masks, overlays, a report's pictures), folders that other splits or their
masks have, folders of masks that are called so, and what systems keep for themselves.
"""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from labelgen.core.errors import UserError
from labelgen.core.files import read_json
from labelgen.core.walking import is_folder, walk

SUFFIXES = frozenset(["jpg", "jpeg", "jfif", "png", "webp", "bmp", "tif", "tiff", "gif", "avif", "heic", "heif"])
_ENDINGS = tuple(f".{each}" for suffix in sorted(SUFFIXES) for each in (suffix, suffix.upper()))
_OTHERS = frozenset(
    [
        *("jpe", "jif", "jxl", "jp2", "j2k", "j2c", "jpx", "jpf", "jxr", "wdp", "mpo", "apng", "dib", "pcx", "svg"),
        *("ppm", "pgm", "pbm", "pnm", "pam", "pfm", "tga", "dds", "sgi", "psd", "psb", "xcf", "ico", "icns", "exr"),
        *("dng", "cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "sr2", "orf", "rw2", "raf", "pef", "srw", "x3f"),
        *("raw", "3fr", "iiq", "erf", "mef", "mos", "kdc", "dcr", "rwl", "hdr", "fits", "fit", "dcm", "nii", "mha"),
        *("nrrd", "svs", "ndpi", "mrxs", "ecw", "sid", "img", "pdf", "ps", "eps", "ai", "heics", "heifs", "avifs"),
    ]
)
"""Of pictures that are not read."""
_RENAMED = re.compile(rf"\.({'|'.join(sorted(SUFFIXES))})[^/.\w]|\.({'|'.join(sorted(SUFFIXES))})\.\w+$", re.IGNORECASE)
"""What loads and copies leave: a.jpg?w=800, a.jpg~, a.jpg.part."""
_RENAMED_KIND, _FOREIGN = "renamed", " of other names"
_SYSTEM = frozenset(["lost+found", "System Volume Information", "$RECYCLE.BIN", "@eaDir", "__MACOSX"])
_DRAWN = re.compile(
    r"(^|.*[_-])(masks?|labels?|annotations?|gt|ground_?truth|segmentations?(class|object)?(png|aug|raw)?)$|.*annot$"
)
"""What folders of masks are called."""
_DRAWN_FILE = re.compile(
    r"(.+)[._ -](masks?|labels?|gt|seg|segmentation|annotations?|ground_?truth)\.(png|gif|bmp|tiff?)$", re.IGNORECASE
)
"""What masks are called that lie among their photos: a_mask.png beside a.jpg."""
_BESIDE = "masks, as it seems, by the name of the picture beside each"
_OURS, _ELSEWHERE, _SYSTEMS, _MASKS = (
    "pictures that this program wrote",
    "another split's photos, or masks",
    "what the system keeps",
    "masks, as it seems: PNGs that are called as the photos beside them",
)
_MENDS = {
    _OURS: "keep them in another folder",
    _ELSEWHERE: "nothing, where photos.splits is as it should be",
    _MASKS: "name them as a split's masks; or, if they are photos, call the folder something else",
}


@dataclass
class LeftOut:
    """What lies among the photos and is not taken for one."""

    inside: str = ""
    """What stands before the names that are listed."""
    folders: dict[str, str] = field(default_factory=dict)
    """Name -> why."""
    files: Counter[str] = field(default_factory=Counter)
    """Ending -> how many that look like pictures."""
    first: dict[str, str] = field(default_factory=dict)
    """Ending -> the first of their names."""

    @staticmethod
    def of(parts: Iterable["LeftOut"]) -> "LeftOut":
        """All of several; what lies there for more than one counts for each."""
        whole = LeftOut()
        for i, part in enumerate(parts):
            whole.folders |= {f"{i}/{name}": reason for name, reason in part.folders.items()}
            whole.files += part.files
        return whole

    def note(self, name: str) -> None:
        """Counts a file that is not read, where it looks like a picture."""
        ending = name.rpartition(".")[2].lower()
        if ending in _OTHERS or _RENAMED.search(name):
            self.count(f".{ending}" if ending in _OTHERS else _RENAMED_KIND, name)

    def foreign(self, name: str) -> None:
        """Counts a picture whose name is not as the data set's are."""
        self.count(f".{name.rpartition('.')[2].lower()}{_FOREIGN}", name)

    def count(self, kind: str, name: str) -> None:
        """Counts a file of a kind."""
        self.files[kind] += 1
        self.first[kind] = min(self.first.get(kind, name), name)

    def said(self) -> str:
        """For a last line: "" or "left out: …"."""
        kinds = [f"{count} {kind}" for kind, count in sorted(self.files.items())]
        count = len(self.folders)
        kinds += [f"{count} folder{'s' * (count > 1)}"] * bool(count)
        return f"left out: {', '.join(kinds)}" if kinds else ""

    def lines(self) -> Iterator[dict[str, str]]:
        """For failures.jsonl: a line an ending, a line a folder."""
        for kind, count in sorted(self.files.items()):
            reason = f"{count} {kind} not read, this is the first"
            mend = "rename them, or fetch them again" if kind == _RENAMED_KIND else "convert them to JPEG or PNG"
            mend = "nothing, if they are not its photos; else set photos.source=folder" if _FOREIGN in kind else mend
            mend = "nothing; or, if they are photos, rename them" if kind == _BESIDE else mend
            yield {"file": os.path.join(self.inside, self.first[kind]), "reason": reason, "mend": mend}
        for name, reason in sorted(self.folders.items()):
            yield {"file": os.path.join(self.inside, name), "reason": reason, "mend": _MENDS.get(reason, "nothing")}


def pictures(folder: Path, left: LeftOut, never: Collection[Path] = ()) -> Iterator[str]:
    """Names of the pictures under the folder, "/" between folders; hidden files and folders are left out.

    left: gets what is not taken; never: folders that are not photos, whatever links lead there. UserError for a folder
    that cannot be read.
    """
    apart = {Path(os.path.realpath(each)) for each in never}
    root = Path(os.path.realpath(folder))
    apart -= {root, *root.parents}

    def refuse(path: Path) -> str:
        if path.name in _SYSTEM:
            return _SYSTEMS
        if apart and (real := Path(os.path.realpath(path))) and not apart.isdisjoint({real, *real.parents}):
            return _ELSEWHERE
        return _OURS if is_ours(path) else _MASKS * are_masks(path)

    for name in walk(folder, left.folders, refuse):
        if name.rpartition(".")[2].lower() not in SUFFIXES:
            left.note(name)
        elif _is_mask_beside(folder / name):
            left.count(_BESIDE, name)
        else:
            yield name


def is_ours(folder: Path) -> bool:
    """Whether predict, export or report wrote the pictures in a folder."""
    beside = folder.parent
    if folder.name in ("masks", "confidence", "overlays"):
        return _is_legend(beside / "classes.json") or (folder.name == "overlays" and _exported(beside))
    if folder.name == "panoptic":
        return beside.name == "coco" and (beside / "semantic.json").is_file()
    if folder.name == "files":
        return (beside / "index.html").is_file() and any(folder.glob("*-*.js"))
    return False


def are_masks(folder: Path) -> bool:
    """Whether a folder is called as those of masks are, and the first PNGs in it as pictures beside it."""
    if not _DRAWN.match(folder.name.lower()):
        return False
    names = (name for name in walk(folder) if name.lower().endswith(".png"))
    stems = [os.path.splitext(name)[0] for name in islice(names, 3)]
    with os.scandir(folder.parent) as entries:
        around = [folder.parent, *(Path(each) for each in entries if each.name != folder.name and is_folder(each))]
    return bool(stems) and all(
        any((place / (stem + ending)).is_file() for place in around for ending in _ENDINGS) for stem in stems
    )


def _is_mask_beside(path: Path) -> bool:
    """Whether a file is called as the mask of a picture beside it."""
    called = _DRAWN_FILE.match(path.name)
    return called is not None and any(path.with_name(called[1] + ending).is_file() for ending in _ENDINGS)


def _is_legend(path: Path) -> bool:
    try:
        fields = read_json(path, "")
    except (UserError, OSError):
        return False
    return bool(fields) and all(isinstance(each, dict) and {"index", "colour"} <= set(each) for each in fields.values())


def _exported(folder: Path) -> bool:
    """Whether predict wrote there in other formats than PNG."""
    others = ("coco/semantic.json", "cvat/annotations.xml", "yolo/data.yaml", "labelme", "fiftyone/classes.json")
    return (folder / "failures.jsonl").is_file() and any((folder / name).exists() for name in others)


def check_apart(out: str | Path, photos: Iterable[str | Path]) -> None:
    """UserError when what is written to `out` would lie in a folder of photos."""
    place = Path(os.path.realpath(out))
    for path in photos:
        if Path(os.path.realpath(path)) in (place, *place.parents):
            raise UserError(
                f"--out={out} lies within the photos, {path}: masks would become photos; name another folder"
            )
