"""DATA on a remote file system, read through a copy on local disk that holds just the rows that were asked for.

The copy of a shard is a file of the remote one's size with holes: every record stands at its own offset or not at all,
so the index, the reader and the checksums are those of any DATA. Whether a record is there is asked of its checksum:
nothing else needs to be written down, and a staging that was killed goes on where it was. A row that nobody staged is
fetched when it is read.

CACHE/NAME-DIGEST/              by the digest of dataset.json: another DATA is another folder
    dataset.json, labels/…      small files, compared with the remote ones at every start
    FAMILY/SPLIT.versions.json  what the copied shards were copies of; a shard that changed is fetched anew
"""

import fcntl
import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

from labelgen.core.errors import UserError
from labelgen.core.files import naming, read_json, write_atomic, write_json
from labelgen.core.progress import Progress, say
from labelgen.core.remote import Entry, Remote, is_remote
from labelgen.data.dataset import Dataset, SplitReader, check_format, later_shards
from labelgen.data.tfrecord import ShardReader, shard_names, unframe

_IN_FLIGHT = 16  # requests
_REQUEST_BYTES = 8 << 20  # neighbouring records share a request up to this size
_MB = 10**6


def open_data(path: str | Path, cache: str = "") -> Dataset:
    """The DATA at a plain path, read in place, or at a url (gs://, s3://, …), read through a copy below `cache`.

    cache: "" is fmbseg in $XDG_CACHE_HOME, else in ~/.cache. UserError as by Dataset.open and labelgen.core.remote.
    """
    if not is_remote(path):
        return Dataset.open(path)
    remote = Remote(str(path))
    raw = remote.read("dataset.json")
    place = Path(cache).expanduser() if cache else _default_cache()
    folder = place / f"{remote.url.rpartition('/')[2]}-{hashlib.sha256(raw).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    _keep(folder / "dataset.json", raw)
    info = read_json(folder / "dataset.json", "copy a complete DATA there")
    check_format(info, f"{remote.url}/dataset.json")
    _copy_small(remote, folder)
    return StagedData(folder, info, remote)


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fmbseg"


def _keep(path: Path, data: bytes) -> None:
    """Makes a file have this content."""
    if not path.exists() or path.read_bytes() != data:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)


def _copy_small(remote: Remote, folder: Path) -> None:
    """labels/ without its shards. What is gone there goes here: labels in work have no labels.json yet."""
    names = [name for name in remote.files("labels") if name.endswith((".json", ".npy"))]
    for path in folder.glob("labels/*/labels.json"):
        if path.relative_to(folder).as_posix() not in names:
            path.unlink(missing_ok=True)
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        for name, data in zip(names, pool.map(remote.read, names), strict=True):
            _keep(folder / name, data)


