"""RUN at a url: what lies there at each moment, what is brought and sent; a kill at any request does no harm."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import LocalFileSystem

from fmbseg_jax.runs.checkpoint import Checkpoints, restore_run
from fmbseg_jax.runs.run_folder import open_run
from fmbseg_jax.training.logs import open_log
from labelgen.core.errors import UserError
from labelgen.core.remote import Remote
from tests.worlds.checkpoints import IDENTITY, PROTOTYPES, facts, kept, same, train
from tests.worlds.stepping import CE, LINEAR, Bench, mesh_of

Request = tuple[str, str]


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(mesh_of(1, 1), LINEAR, CE)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a RUN at a url. Losses 3, 1, 2, 4: the best is 2, the latest two 3 and 4."""
    store = tmp_path_factory.mktemp("store") / "run"
    train(Bench(mesh_of(1, 1), LINEAR, CE), open_run(f"file://{store}"), [3.0, 1.0, 2.0, 4.0])
    return store


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(name="requests")
def requests_fixture(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Request]]:
    """(what, name) of each request, in order."""
    seen: list[Request] = []
    for what in ("read", "write", "delete"):
        real = getattr(Remote, what)

        def asked(self: Remote, name: str, *more: Any, what: str = what, real: Any = real) -> Any:
            seen.append((what, name))
            return real(self, name, *more)

        monkeypatch.setattr(Remote, what, asked)
    return seen


def restored(store: Path, bench: Bench, notes: list[str]) -> tuple[int, Any]:
    checkpoints = Checkpoints(open_run(f"file://{store}"), PROTOTYPES, facts())
    step, state, feed = checkpoints.restore(bench.state, IDENTITY, notes.append)
    checkpoints.close()
    assert feed == {"next_index": step}
    return step, state


