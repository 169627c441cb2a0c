"""RUN as a folder, or as a url (gs://, s3://, whatever fsspec knows) with a local copy that each process works in.

A folder is shared by the hosts and used in place. Of a url every process keeps a copy in a temporary folder (TMPDIR):
it brings what it reads, and what the first host wrote is sent when a checkpoint is finished and at the end. The store
alone is what a run resumes from; the copy dies with the process. Orbax sees plain folders in both cases, so there is
one way to write, restore, check and retain checkpoints, and a bucket holds what a folder would: either can be copied
to the other. (Orbax itself reaches gs:// and, with three of its private functions replaced, s3://.)

Nothing can be renamed in an object store: a checkpoint is finished once its commit_success.txt is there, Orbax's own
mark, which is sent last and deleted first. One without is a save that was cut off. Nothing can be appended either:
metrics.jsonl and TensorBoard's events are sent whole with each checkpoint, before its mark, so that a run that goes on
has every line up to it; lines after the last save are lost with a killed process, as the steps are.
"""

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import jax

from fmbseg_jax.runs import hosts
from labelgen.core.errors import UserError
from labelgen.core.files import NoLocksError, is_at, try_lock
from labelgen.core.remote import Remote, is_remote

_CHECKPOINTS = "checkpoints"
_MARK = "commit_success.txt"
_HEAD = ("_CHECKPOINT_METADATA", _MARK, "metrics")  # of a checkpoint, to list and to rank it
_IN_FLIGHT = 16  # requests


class Run:
    """A RUN in a folder, which all hosts share."""

    private = False
    """Whether each process has a copy of its own, and what it writes there must be sent."""

    def __init__(self, path: Path, name: str = ""):
        self.path = path
        """Where this process reads and writes."""
        self.name = name or str(path)
        """What the user calls it."""

    def bring(self, *names: str) -> None:
        """Makes files, and folders with all that is in them, be here as they were there when RUN was opened."""

    def has(self, folder: str) -> bool:
        """Whether there was such a folder when RUN was opened."""
        return (self.path / folder).is_dir()

    def look_again(self) -> None:
        """From here on its checkpoints are those that are there now."""

    def send(self) -> None:
        """Makes the files outside of checkpoints/ be there as they are here."""

    def send_checkpoints(self) -> None:
        """Makes the finished checkpoints there be those that are here."""

    def drop_cut_off(self) -> list[str]:
        """Deletes checkpoints whose writing was cut off, and returns their names; Orbax does it in folders."""
        return []

    def set_aside(self, step: int) -> str:
        """Renames a checkpoint, so that its step can be saved again; returns the new name."""
        folder = self.path / _CHECKPOINTS
        name = _free_name(step, (path.name for path in folder.iterdir()))
        (folder / str(step)).rename(folder / name)
        return name


def open_run(workdir: str | Path | Run) -> Run:
    """The RUN at a path or a url. UserError when a url cannot be reached, and when its bucket does not exist."""
    if isinstance(workdir, Run):
        return workdir
    if str(workdir).startswith("hf://"):
        raise UserError(f"{workdir}: is read only; train and evaluate in a RUN of your own, and export it there again")
    return RemoteRun(str(workdir)) if is_remote(workdir) else Run(Path(workdir))


