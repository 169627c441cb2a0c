"""One walk for whoever looks for files in a folder: through links too, into each folder once, and nothing silent.

Which of its names a folder is walked by follows from the names alone: its own first, then those of links in their
order. So all workers list the same.
"""

import heapq
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from labelgen.core.errors import UserError

AGAIN = "a link to a folder that is read by another name"
Refuse = Callable[[Path], str]
"""Why a folder is left out; "" for one that is walked."""


def walk(folder: Path, left: dict[str, str] | None = None, refuse: Refuse = lambda path: "") -> Iterator[str]:
    """Names of the files under the folder, "/" between folders; hidden files and folders are left out.

    left: gets the folders that are not walked, with the reason: those that `refuse` has one for, and links to what was
    walked already. UserError for a folder that cannot be read: without what is in it all that follows would be wrong.
    """
    left = {} if left is None else left
    walked: set[tuple[int, int] | str] = set()
    folders, links = [""], list[str]()
    while folders or links:
        name = folders.pop() if folders else heapq.heappop(links)
        if (key := _key(folder / name)) in walked:
            left[name.rstrip("/")] = AGAIN
            continue
        walked.add(key)
        inside = []
        for entry in _entries(folder / name):
            if entry.name.startswith("."):
                continue
            if not is_folder(entry):
                yield name + entry.name
            elif reason := refuse(folder / name / entry.name):
                left[name + entry.name] = reason
            elif entry.is_symlink():
                heapq.heappush(links, f"{name}{entry.name}/")
            else:
                inside.append(f"{name}{entry.name}/")
        folders += sorted(inside, reverse=True)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:  # os.walk would list a folder whole
            yield from entries
    except OSError as error:
        raise _unreadable(folder, error) from None


def _key(folder: Path) -> tuple[int, int] | str:
    """What tells a folder from all others; some file systems number nothing."""
    try:
        status = os.stat(folder)
    except OSError as error:
        raise _unreadable(folder, error) from None
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(folder)


def _unreadable(folder: Path, error: OSError) -> UserError:
    why = error.strerror or type(error).__name__
    return UserError(f"{folder}: the folder cannot be read ({why}); let this user read it, or take it out of there")


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is one, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
