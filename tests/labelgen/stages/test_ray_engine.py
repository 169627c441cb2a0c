"""The labelling command on a Ray cluster, its nodes processes of this machine: the bytes of one local worker."""

import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from labelgen.core.errors import UserError
from labelgen.data.shards import Shard
from labelgen.stages import cluster as cluster_module
from labelgen.stages.cluster import Head, Job, Told, run_stage, slots
from tests.worlds import stub_run
from tests.worlds.labelgen_run import SCRIPT, process, run, same
from tests.worlds.paths import ROOT

pytestmark = pytest.mark.serial
MEMORY = 80 << 20
STUCK = {"STUB_SECONDS": "1000"}


@pytest.fixture(scope="module", name="world")
def world_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    stub_run.write_world(folder, photos=24)
    return folder


@pytest.fixture(scope="module", name="whole")
def whole_fixture(world: Path) -> Path:
    """DATA of one local worker."""
    assert run(world, world / "whole") == 0
    return world / "whole"


@pytest.fixture(scope="module", name="pace")
def pace_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that says how many seconds a photo takes on the cluster's nodes."""
    path = tmp_path_factory.mktemp("pace") / "seconds"
    path.write_text("0")
    return path


@pytest.fixture(scope="module", name="cluster")
def cluster_fixture(pace: Path) -> Iterator[Any]:
    """A head without a device, and one node; tests add others."""
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 500}
    head = {"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False, "_system_config": quick}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    add_node(cluster, {"STUB_PACE": str(pace)})
    yield cluster
    cluster.shutdown()


def add_node(cluster: Any, environment: dict[str, str]) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=MEMORY, env_vars=environment)


def on_cluster(cluster: Any, world: Path, data: Path, *more: str) -> subprocess.Popen[str]:
    """As launch/ray_label.sh starts it, from another folder than the repository."""
    python = world / "python"
    python.write_text(f'#!/bin/bash\n[[ "$1 $2" == "-m labelgen.run" ]] && exec {shlex.join(SCRIPT)} "${{@:3}}"\n')
    python.chmod(stat.S_IRWXU)
    script = ["bash", f"{ROOT}/launch/ray_label.sh", cluster.address, f"{world}/config.py", str(data), *more]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHON": str(python), "STUB_LEAST_S": "0.5"}
    pipe = subprocess.PIPE
    return subprocess.Popen(script, env=environment, cwd=world, stdout=pipe, stderr=pipe, text=True)


def writers(data: Path) -> set[str]:
    """Files of shards in work that have a record."""
    return {str(path) for path in data.glob("features/*.partial/*") if path.stat().st_size}


def wait_for_writers(command: subprocess.Popen[str], data: Path, count: int) -> None:
    while len(writers(data)) < count:
        assert command.poll() is None, command.communicate()
        time.sleep(0.05)


def test_a_node_dies_the_command_is_stopped_and_the_next_one_has_a_straggler(
    cluster: Any, pace: Path, world: Path, whole: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    pace.write_text("2")
    dies = add_node(cluster, {"STUB_PACE": str(pace)})
    stopped = on_cluster(cluster, world, data, "--stage=encode")
    wait_for_writers(stopped, data, 2)
    cluster.remove_node(dies, allow_graceful=False)
    error = read_until(stopped, "is gone; its shard goes to another one")
    stopped.terminate()
    error += stopped.communicate(timeout=60)[1]
    assert stopped.returncode == 75, error
    assert "stopped; the same command goes on from here" in error
    assert not (data / "cluster.json").exists()
    pace.write_text("0.02")
    stuck = add_node(cluster, STUCK)
    again = on_cluster(cluster, world, data)
    _, error = again.communicate(timeout=300)
    assert again.returncode == 0, error
    assert same(data, whole)
    cluster.remove_node(stuck, allow_graceful=False)


def read_until(command: subprocess.Popen[str], text: str) -> str:
    """What the command says on stderr, up to the line with `text`."""
    read = ""
    assert command.stderr
    while text not in read:
        line = command.stderr.readline()
        assert line, read
        read += line
    return read


def test_a_workers_error_is_one_line(cluster: Any, world: Path, tmp_path: Path) -> None:
    command = on_cluster(cluster, world, tmp_path / "data", "--config.weights_dir=broken")
    _, error = command.communicate(timeout=120)
    assert command.returncode == 2
    assert error.count("error:") == 1 and "Traceback" not in error
    assert error.splitlines()[-1].startswith("error: node ") and "broken: no weights there" in error.splitlines()[-1]


def test_interrupted_on_a_cluster_started_here(world: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    command = process(world, tmp_path / "data", "--engine=ray", seconds=0.2)
    wait_for_writers(command, tmp_path / "data", 1)
    command.send_signal(signal.SIGINT)
    _, error = command.communicate(timeout=60)
    assert command.returncode == 75 and "Traceback" not in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--worker=0/2"], "--worker is for job arrays; --engine=ray shares the work out by itself"),
        (["--config.device=cuda:1"], "device = 'cuda:1'; with --engine=ray each worker has its own GPU"),
    ],
)
def test_what_does_not_go_together(world: Path, tmp_path: Path, capsys: Any, flags: list[str], message: str) -> None:
    assert run(world, tmp_path / "data", "--engine=ray", *flags) == 2
    assert message in capsys.readouterr().err


