"""A folder on gs://, s3:// or any other file system that fsspec reaches: read, listed, written, tried again."""

import contextlib
import importlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from labelgen.core.errors import UserError

T = TypeVar("T")
_ATTEMPTS = 5
_FIRST_WAIT_S = 0.5
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_CREDENTIALS = {
    "s3fs": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or ~/.aws, and AWS_ENDPOINT_URL where it is not Amazon's own",
    "gcsfs": "GOOGLE_APPLICATION_CREDENTIALS, or the machine's service account",
}
# What changes when an object is written again; each file system has some of these.
_STAMPS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "last_modified", "mtime", "created")
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def is_remote(path: object) -> bool:
    """Whether `path` is a url (PROTOCOL://…) and no plain path."""
    return "://" in str(path)


class Entry(NamedTuple):
    """A file in a listing."""

    size: int
    version: str
    """Another one once the file was written again."""


class Remote:
    """The files below a url. Every error is a UserError that names the file and what would fix it."""

    def __init__(self, url: str, fix: str = "copy a complete DATA there"):
        """fix: what to do where something is missing. UserError for an unknown protocol or a missing package."""
        self.url, self._fix = url.rstrip("/"), fix
        self._package = _PACKAGES.get(url.partition("://")[0], "")
        self._fs, self._root = self._connect()

    def _connect(self) -> tuple[Any, str]:
        fsspec = importlib.import_module("fsspec")  # not a need of those who read plain folders
        try:
            fs, root = fsspec.url_to_fs(self.url)
        except ImportError as error:
            raise UserError(f"{self.url}: {error}; pip install {self._package or 'what it names'}") from None
        except Exception as error:  # each package has exceptions of its own
            raise self._failed("", error) from error
        return fs, str(root).rstrip("/")

    def read(self, name: str) -> bytes:
        """A whole file."""
        data: bytes = self._try(name, lambda: self._fs.cat_file(f"{self._root}/{name}"))
        return data

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Bytes start … end - 1 of a file."""

        def read() -> bytes:
            data: bytes = self._fs.cat_file(f"{self._root}/{name}", start=start, end=end)
            if len(data) != end - start:
                raise EOFError(f"{len(data)} of {end - start} bytes from {start} on came")
            return data

        return self._try(name, read)

    def files(self, folder: str) -> dict[str, Entry]:
        """Name below the url -> Entry of every file below `folder`; none when there is no such folder.

        UserError for a name that would lead out of a folder here.
        """

        def find() -> dict[str, Any]:
            self._fs.invalidate_cache()
            found: dict[str, Any] = self._fs.find(f"{self._root}/{folder}", detail=True)
            return found

        found = self._try(folder, find)
        entries = {name[len(self._root) + 1 :]: _entry(info) for name, info in found.items()}
        for name in entries:
            if {"", ".", ".."} & set(name.replace("\\", "/").split("/")):
                raise UserError(f"{self.url}/{name}: a name that leads out of its folder; delete it there")
        return entries

    def write(self, name: str, data: bytes) -> None:
        """A whole file, in place of one that may be there."""
        path = f"{self._root}/{name}"
        self._make_folder(path)
        self._try(name, lambda: self._fs.pipe_file(path, data), "written")

    def copy(self, name: str, target: str) -> None:
        """A file under another name, without bringing it here."""
        self._make_folder(f"{self._root}/{target}")
        self._try(target, lambda: self._fs.cp_file(f"{self._root}/{name}", f"{self._root}/{target}"), "written")

    def delete(self, name: str) -> None:
        """A file, or a folder with all that is in it; one that is gone already is no error."""

        def remove() -> None:
            self._fs.invalidate_cache()
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm(f"{self._root}/{name}", recursive=True)

        self._try(name, remove, "deleted")

    def _make_folder(self, path: str) -> None:
        if not self._package:  # object stores have none, and making one may make a bucket
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)

    def _try(self, name: str, work: Callable[[], T], done: str = "read") -> T:
        """The result of `work`, tried again, ever later, while the error may pass by itself."""
        attempt = 0
        while True:
            try:
                return work()
            except Exception as error:  # each package has exceptions of its own
                attempt += 1
                if attempt == _ATTEMPTS or isinstance(error, _FINAL) or _is_setup(error):
                    raise self._failed(name, error, done) from error
            time.sleep(_FIRST_WAIT_S * 2 ** (attempt - 1))

    def _failed(self, name: str, error: Exception, done: str = "read") -> UserError:
        file = f"{self.url}/{name}".rstrip("/")
        if isinstance(error, FileNotFoundError) and done == "written":
            return UserError(f"{file}: cannot be written: there is no such bucket; make it, or check the url")
        if isinstance(error, FileNotFoundError):
            return UserError(f"{file}: not there; check the url, and {self._fix}")
        credentials = _CREDENTIALS.get(self._package, "the credentials that it asks for")
        return UserError(
            f"{file}: cannot be {done} ({type(error).__name__}: {error}); check the url, the network and {credentials}"
        )


def _is_setup(error: Exception) -> bool:
    """Errors of credentials and addresses: waiting does not fix them. Told by name, their packages are optional."""
    return type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "EndpointConnectionError")


def _entry(info: dict[str, Any]) -> Entry:
    stamps = [f"{stamp}={info[stamp]}" for stamp in _STAMPS if stamp in info]
    return Entry(int(info["size"]), " ".join([str(info["size"]), *stamps]))
