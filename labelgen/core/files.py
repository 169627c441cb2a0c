"""Files written whole, JSON among them, and files of one writer each: on a disk that machines share, whatever its
locks are worth.

On a local disk flock keeps two processes apart; on a shared one it may hold only within a machine, or not be there. So
a writer's file carries the machine in its name: no two machines ever write one file, and within a machine flock holds.
Where there is no flock at all a file is its process's alone.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import itertools
import json
import math
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from labelgen.core.errors import UserError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def write_json(path: str | Path, fields: Any) -> None:
    """Writes JSON atomically, the same bytes for the same fields; null for a number that is not finite."""
    write_atomic(path, (json.dumps(_finite(fields), indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def at_home(value: Any) -> Any:
    """A text or path, or each of a list, whose ~/ or ~user/ is that user's folder. Anything else as it is."""
    if isinstance(value, list | tuple):
        return type(value)(map(at_home, value))
    if isinstance(value, Path):
        return Path(os.path.expanduser(value))
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~") else value


def encoding_of(path: Path) -> str:
    """Of a text that people and other tools write: UTF-8, or UTF-16 where a byte-order mark says so."""
    with open(path, "rb") as file:
        return "utf-16" if file.read(2) in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def read_text(path: Path) -> str:
    """A text file, without its byte-order mark. UserError where it is in another encoding."""
    text = _decoded(path)
    if "\0" in text:  # UTF-16 without a byte-order mark, UTF-32
        raise UserError(f"{path}: not UTF-8 text (zero bytes in it); save it as UTF-8")
    return text


def _decoded(path: Path) -> str:
    try:
        return path.read_text(encoding=encoding_of(path))
    except UnicodeError as error:
        place = f" (byte {error.start})" if isinstance(error, UnicodeDecodeError) else ""
        raise UserError(f"{path}: not UTF-8 text{place}; save it as UTF-8") from None


def read_json(path: Path, fix: str) -> dict[str, Any]:
    """The fields of a JSON file; UserError, with `fix`, when it is missing or no JSON object."""
    fields = read_any_json(path, fix)
    if not isinstance(fields, dict):
        raise UserError(f"{path}: not a JSON object; {fix}")
    return fields


def read_any_json(path: Path, fix: str) -> Any:
    """What a JSON file holds; UserError, with `fix`, when it is missing or no JSON."""
    try:
        return json.loads(_decoded(path))
    except FileNotFoundError:
        raise UserError(f"{path}: missing; {fix}") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{path}: not JSON; {fix}") from None


def digest(value: Any) -> str:
    """Hex sha256 of `value` as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_same(recorded: Mapping[str, Any], fields: Mapping[str, Any], what: str, fix: str) -> None:
    """UserError, naming the first field that differs, unless both have the same fields as JSON."""
    saved, current = dict(_flat(recorded)), dict(_flat(json.loads(json.dumps(fields))))
    for field in sorted(saved.keys() | current.keys()):
        if saved.get(field) != current.get(field):
            raise UserError(
                f"{what} was made with {field} = {_short(saved.get(field))}, "
                f"but now it is {_short(current.get(field))}; {fix}"
            )


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def write_atomic(path: str | Path, data: bytes) -> None:
    """Writes a file whole or not at all: temporary name, fsync, rename, fsync of the folder.

    The temporary name is always the same on a machine, so that a killed run leaves nothing that the next one does not
    take up; a lock keeps two of its processes from using it at once.
    """
    shared = temporary(path, f"{machine()}.tmp")
    try:
        while not _replace(shared, path, data):
            pass
    except NoLocksError:
        os.unlink(shared)
        alone = temporary(path, f"{lone_name()}.tmp")
        alone.write_bytes(data)
        os.replace(alone, path)
    sync_folder(Path(path).parent)


def write_first(path: Path, fields: Any) -> dict[str, Any]:
    """What the JSON at `path` says: `fields`, unless another process, on whatever machine, wrote it before."""
    made = temporary(path, f"{secrets.token_hex(8)}.tmp")
    write_json(made, fields)
    try:
        os.link(made, path)
    except FileExistsError:
        pass
    except OSError:  # a disk without hard links: who is first is not settled to the moment there
        if not path.exists():
            os.replace(made, path)
    finally:
        made.unlink(missing_ok=True)
    return read_json(path, "delete it")


def temporary(path: str | Path, mark: str) -> Path:
    """What a file is called until it is whole: NAME.MARK; a digest for NAME where the disk takes no name so long."""
    path = Path(path)
    named = path.with_name(f"{path.name}.{mark}")
    if len(os.fsencode(named.name)) <= _longest_name(path.parent):
        return named
    return path.with_name(f"{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.{mark}")


def _longest_name(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError):
        return 255


def _replace(temporary: Path, path: str | Path, data: bytes) -> bool:
    """False when another process took the temporary file away while this one waited for it, or wrote."""
    with naming(temporary), open(temporary, "ab", buffering=0) as file:
        try_lock(file, wait=True)
        if not is_at(file, temporary):
            return False
        file.truncate(0)
        write_all(file, data)
        os.fsync(file.fileno())
        with contextlib.suppress(FileNotFoundError):
            os.replace(temporary, path)
            return True
        return False


def write_all(file: FileIO, data: bytes) -> None:
    """Writes to an unbuffered file: when this returns the bytes outlive the process, and closing can fail no more."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file.fileno(), rest) :]


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """OSErrors raised inside carry the file's name (a failed write by itself does not say which file)."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def renamed(path: Path, final: Path) -> None:
    """Gives a file its final name, for good. It is gone where another process has finished the same meanwhile."""
    try:
        os.replace(path, final)
    except FileNotFoundError:
        if not final.exists():
            raise
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def size_of(path: str | Path) -> int:
    """Bytes; 0 where there is no such file, or no longer."""
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def listed(folder: Path) -> list[str]:
    """Names in a folder; none where there is no such folder, or no longer."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


@functools.cache
def machine() -> str:
    """8 hex digits of the kernel and the view of the disks that this process has: within one of these, flock holds."""
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/mnt")
    except OSError:
        name = socket.gethostname()
    return hashlib.sha256(name.encode()).hexdigest()[:8]


def writer_names() -> Iterator[str]:
    """Names of this machine's writers of one thing, the first free one to be taken."""
    return (f"{machine()}-{slot}" for slot in itertools.count())


def lone_name() -> str:
    """A writer's name that no other process has, for disks without locks."""
    return f"{machine()}-{secrets.token_hex(8)}"


def open_within(path: Path) -> FileIO:
    """A file to append to in a folder that is made for it, however often others take that folder away."""
    while True:
        path.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            return open(path, "a+b", buffering=0)


class NoLocksError(Exception):
    """The disk has no locks."""


def try_lock(file: FileIO, wait: bool = False) -> bool:
    """Whether the file is this process's until it is closed. wait: until it is. NoLocksError."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise NoLocksError from None


def is_at(file: FileIO, path: str | Path) -> bool:
    """Whether `path` still is the name of an open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
