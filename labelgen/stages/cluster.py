"""Shards over the nodes of a Ray cluster: an actor for each device, a shard a task.

Actors are started on every node that has a device, also on those that come later; a node that goes gives its shard
back. A ShardWorker, in an actor, opens the models once and then does one shard after the other. The Board says which
worker does which shard: each shard once, again where its worker died, by a second one where it takes long. What is
Ray's own is in `cluster` and in _Stage.
"""

import importlib
import os
import re
import secrets
import signal
import socket
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from labelgen.core.errors import UserError
from labelgen.core.files import read_json, write_json
from labelgen.core.progress import Progress, StageTimes
from labelgen.data.shards import Shard
from labelgen.data.tfrecord import ShardBusyError
from labelgen.stages.engine import Stage, Work

SHARED = "cluster.json"
"""In DATA while a cluster works on it: what all nodes must see."""
_SEEN_S = 20.0  # network disks show a new file late
SLOW = 3.0
"""A shard that takes so many times the median is given to an idle worker too …"""
LEAST_S = 5.0
"""… but not before."""
DEATHS = 5
"""Workers that may die at one shard before it is blamed."""
_TURN_S = 1.0
_ANSWER_S = 10.0
_HOST_PORT = re.compile(r"([^:/]+):(\d+)")
_NODES_S = 5.0
_SILENT_S = 20.0  # Ray itself ends this process after 60, with a line of its own alone
_ALONE_S = 120.0
_STARTS = 3
_MEMORY = re.compile(r"out of memory|low on memory|\boom\b", re.IGNORECASE)
_OUT_OF_MEMORY = " (out of memory)"
_LESS_MEMORY = (
    "give Ray fewer CPUs of each node (`ray start --num-cpus=N`), so that fewer photos are in work there, or set "
    "clip.batch_size and sam.batch_size; the same command goes on from here"
)
_OBJECT_STORE_BYTES = 80 << 20  # nothing but names goes through it; Ray takes no less than 75 MiB


@dataclass(frozen=True)
class Job:
    """What every node is told."""

    stage: Stage
    folder: str
    """The working folder: relative paths of the config begin there."""
    token: str
    """What DATA/cluster.json says."""


class RayEngine:
    """The nodes of a Ray cluster do the shards. It is joined, or started on this machine, when the first stage is run,
    and left at the end."""

    def __init__(self, address: str, times: StageTimes, stopped: Callable[[], bool]) -> None:
        """address: of the cluster to join, empty to start one; stopped: asked every second, SystemExit once it says
        so."""
        self._address, self._times, self._stopped = address, times, stopped
        self._stack, self._token = ExitStack(), ""
        self._head: Head | None = None

    def __enter__(self) -> "RayEngine":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def run(self, work: Work, shards: Sequence[Shard]) -> None:
        """See labelgen.stages.engine.Engine. UserError without Ray, and where there is no such cluster."""
        stage = work.stage
        self._token = self._token or self._stack.enter_context(cluster(self._address, stage.data))
        with self._times(f"{stage.name} on the cluster"):
            job = Job(replace(stage, data=stage.data.absolute()), os.getcwd(), self._token)
            run_stage(job, work.unfinished(shards), self._stopped_or_alone)

    def _stopped_or_alone(self) -> bool:
        """UserError once the head of the cluster is gone."""
        self._head = self._head or Head(_ray().get_runtime_context().gcs_address)
        self._head.check()
        return self._stopped()


