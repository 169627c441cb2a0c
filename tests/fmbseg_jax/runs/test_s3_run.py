"""RUN on a real S3 server: killed, cut off, stopped on two hosts, evaluated; to the bit what a folder has."""

import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fmbseg_jax import evaluate, predict
from fmbseg_jax.runs import hosts as fmbseg_hosts
from fmbseg_jax.runs.checkpoint import restore_run
from labelgen.core.command import command
from labelgen.core.config import load_config
from tests.worlds import tiny
from tests.worlds.paths import ROOT
from tests.worlds.processes import HOST_RUN, hosts, pair
from tests.worlds.run import write_run
from tests.worlds.s3 import forget_credentials
from tests.worlds.synthetic import write_data
from tests.worlds.training import argv, digests, metrics, train

pytestmark = [pytest.mark.serial, pytest.mark.usefixtures("fresh_connections")]
FIELDS = {"train_save_every": 20, "train_log_every": 1, "train_resident_share": 0, "head_hidden": 24}
DATA = "s3://bucket/data"
CACHED = {"JAX_ENABLE_COMPILATION_CACHE": "true"}


@pytest.fixture(scope="module")
def data(s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DATA, which lies in s3://bucket/data too."""
    folder = write_data(tmp_path_factory.mktemp("data") / "data")
    s3.put(str(folder), "bucket/data", recursive=True)
    return folder


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RUN of an uninterrupted training in folders."""
    workdir = tmp_path_factory.mktemp("whole")
    assert train(data, workdir, **FIELDS) == 0
    return workdir


def on_s3(run: str, **fields: Any) -> list[str]:
    return ["-m", "fmbseg_jax.train", *argv(DATA, run, **FIELDS, **fields)]


def wait_for_object(s3: Any, path: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not s3.exists(path):
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.05)


def fetched(s3: Any, run: str, folder: Path) -> Path:
    """The RUN of a url as a folder."""
    for file in s3.find(run):
        path = folder / file.removeprefix(run.removeprefix("s3://")).lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(s3.cat_file(file))
    return folder


def assert_same_run(there: Path, whole: Path) -> None:
    """The same checkpoints to the bit, figures and summary."""
    assert digests(there) == digests(whole)
    assert metrics(there) == metrics(whole)
    assert (there / "summary.json").read_bytes() == (whole / "summary.json").read_bytes()


@pytest.fixture(scope="module")
def killed(s3: Any, data: Path, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run at s3://bucket/killed left that was killed after a checkpoint, and went on to the end."""
    run, log = "s3://bucket/killed", tmp_path_factory.mktemp("log")
    line = [*HOST_RUN, *on_s3(run)]
    with hosts([line], log, 4, HOST_SECONDS="0.05", **CACHED) as started:
        wait_for_object(s3, f"{run}/checkpoints/20/commit_success.txt")
        started.processes[0].kill()
        assert started.end()[0].code == -signal.SIGKILL
    assert not s3.exists(f"{run}/summary.json")
    with hosts([[*line, "--trust_compiled"]], log, 4, **CACHED) as started:
        (ended,) = started.end()
        assert ended.code == 0 and "going on from step" in ended.err, ended.err
        assert started.record(0)["cache"]["cache_hits"] > 3, "the step among them: it is in RUN"
    assert s3.glob(f"{run}/compiled/jit_step-*")
    return fetched(s3, run, log / "run")


def test_killed_on_s3_it_goes_on_to_the_bits_of_a_run_on_disk(killed: Path, whole: Path) -> None:
    assert_same_run(killed, whole)
    events = EventAccumulator(str(killed))
    events.Reload()
    assert {event.step for event in events.Scalars("loss")} == set(range(1, 61))


def test_a_checkpoint_without_all_its_objects_is_passed_over(
    s3: Any, killed: Path, whole: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = "s3://bucket/cut"
    s3.put(f"{killed}/", run, recursive=True)
    s3.rm([file for file in s3.find(f"{run}/checkpoints/60/params") if "/d/" in file])
    monkeypatch.setattr(fmbseg_hosts, "errors", lambda: sys.stderr)  # as it is now
    assert train(DATA, run, **FIELDS) == 0
    error = capsys.readouterr().err
    assert f"{run}/checkpoints/60 is broken" in error and "going on from step 40" in error
    aside = s3.find(f"{run}/checkpoints/broken-60")
    assert aside
    s3.rm(aside)
    assert_same_run(fetched(s3, run, tmp_path), whole)


def test_two_processes_are_stopped_on_s3_and_one_goes_on(s3: Any, whole: Path, tmp_path: Path) -> None:
    run = "s3://bucket/two"
    fields = [f"--config.{name}" for name in ("mesh.model=2", "mesh.data=2")]
    with hosts(
        pair(lambda how: [*on_s3(run, distributed=how), *fields]), tmp_path / "two", 2, HOST_SECONDS="0.1", **CACHED
    ) as two:
        wait_for_object(s3, f"{run}/checkpoints/20/commit_success.txt")
        two.processes[1].send_signal(signal.SIGTERM)
        ended = two.end()
    assert [end.code for end in ended] == [75, 75], "\n".join(end.err for end in ended)
    step = int(ended[0].out.split("stopped and saved at step ")[1].split()[0])
    assert s3.exists(f"{run}/checkpoints/{step}/commit_success.txt") and 20 <= step < 60
    stopped = restore_run(run, "latest")
    assert stopped.step == step and np.array_equal(stopped.prototypes, restore_run(whole).prototypes)
    assert train(DATA, run, **FIELDS) == 0
    for line, like in zip(metrics(fetched(s3, run, tmp_path / "run")), metrics(whole), strict=True):
        assert line == pytest.approx(like, rel=2e-3, abs=1e-4)


def test_evaluate_and_predict_read_and_write_on_s3_what_they_do_on_disk(s3: Any, tmp_path: Path) -> None:
    default = str(ROOT / "configs/default.py")
    folder = tiny.write_data(tmp_path / "data"), write_run(tmp_path / "run", load_config(default))
    bucket = "s3://bucket/tiny/data", "s3://bucket/tiny/run"
    for path, url in zip(folder, bucket, strict=True):
        s3.put(f"{path}/", url, recursive=True)
    masks = []
    for data, run in (folder, bucket):
        line = [f"--config={default}", f"--data={data}", f"--workdir={run}", "--config.eval.splits=eval"]
        assert command(evaluate.main, evaluate.arguments(), line) == 0
        out = tmp_path / str(len(masks))
        assert command(predict.main, predict.arguments(), [f"--data={data}", f"--workdir={run}", f"--out={out}"]) == 0
        masks.append({path.relative_to(out): path.read_bytes() for path in out.rglob("*.png")})
    assert s3.cat(f"{bucket[1]}/eval/eval.json") == (folder[1] / "eval/eval.json").read_bytes()
    assert masks[0] == masks[1] and len(masks[0]) > 3


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("s3://nobucket/run", "s3://nobucket/run: not there; check the url, and make the bucket"),
        ("gs://bucket/run", "pip install gcsfs"),
        ("nowhere://bucket/run", "nowhere://bucket/run: cannot be read (ValueError: Protocol not known: nowhere)"),
    ],
)
def test_a_run_that_cannot_be_is_said_in_one_line(data: Path, capsys: Any, run: str, message: str) -> None:
    assert train(data, run, **FIELDS) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_run_without_credentials(data: Path, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_credentials(monkeypatch, tmp_path)
    assert train(data, "s3://bucket/run", **FIELDS) == 2
    assert "AWS_ACCESS_KEY_ID and AWS_SECRET" in capsys.readouterr().err