def test_the_script_says_what_it_wants() -> None:
    done = subprocess.run(["bash", f"{ROOT}/launch/ray_label.sh", "host:6379"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("usage: launch/ray_label.sh HOST:PORT CONFIG DATA")


def test_an_address_where_nothing_answers_is_refused_at_once(world: Path, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unheard.getsockname()[1]}"
        assert run(world, tmp_path / "data", "--engine=ray", f"--ray_address={address}") == 2
    assert f"error: --ray_address={address}: Connection refused; name a running cluster" in capsys.readouterr().err


def test_without_ray_it_says_what_to_install(
    world: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(world, tmp_path / "data", "--engine=ray") == 2
    assert "--engine=ray wants Ray: pip install the version of requirements.txt" in capsys.readouterr().err


def test_ctrl_c_that_is_ignored_stays_ignored(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert run(world, tmp_path / "data", "--engine=ray") == 2
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


class Call:
    """A method that was called."""

    def __init__(self, method: str) -> None:
        self.method = method


class OneNode:
    """Ray with a node of one device, whose workers answer at once; of the shards given out the first ones fail."""

    def __init__(self, exceptions: Any, errors: list[Exception | None], of_ray: Exception | None = None) -> None:
        """errors: of the shards given out, None where one is finished; of_ray: what asking for the nodes raises."""
        self.exceptions, self._errors, self._of_ray = exceptions, errors, of_ray

    def nodes(self) -> list[dict[str, Any]]:
        if self._of_ray:
            raise self._of_ray
        return [{"NodeID": "0a" * 28, "Alive": True, "Resources": {"CPU": 1.0}}]

    def remote(self, worker: type) -> Any:
        methods = {name: SimpleNamespace(remote=lambda *_, name=name: Call(name)) for name in ("open", "do", "told")}
        started = SimpleNamespace(remote=lambda job: SimpleNamespace(**methods))
        return SimpleNamespace(options=lambda **_: started)

    def wait(self, calls: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return calls[:num_returns], calls[num_returns:]

    def get(self, call: Call) -> Told:
        if call.method == "do" and self._errors and (error := self._errors.pop(0)):
            raise error
        return Told(0, 0, [])

    def kill(self, actor: Any) -> None:
        pass


@pytest.fixture(name="on_one_node")
def on_one_node_fixture(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that has a stage of some shards done by OneNode whose workers fail with these errors of Ray."""
    exceptions = pytest.importorskip("ray.exceptions", reason="Ray is not installed")
    pytest.importorskip("ray.util.scheduling_strategies")

    def made(error: Any) -> Any:
        """Of a name and arguments; an argument may be an error too."""
        if not isinstance(error, tuple):
            return error
        return getattr(exceptions, error[0])(*map(made, error[1:]))

    def work(*errors: tuple[Any, ...] | None, of_ray: tuple[Any, ...] | None = None, shards: int = 2) -> None:
        monkeypatch.setitem(sys.modules, "ray", OneNode(exceptions, [*map(made, errors)], made(of_ray)))
        job = Job(SimpleNamespace(name="encode", config=SimpleNamespace(device="cpu")), "", "")
        run_stage(job, [Shard("train", i, shards, 2 * i, 2 * i + 2) for i in range(shards)], lambda: False)

    return work


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (("ActorDiedError",), ""),
        (("ActorUnavailableError", "no answer", None), ""),
        (("RayActorError", None, "The actor died: its node was running low on memory."), " (out of memory)"),
        (("ObjectStoreFullError", "the object store is full"), " ("),
        (("RayTaskError", "do", "", ("OutOfDiskError", "the disk is full")), " ("),
        (("OutOfMemoryError", "Task was killed due to the node running low on memory.\nmore"), " (out of memory)"),
        (("NodeDiedError", "a node\nhas died"), " (a node)"),
        (("WorkerCrashedError",), " (The worker died unexpectedly while executing this task."),
        (("ActorUnschedulableError", "no such node"), " (The actor is not schedulable: no such node)"),
    ],
)
def test_a_worker_that_ends_for_whatever_reason_gives_its_shard_back(
    on_one_node: Any, capsys: Any, error: tuple[Any, ...], why: str
) -> None:
    on_one_node(error, error)
    said = capsys.readouterr().err
    assert said.count(f"a worker on node 0a0a0a0a is gone{why}") == said.count("its shard goes to another one") == 2


def test_workers_that_always_end_end_the_command_in_one_line(on_one_node: Any) -> None:
    with pytest.raises(UserError, match="no node of the cluster has a worker that stays alive; see Ray's logs on the"):
        on_one_node(*[("ActorDiedError",)] * 9)
    with pytest.raises(
        UserError, match=r"stays alive \(out of memory\); give Ray fewer CPUs of each node .* same comm"
    ):
        on_one_node(*[("OutOfMemoryError", "of the node")] * 9)


def test_a_node_that_loses_a_worker_now_and_then_goes_on(on_one_node: Any, capsys: Any) -> None:
    on_one_node(*[("OutOfMemoryError", "of the node"), None] * 9, shards=9)
    assert capsys.readouterr().err.count("is gone (out of memory); its shard goes to another one") == 9


@pytest.mark.parametrize("name", ["RpcError", "RaySystemError", "LocalRayletDiedError"])
def test_a_cluster_that_cannot_be_asked_ends_the_command_in_one_line(on_one_node: Any, name: str) -> None:
    said = () if name == "LocalRayletDiedError" else ("Deadline Exceeded\nmore",)
    with pytest.raises(
        UserError, match=r"^Ray: .*[^\n]*; see whether the cluster still runs .*the same command goes on"
    ):
        on_one_node(of_ray=(name, *said))


def test_a_head_that_is_gone_ends_the_command_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "_SILENT_S", 0.0)
    monkeypatch.setattr(cluster_module, "_TURN_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as there:
        address = f"127.0.0.1:{there.getsockname()[1]}"
        head = Head(address)
        head.check()
    head.check()  # it was asked just now
    with pytest.raises(
        UserError, match=rf"the head of the Ray cluster, {address}, does not answer .*Connection refused"
    ):
        Head(address).check()


def test_a_fault_in_a_workers_work_is_raised(on_one_node: Any) -> None:
    with pytest.raises(Exception, match="ZeroDivisionError: by nothing") as raised:
        on_one_node(("RayTaskError", "do", "ZeroDivisionError: by nothing", ZeroDivisionError()))
    assert type(raised.value).__name__ == "RayTaskError"


def test_the_local_engine_loads_no_ray(world: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from tests.worlds import stub_run\n"
        "assert stub_run.main(sys.argv[1:]) == 0; print('ray' in sys.modules)"
    )
    flags = [f"--config={world}/config.py", f"--out={tmp_path}/data", "--limit=1"]
    out = subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True)
    assert out.stdout.splitlines()[-1] == "False", out.stderr


def test_an_actor_for_each_device() -> None:
    small, large = {"CPU": 8.0}, {"CPU": 32.0, "GPU": 4.0}
    assert [slots("encode", "auto", node, gpus=True) for node in (small, large)] == [0, 4]
    assert [slots("encode", "cpu", node, gpus=True) for node in (small, large)] == [1, 1]
    assert [slots("encode", "auto", node, gpus=False) for node in (small, {})] == [1, 0]
    assert [slots("label", "cuda", node, gpus=True) for node in (small, large)] == [8, 32]