class StagedShard(ShardReader):
    """A shard whose records come from the remote one, each once, and stay."""

    def __init__(self, path: Path, remote: Remote, file: str):
        """file: the remote shard's name below the url."""
        self._remote, self._file = remote, file
        super().__init__(path)

    @property
    def name(self) -> str:
        """The url."""
        return f"{self._remote.url}/{self._file}"

    @property
    def fix(self) -> str:
        """Another copy of it."""
        return "copy the shard and its .index there again"

    def __getitem__(self, row: int) -> bytes:
        """The data of record `row`, fetched when it is not here. UserError when it is damaged there."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        data = self._whole(row)
        if data is None:
            self.fetch(row, row)
            data = super().__getitem__(row)
        return data

    def missing(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """(first, last) of each run of records that are not here whole, among first … last."""
        start = first
        for row in range(first, last + 2):
            if row > last or self._whole(row) is not None:
                if row > start:
                    yield start, row - 1
                start = row + 1

    def fetch(self, first: int, last: int) -> None:
        """Brings records first … last. UserError when one is damaged there: nothing unchecked is written."""
        start, end = self.span(first, last)
        for _ in range(2):  # damaged on the way, or there
            raw = self._remote.read_range(self._file, start, end)
            bad = self._damaged(raw, first, last)
            if bad is None:
                return self._write(raw, start)
        raise UserError(f"{self.name}: record {bad} is damaged (its checksum does not fit); {self.fix}")

    def _damaged(self, raw: bytes, first: int, last: int) -> int | None:
        offset = self.span(first, last)[0]
        spans = ((row, *self.span(row, row)) for row in range(first, last + 1))
        return next((row for row, a, b in spans if unframe(raw[a - offset : b - offset]) is None), None)

    def _write(self, raw: bytes, start: int) -> None:
        with naming(self.path), open(self.path, "r+b", buffering=0) as file:
            rest = memoryview(raw)
            while rest:
                written = os.pwrite(file.fileno(), rest, start)
                rest, start = rest[written:], start + written


class Run(NamedTuple):
    """Neighbouring records of a shard, fit for one request."""

    shard: StagedShard
    first: int
    last: int

    @property
    def size(self) -> int:
        """Bytes."""
        start, end = self.shard.span(self.first, self.last)
        return end - start


class StagedData(Dataset):
    """A remote DATA; `path` is the folder of its copy."""

    def __init__(self, path: Path, info: dict[str, Any], remote: Remote):
        super().__init__(path, info)
        self._remote = remote
        self._readers: dict[tuple[str, str], SplitReader] = {}

    def stage(
        self, split: str, families: Sequence[str], rows: Iterable[int], stopped: Callable[[], bool] = lambda: False
    ) -> bool:
        """Fetches the rows that are not here yet, several requests at a time, and says how fast.

        UserError when the disk lacks room, when a record is damaged there, and when it cannot be read.
        """
        wanted = sorted(set(map(int, rows)))
        runs = [run for family in families for run in _runs(self._reader_of(family, split), wanted)]
        self._check_room(runs)
        progress = _Megabytes(sum(run.size for run in runs), f"stage {split}")
        pool = ThreadPoolExecutor(_IN_FLIGHT)
        try:
            for done in as_completed([pool.submit(_bring, run) for run in runs]):
                progress.add(*done.result())
                if stopped():
                    return False
        finally:
            pool.shutdown(cancel_futures=True)
        say(f"staged {split} from {self._remote.url} in {self.path}: {progress.close()}")
        return True

    def _reader_of(self, family: str, split: str) -> SplitReader:
        labels = family.removeprefix("labels/")
        return self.reader(family, split) if labels == family else self.label_reader(labels, split)

    def _open_split(self, folder: str, split: str) -> SplitReader:
        if (folder, split) not in self._readers:
            fields = self._split(split)
            rows, later = fields["rows"], later_shards(fields)
            names = [f"{folder}/{name}" for name in shard_names(split, len(rows), later)]
            with _locked(self.path / folder / f"{split}.lock"):
                self._renew(names, self.path / folder / f"{split}.versions.json")
            open_shard = functools.partial(_open_shard, self.path, self._remote)
            self._readers[folder, split] = SplitReader(self.path / folder, split, rows, open_shard, later)
        return self._readers[folder, split]

    def _renew(self, names: Sequence[str], file: Path) -> None:
        """Empty copies, with their indices, of the shards that have none or of an older version."""
        entries = self._remote.files(os.path.dirname(names[0])) if names else {}
        versions = {name: _version(entries, name, self._remote.url) for name in names}
        known = read_json(file, "delete it") if file.exists() else {}
        sizes = {name: entries[name].size for name in names}
        old = [
            name for name in names if known.get(name) != versions[name] or not _has_size(self.path / name, sizes[name])
        ]
        if not old:
            return
        with ThreadPoolExecutor(_IN_FLIGHT) as pool:
            list(pool.map(lambda name: self._empty(name, sizes[name]), old))
        write_json(file, versions)  # last: a run killed before begins the emptying anew

    def _empty(self, name: str, size: int) -> None:
        path = self.path / name
        write_atomic(f"{path}.index", self._remote.read(f"{name}.index"))
        with naming(path), open(path, "wb", buffering=0) as file:
            file.truncate(size)

    def _check_room(self, runs: Sequence[Run]) -> None:
        here = sum(os.stat(path).st_blocks * 512 for path in {run.shard.path for run in runs})
        needed, free = sum(run.size for run in runs) - here, shutil.disk_usage(self.path).free
        if needed > free:
            raise UserError(
                f"{self.path}: {needed // _MB} MB of {self._remote.url} are wanted, room is for {free // _MB} MB: "
                "make room or set data_cache to a folder on another disk"
            )


def _open_shard(folder: Path, remote: Remote, path: Path) -> StagedShard:
    return StagedShard(path, remote, path.relative_to(folder).as_posix())


def _has_size(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def _version(entries: dict[str, Entry], name: str, url: str) -> str:
    """Of a shard and its index together."""
    for file in (name, f"{name}.index"):
        if file not in entries:
            raise UserError(f"{url}/{file}: not there, though dataset.json has it; copy the whole DATA there again")
    return f"{entries[name].version}; {entries[f'{name}.index'].version}"


def _runs(reader: SplitReader, rows: Sequence[int]) -> Iterator[Run]:
    """Ascending rows as runs of neighbours, each up to _REQUEST_BYTES, or one record."""
    run: Run | None = None
    for row in rows:
        shard, record = cast(tuple[StagedShard, int], reader.locate(row))
        longer = run and run.shard is shard and run.last == record - 1 and Run(shard, run.first, record)
        if longer and longer.size <= _REQUEST_BYTES:
            run = longer
            continue
        if run:
            yield run
        run = Run(shard, record, record)
    if run:
        yield run


def _bring(run: Run) -> tuple[int, int]:
    """(bytes fetched, bytes that were here)."""
    fetched = 0
    for first, last in run.shard.missing(run.first, run.last):
        run.shard.fetch(first, last)
        fetched += Run(run.shard, first, last).size
    return fetched, run.size - fetched


class _Megabytes:
    """Progress in MB: those that were here already do not count for the rate."""

    def __init__(self, total: int, label: str):
        self._progress = Progress(total // _MB, "MB", label)
        self._fetched = self._cached = 0

    def add(self, fetched: int, cached: int) -> None:
        before, were = self._fetched // _MB, self._cached // _MB
        self._fetched, self._cached = self._fetched + fetched, self._cached + cached
        self._progress.skip(self._cached // _MB - were)
        self._progress.add(self._fetched // _MB - before)

    def close(self) -> str:
        """What came, in words."""
        self._progress.close()
        return f"{self._fetched / _MB:.1f} MB fetched, {self._cached / _MB:.1f} MB were here"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time, of those that share the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
