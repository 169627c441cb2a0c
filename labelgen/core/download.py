"""A large file from a server: goes on where it stopped, has its place checked first, and its digest before its name.

Data flow: url -> PATH.partial, which grows over any number of tries and runs -> checked -> PATH. Only the standard
library, so that what fetches photos needs no torch.
"""

import errno
import fcntl
import hashlib
import http.client
import os
import re
import shutil
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from labelgen.core.errors import UserError
from labelgen.core.files import temporary
from labelgen.core.progress import Progress, say

MB = 10**6
ATTEMPTS = 5
"""Tries in a row that bring no byte, after which it is left to the user to try again."""
FIRST_WAIT_S = 1.0
TIMEOUT_S = 60
_PASSES = (408, 425, 429, 500, 502, 503, 504)
"""Answers of a server that may pass by themselves."""
_BROKEN = (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError, EOFError)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Remote(NamedTuple):
    """A file at an address. digest: `sha256:HEX` or `md5:HEX`, "" unknown; size: bytes, 0 unknown."""

    url: str
    digest: str = ""
    size: int = 0


def download(remote: Remote, path: Path) -> Path:
    """The file under `path`, which is there only when it is whole and of the digest.

    What came of it is kept in PATH.partial when the connection, the disk or the process gives up, and the next call
    asks the server for the rest (a Range request), unless no digest could tell a file of two halves. UserError that
    says what is wrong, what is kept and what to do.
    """
    if path.is_file():
        _check(remote, path, f"delete it, or give --sha256 its own digest; it is downloaded from {remote.url}")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary(path, "partial")
    with _alone(partial) as file:
        if not remote.digest:
            file.truncate(0)
        _fill(remote, file, partial)
        _finish(remote, partial, path)
    return path


def check_room(folder: Path, needed: int, what: str) -> None:
    """UserError unless the disk of `folder` has `needed` bytes free."""
    there = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"{folder}: {what} takes {gb(needed)}, but the disk has {gb(free)} free; make room, or name a folder on "
            "another disk, and run the same command again: what is finished is kept"
        )


def file_digest(path: Path, like: str) -> str:
    """`sha256:HEX` or `md5:HEX` of a file, of the kind of `like`."""
    kind = like.partition(":")[0]
    with open(path, "rb") as file:
        return f"{kind}:{hashlib.file_digest(file, kind).hexdigest()}"


@contextmanager
def _alone(partial: Path) -> Iterator[FileIO]:
    """The partial file, held by this process alone."""
    with open(partial, "ab", buffering=0) as file:  # what a full disk did not take is not tried again at the end
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{partial}: another process is downloading this file; wait for it") from None
        yield file


def _fill(remote: Remote, file: FileIO, partial: Path) -> None:
    """Appends what is missing, over as many connections as it takes while each brings something."""
    progress: Progress | None = None
    attempt, reached = 0, False
    while True:
        before = file.seek(0, os.SEEK_END)
        try:
            with _Answer(remote, before) as answer:
                reached = True
                _begin(remote, answer, file, partial)
                progress = progress or _progress(answer, file.seek(0, os.SEEK_END), partial)
                _copy(answer, file, partial, progress)
            progress.close()
            return
        except _BROKEN as error:
            length = file.seek(0, os.SEEK_END)
            attempt = 0 if length > before else attempt + 1
            nobody = isinstance(error, urllib.error.URLError) and not reached
            if nobody or attempt == ATTEMPTS:
                raise UserError(_gave_up(remote, error, length, partial)) from error
            say(f"{remote.url}: {_reason(error)} after {length / MB:.1f} MB; trying again")
        time.sleep(FIRST_WAIT_S * 2**attempt)


