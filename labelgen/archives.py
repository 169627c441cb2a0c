"""A tar archive's files in a folder: nothing outside it, nothing half written, and again from where it stopped.

Data flow: an archive whose digest was checked -> FOLDER.partial/ -> FOLDER, which is there only when it is whole.
"""

import gzip
import os
import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from labelgen.core.download import MB, check_room
from labelgen.core.errors import UserError
from labelgen.core.files import naming
from labelgen.core.progress import Progress


def unpack(archive: Path, folder: Path, below: str, kept: Collection[str]) -> int:
    """How many files of `archive` are in `folder` now: those of the folders `kept` of its folder `below`.

    A run that was killed goes on. A `folder` that is there is left as it is. UserError for an archive that is torn, or
    whose members would be written elsewhere or are links, and where the disk has no room.
    """
    if folder.is_dir():
        return sum(path.is_file() for path in folder.rglob("*"))
    partial = folder.with_name(folder.name + ".partial")
    check_room(folder.parent, archive.stat().st_size - size(partial), f"what is in {archive.name}")
    progress, count, done = Progress(max(1, archive.stat().st_size // MB), "MB", f"unpack {archive.name}"), 0, 0
    with _opened(archive) as tar:
        for member in _members(tar, archive):
            name = member.name.removeprefix("./").removeprefix(f"{below}/")
            if member.isfile() and any(name.startswith(f"{one}/") for one in kept):
                _write(tar, member, partial / name)
                count += 1
            progress.add(tar.offset // MB - done)
            done = tar.offset // MB
    progress.close()
    if not count:
        raise UserError(f"{archive}: has none of {below}/{', '.join(kept)}; is it another archive?")
    os.sync()  # the files' bytes before the name that says that they are there
    os.replace(partial, folder)
    return count


def size(folder: Path) -> int:
    """Bytes of the files in a folder; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def texts(archive: Path, names: Collection[str]) -> dict[str, str]:
    """The text of each of these members; UserError when one is not there, or the archive is torn."""
    found = {}
    with _opened(archive) as tar:
        for member in _members(tar, archive):
            if member.name in names and (file := tar.extractfile(member)):
                found[member.name] = file.read().decode()
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f"{archive}: has no {missing[0]!r}; is it another archive?")
    return found


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


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """The member's bytes, compared where the file is there already: after a power cut its size alone says little."""
    source = tar.extractfile(member)
    data = source.read() if source else b""
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with naming(part):
        part.write_bytes(data)
    os.replace(part, path)