class Head:
    """The head of the cluster that was joined, at HOST:PORT; asked now and then whether it answers."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address, self._at, self._asked_at = address, (host.strip("[]"), int(port)), -float("inf")

    def check(self) -> None:
        """UserError where it does not answer for long: whatever is asked of Ray then waits until Ray gives up."""
        if time.monotonic() - self._asked_at < _NODES_S:
            return
        silent_since = time.monotonic()
        while reason := self._reason():
            if time.monotonic() - silent_since > _SILENT_S:
                raise UserError(
                    f"the head of the Ray cluster, {self._address}, does not answer any more ({reason}); start it and "
                    "its nodes again (`ray start`): the same command goes on from here"
                )
            time.sleep(_TURN_S)
        self._asked_at = time.monotonic()

    def _reason(self) -> str:
        """Why it does not answer; empty where it does."""
        try:
            socket.create_connection(self._at, _ANSWER_S).close()
        except OSError as error:
            return error.strerror or str(error)
        return ""


@contextmanager
def cluster(address: str, data: Path) -> Iterator[str]:
    """Joins the cluster at `address`, or starts one on this machine where it is empty; leaves it at the end.

    The token that DATA/cluster.json says meanwhile. UserError without Ray, and where there is no such cluster.
    """
    ray = _ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    handler, token = signal.getsignal(signal.SIGTERM), secrets.token_hex(8)
    ignores_ctrl_c = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    try:
        _join(ray, address)
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own there
    try:
        write_json(data / SHARED, {"token": token})
        yield token
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # it is being left
        (data / SHARED).unlink(missing_ok=True)
        ray.shutdown()
        signal.signal(signal.SIGTERM, handler)
        if not ignores_ctrl_c:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _ray() -> Any:
    try:
        return importlib.import_module("ray")  # not a need of those who label without it
    except ImportError:
        raise UserError("--engine=ray wants Ray: pip install the version of requirements.txt") from None


def _join(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if host_port := _HOST_PORT.fullmatch(address):  # Ray by itself waits for it for minutes
            socket.create_connection((host_port[1], int(host_port[2])), _ANSWER_S).close()
        if address:
            ray.init(address, **quiet)
        else:
            ray.init("local", include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, **quiet)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--ray_address={address}: {reason}; name a running cluster as HOST:PORT (`ray start --head` says which), "
            "with the same versions of Ray and Python and the same RAY_AUTH_MODE, or leave it out to start one here"
        ) from None


def run_stage(job: Job, shards: Sequence[Shard], stopped: Callable[[], bool]) -> None:
    """Has all these shards finished by the nodes' actors. Errors of theirs that the user must fix are raised here.

    stopped: asked every second; SystemExit once it says so. UserError for whatever Ray itself cannot do.
    """
    if not shards:
        return
    stage, errors = _Stage(job, shards), _ray().exceptions
    try:
        stage.run(stopped)
    except errors.RayError as error:
        if isinstance(error, errors.RayTaskError):  # a fault in what a worker does
            raise
        raise UserError(
            f"Ray: {_first_line(error)}; see whether the cluster still runs (`ray status`): the same command goes on "
            "from here"
        ) from None
    finally:
        stage.close()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


def slots(stage: str, device: str, resources: dict[str, float], gpus: bool) -> int:
    """How many actors a node with these resources has: one for each GPU, else one; for labels one for each CPU.

    gpus: whether the cluster has any; then CPUs do not encode unless told to, their dtype would be another one.
    """
    cpus = int(resources.get("CPU", 0))
    if stage == "label":
        return cpus
    if gpus and device != "cpu":
        return int(resources.get("GPU", 0))
    return min(cpus, 1)


class Told(NamedTuple):
    """How far a worker is."""

    photos: int
    """Of its shard, from the first one on …"""
    skipped: int
    """… those that were there before."""
    notes: list[str]


class Failed(NamedTuple):
    """What the user must fix: the text of a UserError, or an OSError's number and file."""

    node: str
    text: str
    number: int = 0
    file: str = ""

    def error(self) -> Exception:
        """To be raised where the command runs."""
        return OSError(self.number, self.text, self.file) if self.number else UserError(f"{self.node}: {self.text}")


class _Line(Progress):
    """Progress over the cluster; `workers` and `nodes` are in its line."""

    workers = nodes = 0

    def line(self) -> str:
        return f"{super().line()}, {self.workers} workers on {self.nodes} nodes"