class _Answer:
    """A server's answer to the request of a file's bytes from `start` on.

    start: the first byte that comes, 0 where the server knows no Range; total: bytes of the whole file, 0 unknown.
    """

    def __init__(self, remote: Remote, start: int) -> None:
        self._remote = remote
        # compressed on its way, a file would have other bytes than its digest's
        headers = {"User-Agent": "fmbseg-jax", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        try:
            self._request = urllib.request.Request(remote.url, headers=headers)
        except ValueError as error:  # no url at all
            raise UserError(f"{remote.url}: {error}; correct the address") from error
        self._asked, self.start, self.total = start, 0, 0

    def __enter__(self) -> "_Answer":
        try:
            self._body = urllib.request.urlopen(self._request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error)
            return self
        length = int(self._body.headers.get("Content-Length") or 0)
        if self._body.status == 206:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", self._body.headers.get("Content-Range", ""))
            if not found or int(found[1]) != self._asked:
                raise EOFError(f"bytes from {self._asked} on were asked for, but others came")
            self.start, self.total = self._asked, self._asked + length if found[2] == "*" else int(found[2])
        else:
            self.total = length
        return self

    def __exit__(self, *error: object) -> None:
        if hasattr(self, "_body"):
            self._body.close()

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        return self._body.read(size) if hasattr(self, "_body") else b""

    def _refused(self, error: urllib.error.HTTPError) -> None:
        """An answer that is none: 416 says that there is no byte after those that were asked for."""
        total = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        if error.code == 416 and total:
            self.start = self.total = int(total[1])
        elif error.code in _PASSES:
            raise EOFError(f"the server answers {error.code} {error.reason}") from error
        else:
            raise UserError(
                f"{self._remote.url}: the server answers {error.code} {error.reason}; has the file moved? Download it "
                "by hand, or name another address"
            ) from error


def _begin(remote: Remote, answer: _Answer, file: FileIO, partial: Path) -> None:
    """Leaves the file where the answer begins; UserError for a file of another size, and for a disk without room."""
    if remote.size and answer.total and answer.total != remote.size:
        raise UserError(
            f"{remote.url}: the server has a file of {answer.total} bytes, but {remote.size} are wanted; it is another "
            "file, or a page about it: download it by hand, or name another address"
        )
    length = file.seek(0, os.SEEK_END)
    if answer.start < length:
        if not answer.start:
            say(f"{partial}: the server does not go on in the middle of a file; beginning again")
        file.truncate(answer.start)
        file.seek(answer.start)
    check_room(partial.parent, (remote.size or answer.total) - answer.start, partial.name.removesuffix(".partial"))


def _progress(answer: _Answer, length: int, partial: Path) -> Progress:
    total = max(1, round(answer.total / MB))
    progress = Progress(total, "MB", partial.name.removesuffix(".partial"))
    progress.skip(length // MB)
    return progress


def _copy(answer: _Answer, file: FileIO, partial: Path, progress: Progress) -> None:
    """The answer's bytes into the file; EOFError where it ends early, UserError on a full disk."""
    megabytes = file.tell() // MB
    while data := memoryview(answer.read(MB)):
        try:
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise UserError(_full(partial, error)) from error
        progress.add(file.tell() // MB - megabytes)
        megabytes = file.tell() // MB
    os.fsync(file.fileno())
    if file.tell() < answer.total:
        raise EOFError(f"it ended at {file.tell() / MB:.1f} of {answer.total / MB:.1f} MB")


def _full(partial: Path, error: OSError) -> str:
    return (
        f"{partial}: {os.strerror(error.errno or 0)} after {os.stat(partial).st_size / MB:.1f} MB; make room and run "
        "the same command again: it goes on from there"
    )


def _finish(remote: Remote, partial: Path, path: Path) -> None:
    """Gives the file its name; one of another digest gets the name .wrong, so that the next try begins anew."""
    wrong = path.with_name(path.name + ".wrong")
    try:
        _check(remote, partial, f"it is kept as {wrong}; run the same command again, or name another address")
    except UserError:
        os.replace(partial, wrong)
        raise
    os.replace(partial, path)


def _check(remote: Remote, path: Path, fix: str) -> None:
    if remote.digest and (found := file_digest(path, remote.digest)) != remote.digest:
        kind, _, wanted = remote.digest.partition(":")
        raise UserError(
            f"{path}: {kind} is {found.partition(':')[2]}, but {wanted} is wanted: it is not the file of "
            f"{remote.url}, or it was damaged on its way; {fix}"
        )


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(error).__name__


def _gave_up(remote: Remote, error: Exception, length: int, partial: Path) -> str:
    rest = (
        f"the first {length / MB:.1f} MB are in {partial}; the same command goes on from there"
        if length
        else ("nothing came; is there a network? The same command tries again")
    )
    return f"{remote.url}: could not be downloaded ({_reason(error)}); {rest}"


def gb(count: float) -> str:
    """1.42 GB, or MB below one."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / MB:.1f} MB"