def test_the_store_holds_what_a_folder_would(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    states = train(Bench(mesh_of(1, 1), LINEAR, CE), folder, [3.0, 1.0, 2.0, 4.0])
    assert kept(trained) == kept(folder) == [2, 3, 4]
    for which, step in (("best", 2), ("latest", 4)):
        for run in (folder, trained, f"file://{folder}", f"file://{trained}"):  # each may be copied to the other
            found = restore_run(run, which)
            assert found.step == step and same(found.params, states[step - 1].params["head"])


def test_a_finished_run_goes_on_from_the_latest(store: Path, bench: Bench) -> None:
    notes: list[str] = []
    step, state = restored(store, bench, notes)
    assert step == 4 and not notes and same(state.params["head"], restore_run(store, "latest").params)


def test_the_mark_is_sent_last_and_deleted_first(store: Path, bench: Bench, requests: list[Request]) -> None:
    run = open_run(f"file://{store}")
    checkpoints = Checkpoints(run, PROTOTYPES, facts())
    _, state, _ = checkpoints.restore(bench.state, IDENTITY)
    requests.clear()
    checkpoints.save(5, state, {"next_index": 5}, 5.0)
    checkpoints.close()
    assert kept(store) == [2, 4, 5]
    mark = "commit_success.txt"
    assert requests[:2] == [("delete", f"checkpoints/5/{mark}"), ("delete", "checkpoints/5")], "it may be a rest"
    assert {what for what, _ in requests[2:-3]} == {"write"} and len(requests) > 15
    assert all(name.startswith("checkpoints/5/") and name != f"checkpoints/5/{mark}" for _, name in requests[2:-3])
    last = [("write", f"checkpoints/5/{mark}"), ("delete", f"checkpoints/3/{mark}"), ("delete", "checkpoints/3")]
    assert requests[-3:] == last, "never less than two"


def test_evaluation_brings_no_moments_and_one_checkpoint(trained: Path, requests: list[Request]) -> None:
    assert restore_run(f"file://{trained}").step == 2
    items = {tuple(file.split("/")[1:3]) for what, file in requests}
    assert ("2", "params") in items and not [item for item in items if item[1] == "moments"]
    assert {item[1] for item in items if item[0] != "2"} == {"metrics", "_CHECKPOINT_METADATA", "commit_success.txt"}
    assert {what for what, _ in requests} == {"read"}


def test_a_save_that_was_cut_off_is_deleted_and_its_step_saved_again(store: Path, bench: Bench) -> None:
    (store / "checkpoints/4/commit_success.txt").unlink()
    (store / "checkpoints/4/params/left").write_text("over")
    assert restore_run(f"file://{store}", "latest").step == 3, "evaluation leaves it alone: it may be on its way"
    assert (store / "checkpoints/4").exists()
    notes: list[str] = []
    assert restored(store, bench, notes)[0] == 3
    assert notes == [f"file://{store}/checkpoints/4 was cut off while it was written: deleted"]
    train_on(store, bench, 4)
    assert kept(store) == [2, 3, 4] and not list((store / "checkpoints/4").rglob("left"))


def train_on(store: Path, bench: Bench, to: int) -> None:
    checkpoints = Checkpoints(open_run(f"file://{store}"), PROTOTYPES, facts())
    step, state, _ = checkpoints.restore(bench.state, IDENTITY)
    for i in range(step, to):
        state, _ = bench.step(state, bench.batch(i), bench.teacher)
        checkpoints.save(i + 1, state, {"next_index": i + 1}, 5.0)
    checkpoints.close()


def test_broken_ones_are_set_aside_in_the_store(store: Path, bench: Bench) -> None:
    for name in ("broken-4", "broken-4-1"):
        for file in (store / "checkpoints/4/params").rglob("d/*"):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        notes: list[str] = []
        assert restored(store, bench, notes)[0] == 3
        assert len(notes) == 1 and "checkpoints/4 is broken" in notes[0] and f"it is now {name}; going" in notes[0]
        aside = store / "checkpoints" / name
        assert (aside / "meta/metadata").exists() and not (aside / "commit_success.txt").exists()
        train_on(store, bench, 4)
        assert restore_run(f"file://{store}", "latest").step == 4


@pytest.mark.parametrize("requests_done", [1, 15, 37, 38])
def test_killed_at_any_request_of_a_save_it_goes_on(
    store: Path, bench: Bench, requests_done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [requests_done]

    def killed(real: Any) -> Any:
        def request(*arguments: Any) -> Any:
            if left[0] <= 0:
                raise PermissionError("killed")
            left[0] -= 1
            return real(*arguments)

        return request

    with monkeypatch.context() as patch:
        for what in ("pipe_file", "rm"):
            patch.setattr(LocalFileSystem, what, killed(getattr(LocalFileSystem, what)))
        with pytest.raises(UserError, match="killed"):
            train_on(store, bench, 5)
    assert restore_run(f"file://{store}", "latest").step in (4, 5)
    assert restore_run(f"file://{store}", "best").step == 2
    train_on(store, bench, 5)
    assert kept(store) == [2, 4, 5]


def test_lines_up_to_the_checkpoint_come_back_and_events_are_kept(tmp_path: Path) -> None:
    for start in (0, 2):
        run = open_run(f"file://{tmp_path}/run")
        log = open_log(run, start)
        for step in range(start + 1, start + 4):
            log.write(step, {"loss": float(step)})
        run.send()
        log.write(start + 4, {"loss": 0.0})  # after the last save
        log.close()
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [f'{{"step": {step}' for step in range(1, 6)]
    assert len(list((tmp_path / "run").glob("events*"))) == 2


def test_what_did_not_change_is_not_sent_again(tmp_path: Path, requests: list[Request]) -> None:
    run = open_run(f"file://{tmp_path}/run")
    for name in ("config.json", "eval/val.json"):
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).write_text("{}")
        run.send()
    assert requests == [("write", "config.json"), ("write", "eval/val.json")]


def test_a_url_without_checkpoints_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing: no checkpoints in it; train first: fmbseg_jax.train --workdir=file:"):
        restore_run(f"file://{tmp_path}/nothing")