class RemoteRun(Run):
    """A RUN at a url. At the start only what ranks the checkpoints is here."""

    private = True

    def __init__(self, url: str):
        self._remote = Remote(url, "make the bucket")
        folder = tempfile.mkdtemp(prefix="fmbseg-run-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        super().__init__(Path(folder), self._remote.url)
        self._stamps: dict[str, tuple[int, int]] = {}
        self._list()

    def _list(self) -> None:
        self._remote_files = self._remote.files("")
        steps = _steps(self._remote_files)
        self._finished = {step for step in steps if f"{_CHECKPOINTS}/{step}/{_MARK}" in self._remote_files}
        self._cut_off = steps - self._finished
        self.bring(*(f"{_CHECKPOINTS}/{step}/{name}" for step in self._finished for name in _HEAD))

    def has(self, folder: str) -> bool:
        return any(_is_within(file, folder) for file in self._remote_files)

    def look_again(self) -> None:
        before = self._finished
        self._list()
        for step in before - self._finished:
            shutil.rmtree(self.path / _CHECKPOINTS / str(step), ignore_errors=True)

    def bring(self, *names: str) -> None:
        files = [file for file in self._remote_files if any(_is_within(file, name) for name in names)]
        _each(self._bring, [file for file in files if file not in self._stamps])

    def _bring(self, file: str) -> None:
        path = self.path / file
        try:
            data = self._remote.read(file)
        except UserError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return  # deleted since, by the training that goes on there
            raise
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self._stamps[file] = _stamp(path)

    def send(self) -> None:
        files = (file for file in _files(self.path) if not _is_within(file, _CHECKPOINTS))
        _each(self._send, [file for file in files if self._stamps.get(file) != _stamp(self.path / file)])

    def _send(self, file: str) -> None:
        stamp = _stamp(self.path / file)  # first: what is appended from here on is sent the next time
        self._remote.write(file, (self.path / file).read_bytes())
        self._stamps[file] = stamp

    def send_checkpoints(self) -> None:
        local = _steps(f"{_CHECKPOINTS}/{path.name}/" for path in (self.path / _CHECKPOINTS).iterdir())
        for step in sorted(local - self._finished):
            self._send_checkpoint(f"{_CHECKPOINTS}/{step}")
        for step in self._finished - local:
            self._remove(f"{_CHECKPOINTS}/{step}")
        self._finished = local

    def _send_checkpoint(self, folder: str) -> None:
        self._remove(folder)  # what a save that was cut off left
        files = [f"{folder}/{file}" for file in _files(self.path / folder)]
        _each(self._send, [file for file in files if file != f"{folder}/{_MARK}"])
        self._send(f"{folder}/{_MARK}")

    def _remove(self, folder: str) -> None:
        self._remote.delete(f"{folder}/{_MARK}")
        self._remote.delete(folder)

    def drop_cut_off(self) -> list[str]:
        for step in self._cut_off:
            self._remove(f"{_CHECKPOINTS}/{step}")
        return sorted(map(str, self._cut_off))

    def set_aside(self, step: int) -> str:
        old = f"{_CHECKPOINTS}/{step}"
        new = _free_name(step, (file.split("/")[1] for file in self._remote.files(_CHECKPOINTS)))
        files = [file for file in self._remote.files(old) if file != f"{old}/{_MARK}"]
        _each(lambda file: self._remote.copy(file, f"{_CHECKPOINTS}/{new}{file.removeprefix(old)}"), files)
        self._remove(old)
        self._finished.discard(step)
        (self.path / old).rename(self.path / _CHECKPOINTS / new)
        return new


@contextmanager
def claimed(run: Run) -> Iterator[None]:
    """Within it RUN is this training's alone. UserError, on all hosts, where another process trains in it.

    The lock goes with the process, however that ends. There is none at a url, nor between machines whose disk has none.
    """
    free, path = True, run.path / "training.lock"
    with ExitStack() as stack:
        if hosts.is_first() and not run.private:
            if not run.path.exists():
                run.path.mkdir(parents=True, exist_ok=True)
                stack.callback(_drop_empty, run.path)  # nothing came of it
            free = _lock(path, stack)
        if hosts.any_of(not free):
            raise UserError(f"{run.name}: another process trains in it; wait until it ends, or name another --workdir")
        yield


def _drop_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _lock(path: Path, stack: ExitStack) -> bool:
    """Whether the file is this process's until the stack is closed, which takes the file away."""
    while True:
        file = stack.enter_context(open(path, "ab", buffering=0))  # noqa: SIM115
        try:
            if not try_lock(file):
                return False
        except NoLocksError:
            pass
        if is_at(file, path):
            stack.callback(path.unlink, missing_ok=True)
            return True


@contextmanager
def disk_errors(folder: str) -> Iterator[None]:
    """A full disk and the like as an OSError that names the folder; tensorstore says it in words of its own."""
    try:
        yield
    except Exception as error:
        number = re.search(r"os_error_code='(\d+)'", str(error))
        code = error.errno if isinstance(error, OSError) else number and int(number[1])
        if not code:
            raise
        raise OSError(code, os.strerror(code), folder) from error


def _steps(files: Iterable[str]) -> set[int]:
    """Numbers of the checkpoints that have one of the files."""
    parts = (file.split("/") for file in files)
    return {int(part[1]) for part in parts if part[0] == _CHECKPOINTS and len(part) > 2 and part[1].isdigit()}


def _is_within(file: str, name: str) -> bool:
    return file == name or file.startswith(f"{name}/")


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _free_name(step: int, taken: Iterable[str]) -> str:
    names = set(taken)
    return next(name for i in range(1000) if (name := f"broken-{step}" + (f"-{i}" if i else "")) not in names)


def _each(work: Callable[[str], None], files: Iterable[str]) -> None:
    """The first error is raised once no request is under way."""
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        list(pool.map(work, files))


def keep_compiled(run: Run, folder: str, trusted: bool = False) -> None:
    """From here on compiled functions are taken from `folder`, below RUN or absolute, and put there; "": they are not.

    Before the first one is compiled. So a preempted run that goes on does not compile. They are machine code: of a RUN
    at a url, which others may be able to write, they are taken only where it is `trusted`; then a new machine does not
    compile either. JAX_COMPILATION_CACHE_DIR in the environment goes first.

    JAX finds them by the program, its own version, XLA's flags, and a fingerprint of the devices, which for a CPU
    depends on its instructions (restricted by --xla_cpu_max_isa it is another): what was compiled for other machines is
    passed over. Of several hosts the first one writes and all read; on CPUs only the first one finds its own, as the
    others ask for something else (on GPUs JAX makes it the same; not tried).
    """
    if not folder or jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    if trusted or not run.private:
        run.bring(folder)
    elif run.has(folder):
        fix = "take it by --trust_compiled, if only you can write there"
        hosts.say(f"{run.name}/{folder}: is machine code, and left where it is; {fix}")
    path = str(run.path / Path(folder).expanduser())
    jax.config.update("jax_compilation_cache_dir", path)  # type: ignore[no-untyped-call]
    # XLA's own caches, for GPUs, would make the folder's path a part of what is asked for.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # type: ignore[no-untyped-call]
    # JAX keeps what took a second; a start has some ten small functions before the step.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # type: ignore[no-untyped-call]