class _Stage:
    """One stage on the cluster: its actors and what they are at."""

    def __init__(self, job: Job, shards: Sequence[Shard]):
        self._ray, self._job, self._shards = _ray(), job, shards
        self._board = Board(len(shards))
        self._actors: dict[int, Any] = {}
        self._nodes: dict[int, str] = {}
        self._ready_workers: set[int] = set()
        self._calls: dict[Any, tuple[int, str]] = {}
        self._starts: Counter[str] = Counter()
        self._photos: Counter[int] = Counter()
        self._line = _Line(sum(shard.stop - shard.start for shard in shards), "photos", job.stage.name)
        self._hired_at = self._seen_at = -float("inf")
        self._why_gone = ""
        self._number = 0

    def run(self, stopped: Callable[[], bool]) -> None:
        """Returns when all shards are finished."""
        self._seen_at = time.monotonic()
        while self._board.left:
            if stopped():
                raise SystemExit
            self._hire()
            for worker in self._board.idle(sorted(self._ready_workers)):
                if (shard := self._board.give(worker)) is not None:
                    self._call(worker, "do", self._shards[shard])
            done, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=_TURN_S) if self._calls else ([], [])
            for call in done:
                if call in self._calls:
                    self._answer(call)
            self._ask()
            self._line.add(0)

    def close(self) -> None:
        """Ends the actors: those that are still at a shard of another's are not needed."""
        self._line.close()
        for actor in self._actors.values():
            with suppress(self._ray.exceptions.RayError):  # the cluster may be gone
                self._ray.kill(actor)

    def _call(self, worker: int, method: str, *arguments: Any) -> None:
        self._calls[getattr(self._actors[worker], method).remote(*arguments)] = worker, method

    def _ask(self) -> None:
        """How far is everybody who was not asked yet?"""
        asked = {worker for worker, method in self._calls.values() if method == "told"}
        for worker, method in list(self._calls.values()):
            if method == "do" and worker not in asked:
                self._call(worker, "told")

    def _answer(self, call: Any) -> None:
        worker, method = self._calls.pop(call)
        try:
            answer = self._ray.get(call)
        except self._ray.exceptions.RayError as error:  # it, its node or its memory came to an end …
            of_task = isinstance(error, self._ray.exceptions.RayTaskError)
            if of_task and not isinstance(error.cause, self._ray.exceptions.RayError):
                raise  # … or a fault in what it does
            return self._lost(worker, self._why(error))
        if isinstance(answer, Failed):
            raise answer.error()
        if method == "open":
            self._ready_workers.add(worker)
        elif method == "told" and worker not in self._board.idle([worker]):
            self._tell(self._board.at(worker), answer)
        elif method == "do":
            shard = self._board.at(worker)
            whole = self._shards[shard].stop - self._shards[shard].start
            self._tell(shard, answer._replace(photos=whole))
            self._starts[self._nodes[worker]] = 0  # workers do well there: what ends one now and then is another thing
            self._board.finished(worker)
        return None

    def _tell(self, shard: int, report: Told) -> None:
        """Each photo counts once, whoever does it again; those of an earlier run do not count for the rate."""
        before = self._photos[shard]
        new = max(0, report.photos - before)
        skipped = min(new, max(0, report.skipped - before))
        self._photos[shard] += new
        self._line.skip(skipped)
        self._line.add(new - skipped)
        for note in report.notes:
            self._line.note(note)

    def _why(self, error: Exception) -> str:
        """What a note adds of why a worker is gone; nothing where all that Ray says is that it is."""
        if isinstance(error, self._ray.exceptions.OutOfMemoryError) or _MEMORY.search(str(error)):
            return _OUT_OF_MEMORY
        return "" if isinstance(error, self._ray.exceptions.RayActorError) else f" ({_first_line(error)})"

    def _lost(self, worker: int, why: str) -> None:
        if worker in self._actors:
            node = self._nodes.pop(worker)
            self._line.note(f"a worker on node {node[:8]} is gone{why}; its shard goes to another one")
            self._why_gone = why
            del self._actors[worker]
            self._ready_workers.discard(worker)
            self._calls = {call: at for call, at in self._calls.items() if at[0] != worker}
            self._board.lost(worker, why)
            self._hired_at = -float("inf")

    def _hire(self) -> None:
        """An actor for each device that has none. UserError when no node has one for long, or none stays alive."""
        time_s = time.monotonic()
        if time_s - self._hired_at < _NODES_S:
            return
        self._hired_at = time_s
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        gpus = any(node["Resources"].get("GPU") for node in nodes)
        stage, device = self._job.stage.name, self._job.stage.config.device
        if stage == "encode" and device == "cuda" and not gpus:
            raise UserError("device = 'cuda', but no node of the cluster has a GPU; set device to auto or cpu")
        for node in nodes:
            capacity = slots(stage, device, node["Resources"], gpus)
            hired = sum(where == node["NodeID"] for where in self._nodes.values())
            for _ in range(hired, capacity):
                if self._starts[node["NodeID"]] < capacity * _STARTS:
                    self._start(node, capacity)
        self._line.workers, self._line.nodes = len(self._actors), len(set(self._nodes.values()))
        if self._actors:
            self._seen_at = time_s
        elif time_s - self._seen_at > _ALONE_S or self._starts:
            fix = _LESS_MEMORY if self._why_gone == _OUT_OF_MEMORY else "see Ray's logs on the nodes"
            raise UserError(f"no node of the cluster has a worker that stays alive{self._why_gone}; {fix}")

    def _start(self, node: dict[str, Any], workers: int) -> None:
        affinity = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        encodes = self._job.stage.name == "encode"
        gpu = int(encodes and self._job.stage.config.device != "cpu" and bool(node["Resources"].get("GPU")))
        options = {
            "num_gpus": gpu,
            "num_cpus": max(1, int(node["Resources"].get("CPU", 1)) // workers) if encodes else 1,
            "max_concurrency": 2,  # a shard, and how far it is
            "scheduling_strategy": affinity(node["NodeID"], soft=False),
        }
        self._number += 1
        self._starts[node["NodeID"]] += 1
        self._nodes[self._number] = node["NodeID"]
        self._actors[self._number] = self._ray.remote(ShardWorker).options(**options).remote(self._job)
        self._call(self._number, "open")


class Running(NamedTuple):
    """A shard in work."""

    shard: int
    since: float


class Board:
    """The shards of a stage by their places 0 … count - 1, and the workers at them, by any number of their own."""

    def __init__(self, count: int, clock: Callable[[], float] = time.monotonic):
        self._waiting = deque(range(count))
        self._unfinished = set(range(count))
        self._running: dict[int, Running] = {}
        self._seconds: list[float] = []
        self._deaths: Counter[int] = Counter()
        self._clock = clock

    @property
    def left(self) -> int:
        """Shards that are not finished."""
        return len(self._unfinished)

    def idle(self, workers: Iterable[int]) -> list[int]:
        """Those that have no shard."""
        return [worker for worker in workers if worker not in self._running]

    def at(self, worker: int) -> int:
        """The shard of a worker that has one."""
        return self._running[worker].shard

    def give(self, worker: int) -> int | None:
        """The next shard for an idle worker: one that waits, else a straggler; None when there is neither."""
        shard = self._waiting.popleft() if self._waiting else self._straggler()
        if shard is not None:
            self._running[worker] = Running(shard, self._clock())
        return shard

    def finished(self, worker: int) -> int:
        """The shard of `worker` is finished, by it or by another; which one that is."""
        shard, since = self._running.pop(worker)
        self._unfinished.discard(shard)
        self._seconds.append(self._clock() - since)
        return shard

    def lost(self, worker: int, why: str = "") -> None:
        """The worker is gone: its shard waits again, first of all, unless another one has it.

        why: nothing, or " (the reason)". UserError where too many were lost at this shard.
        """
        if (running := self._running.pop(worker, None)) is None or running.shard not in self._unfinished:
            return
        self._deaths[running.shard] += 1
        if self._deaths[running.shard] == DEATHS:
            logs = "" if why == _OUT_OF_MEMORY else "see Ray's logs for why; if it is memory, "
            raise UserError(f"{DEATHS} workers died, one after the other, at one shard{why}; {logs}{_LESS_MEMORY}")
        if running.shard not in {other.shard for other in self._running.values()}:
            self._waiting.appendleft(running.shard)

    def _straggler(self) -> int | None:
        """The shard that one worker alone has had longest, if that is far longer than the others took."""
        workers = Counter(run.shard for run in self._running.values())
        alone = [run for run in self._running.values() if workers[run.shard] == 1 and run.shard in self._unfinished]
        oldest = min(alone, key=lambda run: run.since, default=None)
        if oldest is None or not self._seconds:
            return None
        late = self._clock() - oldest.since > max(SLOW * statistics.median(self._seconds), LEAST_S)
        return oldest.shard if late else None


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
        job = self._job
        try:
            os.chdir(job.folder)
        except OSError as error:
            raise UserError(
                f"{job.folder}: {error.strerror}, though the command was started there; start it in a folder that all "
                "nodes have, best the repository on the shared disk"
            ) from None
        check_shared(job.stage.data, job.token)
        self._work = job.stage.begin(StageTimes())
        self._work.open(self._work.shards)

    def _do(self, shard: Shard) -> None:
        self._tally.begin()
        try:
            self._work.do(shard, self._tally, spare=True)
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
