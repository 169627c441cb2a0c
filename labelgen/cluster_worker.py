"""What works off shards on a node of a cluster: it opens the models once, and then does one shard after the other."""

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from labelgen import encoding, labelling
from labelgen.core.errors import UserError
from labelgen.core.files import read_json
from labelgen.core.ontology import Ontology
from labelgen.core.progress import Progress, StageTimes
from labelgen.data.shards import Shard
from labelgen.data.tfrecord import ShardBusyError

SHARED = "cluster.json"
"""In DATA while a cluster works on it: what all nodes must see."""
_SEEN_S = 20.0  # network disks show a new file late


@dataclass(frozen=True)
class Job:
    """A stage on a DATA, as every node is told of it."""

    stage: str
    config: ConfigDict
    data: Path
    words: Ontology | None
    limit: int | None
    folder: str
    """The working folder: relative paths of the config begin there."""
    token: str
    """What DATA/cluster.json says."""
    load: encoding.Loader
    """What opens the models."""


class Told(NamedTuple):
    """How far a worker is."""

    photos: int
    """Of its shard, from the first one on …"""
    skipped: int
    """… those that were there before."""
    notes: list[str]


class Failed(NamedTuple):
    """What the user must mend: the text of a UserError, or an OSError's number and file."""

    node: str
    text: str
    number: int = 0
    file: str = ""

    def error(self) -> Exception:
        """To be raised where the command runs."""
        return OSError(self.number, self.text, self.file) if self.number else UserError(f"{self.node}: {self.text}")


class Tally(Progress):
    """Counts for a command elsewhere instead of writing a line."""

    def __init__(self) -> None:
        super().__init__(0, "photos", "")
        self._lock = threading.Lock()
        self.begin()

    def begin(self) -> None:
        """A new shard."""
        with self._lock:
            self._photos = self._skipped = 0
            self._notes: list[str] = []

    def add(self, count: int = 1) -> None:
        with self._lock:
            self._photos += count

    def skip(self, count: int) -> None:
        with self._lock:
            self._photos += count
            self._skipped += count

    def note(self, text: str) -> None:
        with self._lock:
            self._notes.append(text)

    def told(self) -> Told:
        """The state, and the notes since the last call."""
        with self._lock:
            notes, self._notes = self._notes, []
            return Told(self._photos, self._skipped, notes)


class ShardWorker:
    """One device's worker. `told` may be called from another thread while a shard is in work."""

    def __init__(self, job: Job) -> None:
        self._job, self._tally = job, Tally()
        self._node = f"node {socket.gethostname()}"

    def open(self) -> Failed | None:
        """Opens what the stage needs, the models above all."""
        return self._try(self._open)

    def do(self, shard: Shard) -> Told | Failed:
        """Finishes one shard."""
        failed = self._try(lambda: self._do(shard))
        return failed or self._tally.told()

    def told(self) -> Told:
        """How far the shard in work is."""
        return self._tally.told()

    def _try(self, work: Callable[[], None]) -> Failed | None:
        try:
            work()
        except UserError as error:
            return Failed(self._node, str(error))
        except OSError as error:
            if error.errno is None or error.filename is None:
                raise
            return Failed(self._node, error.strerror or "", error.errno, str(error.filename))
        return None

    def _open(self) -> None:
        job, times = self._job, StageTimes()
        try:
            os.chdir(job.folder)
        except OSError as error:
            raise UserError(
                f"{job.folder}: {error.strerror}, though the command was started there; start it in a folder that all "
                "nodes have, best the repository on the shared disk"
            ) from None
        check_shared(job.data, job.token)
        if job.stage == "encode":
            plan = encoding.prepare(job.config, job.data, job.limit, job.words)
            encoders = encoding.open_encoders(job.config, plan, times, job.load)
            shared = replace(plan, spare=True)
            self._work: Callable[[Shard], None] = lambda shard: encoding.encode_shard(
                shared, shard, encoders, times, self._tally
            )
        elif job.words is not None:
            shards = labelling.prepare(job.config, job.data)
            begun = labelling.begin(job.config, job.data, job.words, shards, times)
            self._work = lambda shard: labelling.label_shard(begun, shard, times, self._tally, spare=True)

    def _do(self, shard: Shard) -> None:
        self._tally.begin()
        try:
            self._work(shard)
        except ShardBusyError as error:  # another worker had it too, and was first
            self._tally.note(str(error))


def check_shared(data: Path, token: str) -> None:
    """UserError unless this machine sees DATA as the machine that the command runs on does."""
    deadline = time.monotonic() + _SEEN_S
    path = data / SHARED
    while not path.exists() or read_json(path, "delete it").get("token") != token:
        if time.monotonic() > deadline:
            raise UserError(
                f"{data} is not the folder of this name that the command was started with; put DATA on a disk that all "
                "nodes share (NFS, Lustre and their like), under one path, and name that as --out"
            )
        time.sleep(0.2)
