"""The archives that data sets' owners give out: where, how large, of which digest, under which terms, what is kept.

Data flow: an Archive -> its file in a folder, its digest checked -> FOLDER.partial/ -> FOLDER, which is there only when
it is whole: the tree that labelgen.sources reads. Nothing is written outside it, and a run that was killed goes on.
"""

import gzip
import os
import tarfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from labelgen.core.command import command_line
from labelgen.core.download import MB, Remote, check_room, download
from labelgen.core.errors import UserError
from labelgen.core.files import naming, read_text, temporary, write_atomic
from labelgen.core.progress import Progress, say

VOC_ROOT = Path("VOCdevkit/VOC2012")
LISTS = VOC_ROOT / "ImageSets/Segmentation"
_SBD = "benchmark_RELEASE/dataset"


class Archive(NamedTuple):
    """unpacked: what it becomes below the same folder; the digest and size are those that others check it by."""

    title: str
    remote: Remote
    terms: str
    unpacked: Path

    def file(self, folder: Path) -> Path:
        return folder / self.remote.url.rpartition("/")[2]

    def to_fetch(self, folder: Path) -> int:
        """Bytes that have still to come."""
        if (folder / self.unpacked).exists():
            return 0
        file = self.file(folder)
        there = next((path for path in (file, temporary(file, "partial")) if path.exists()), None)
        return max(0, self.remote.size - there.stat().st_size) if there else self.remote.size


ARCHIVES = {
    "voc": Archive(
        "Pascal VOC 2012, photos and masks of train and val",
        Remote(
            "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            "sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
            1_999_639_040,
        ),
        "photos from Flickr, under its terms; http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
        VOC_ROOT,
    ),
    "sbd": Archive(
        "Semantic Boundaries Dataset; only the names of its photos are read",
        Remote(
            "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
            "md5:82b4d87ceb2ed10f6038a1cba92111cb",
            1_419_539_633,
        ),
        "asks to be cited, states no licence; http://www.cs.berkeley.edu/~bharath2/codes/SBD/download.html",
        LISTS / "trainaug.txt",
    ),
}


def entry(archive: Archive, folder: Path) -> str:
    """What is told of an archive before its first byte, a line a fact."""
    missing = archive.to_fetch(folder)
    there = f"{missing / MB:.1f} of {archive.remote.size / MB:.1f} MB to fetch" if missing else "all there"
    if not archive.remote.size:
        there = "as the server says"
    lines = {"archive": archive.title, "terms": archive.terms, "source": archive.remote.url, "size": there}
    return "\n".join(f"{name:8s} {text}" for name, text in lines.items())


def fetch(name: str, archive: Archive, folder: Path) -> None:
    """Fetches and unpacks what is not there yet. UserError for whatever stops it; what came is kept."""
    if (folder / archive.unpacked).exists():
        return
    if name == "sbd" and not (folder / LISTS).is_dir():
        first = command_line("labelgen.fetch", "voc", f"--out={folder}")
        raise UserError(f"{folder / LISTS}: no such folder; run `{first}` first")
    say(f"fetching {archive.remote.url}")
    {"voc": _unpack_voc, "sbd": _write_trainaug}[name](download(archive.remote, archive.file(folder)), folder)


def _unpack_voc(tar: Path, folder: Path) -> None:
    kept = ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation")
    unpack(tar, folder / VOC_ROOT, VOC_ROOT.as_posix(), kept)


def _write_trainaug(tar: Path, folder: Path) -> None:
    """VOC's train list and the photos of SBD's two lists, less VOC's val: 10,582 of the official archives."""
    lists = texts(tar, [f"{_SBD}/train.txt", f"{_SBD}/val.txt"])
    names = set().union(ids(folder, "train"), *(text.split() for text in lists.values())) - set(ids(folder, "val"))
    lost = sorted(name for name in names if not (folder / VOC_ROOT / f"JPEGImages/{name}.jpg").is_file())
    if lost:
        raise UserError(
            f"{tar}: names {len(lost)} photos that are not in {folder / VOC_ROOT}, {lost[0]} for one; delete that "
            "folder and fetch voc again"
        )
    write_atomic(folder / LISTS / "trainaug.txt", "".join(f"{name}\n" for name in sorted(names)).encode())


def ids(folder: Path, name: str) -> Sequence[str]:
    """The photos of a list of VOC's."""
    return read_text(folder / LISTS / f"{name}.txt").split()


def counts(folder: Path) -> dict[str, int]:
    """Photos of each list that is there."""
    names = ("train", "trainaug", "val")
    return {name: len(ids(folder, name)) for name in names if (folder / LISTS / f"{name}.txt").is_file()}


def unpack(archive: Path, folder: Path, below: str, folders: Collection[str]) -> int:
    """How many files of `archive` are in `folder` now: those of `folders` in its folder `below`.

    A run that was killed goes on. A `folder` that is there is left as it is. UserError for an archive that is torn, or
    whose members would be written elsewhere or are links, and where the disk has no room.
    """
    if folder.is_dir():
        return sum(path.is_file() for path in folder.rglob("*"))
    partial = temporary(folder, "partial")
    check_room(folder.parent, archive.stat().st_size - size(partial), f"what is in {archive.name}")
    progress, count, done = Progress(max(1, archive.stat().st_size // MB), "MB", f"unpack {archive.name}"), 0, 0
    with _opened(archive) as tar:
        for member in _members(tar, archive):
            name = member.name.removeprefix("./").removeprefix(f"{below}/")
            if member.isfile() and any(name.startswith(f"{one}/") for one in folders):
                _write(tar, member, partial / name)
                count += 1
            progress.add(tar.offset // MB - done)
            done = tar.offset // MB
    progress.close()
    if not count:
        raise UserError(f"{archive}: has none of {below}/{', '.join(folders)}; is it another archive?")
    os.sync()  # the files' bytes before the name that says that they are there
    os.replace(partial, folder)
    return count


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """The member's bytes, compared where the file is there already: after a power cut its size alone says little."""
    source = tar.extractfile(member)
    data = source.read() if source else b""
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = temporary(path, "part")
    with naming(part):
        part.write_bytes(data)
    os.replace(part, path)


def size(folder: Path) -> int:
    """Bytes of the files in a folder; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def texts(archive: Path, names: Collection[str]) -> dict[str, str]:
    """The text of each of these members; UserError when one is not there, or the archive is torn."""
    contents = {}
    with _opened(archive) as tar:
        for member in _members(tar, archive):
            if member.name in names and (file := tar.extractfile(member)):
                contents[member.name] = file.read().decode()
    missing = [name for name in names if name not in contents]
    if missing:
        raise UserError(f"{archive}: has no {missing[0]!r}; is it another archive?")
    return contents


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """UserError where the archive is torn, whether a member's head or its bytes are read."""
    try:
        with tarfile.open(archive) as tar:
            yield tar
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{archive}: is torn or no tar archive ({error}); delete it and fetch it again") from error


def _members(tar: tarfile.TarFile, archive: Path) -> Iterator[tarfile.TarInfo]:
    """The members in the order of the file; UserError where one of them is no plain file or folder inside."""
    for member in tar:
        _refuse_unsafe(member, archive)
        yield member


def _refuse_unsafe(member: tarfile.TarInfo, archive: Path) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
        raise UserError(
            f"{archive}: its member {member.name!r} is a link, a device or outside of its folder; it is not unpacked: "
            "get the archive from its owners"
        )
