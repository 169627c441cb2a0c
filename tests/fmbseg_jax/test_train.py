"""The training command: it learns what the labels say, reads no truth, goes on where it was, and says what is wrong."""

import itertools
import json
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fmbseg_jax.reporting.figures import training
from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.checkpoint import restore_run
from fmbseg_jax.runs.settings import FeedConfig
from fmbseg_jax.train import arguments
from fmbseg_jax.train import train as train_until
from fmbseg_jax.training.feed import free_labels, split_rows
from fmbseg_jax.training.task import choose_rows
from labelgen.core.command import command
from labelgen.core.files import read_json, write_json
from labelgen.core.ontology import class_scores, parse_words
from labelgen.data.dataset import Dataset
from labelgen.data.records import FeatureRow, TruthRow
from tests.worlds.data import write_words
from tests.worlds.paths import ROOT
from tests.worlds.synthetic import ONTOLOGY, WIDTH, keep_labels, unit_rows, write_data, write_evidence
from tests.worlds.training import argv, digests, metrics, start, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "data")


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    assert train(data, workdir) == 0
    return workdir


def truth_accuracy(data: Path, workdir: Path, untrained: int | None = None) -> float:
    """Share of valid patches of all photos whose class, by the head of RUN or of a random key, is the true one."""
    opened, restored = Dataset.open(data), restore_run(workdir)
    head, valid = restored.head_module("cpu"), jnp.ones((1, *restored.grid_hw), bool)
    nothing = jnp.zeros((1, *restored.grid_hw, restored.feature_width))
    params = (
        head.init(jax.random.key(untrained), nothing, valid)["params"] if untrained is not None else restored.params
    )
    apply = jax.jit(head.apply)
    hits = []
    for i in range(opened.count("train")):
        view = FeatureRow.decode(opened.reader("features", "train")[i])
        h, w = view.grid_hw
        z = np.asarray(apply({"params": params}, view.features[None], valid))
        classes = class_scores(z[0] @ restored.prototypes.T, restored.ontology.word_class).argmax(-1)
        truth = TruthRow.decode(opened.reader("truth", "train")[i]).label_map[::4, ::4]
        hits.append((classes[:h, :w] == truth).ravel())
    return float(np.concatenate(hits).mean())


def test_a_trained_head_names_patches_and_an_untrained_one_does_not(data: Path, run: Path) -> None:
    assert truth_accuracy(data, run) > 0.9
    assert np.mean([truth_accuracy(data, run, untrained=key) for key in range(3)]) < 0.5


def test_what_a_run_leaves(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    lines = metrics(run)
    held_out = {line["step"]: line["held_out_loss"] for line in lines if "held_out_loss" in line}
    assert set(held_out) == {20, 40, 60}
    best = min(held_out, key=lambda step: (held_out[step], -step))
    assert summary == {"step": 60, "best_step": best, "best_held_out_loss": held_out[best]}
    assert restore_run(run).step == best
    assert [line["step"] for line in lines if "loss" in line] == list(range(5, 61, 5))
    config = read_json(run / "config.json", "")
    assert config["config"]["train"]["steps"] == 60 and config["ontology"] == ONTOLOGY.to_json()


def test_tensorboard_reads_the_events(run: Path) -> None:
    events = EventAccumulator(str(run))
    events.Reload()
    logged = {line["step"]: line["loss"] for line in metrics(run) if "loss" in line}
    assert {event.step: event.value for event in events.Scalars("loss")} == pytest.approx(logged)
    assert [event.step for event in events.Scalars("held_out_loss")] == [20, 40, 60]


def test_shuffled_labels_are_noticed(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", shuffled=True)
    assert train(data, tmp_path / "run") == 0
    assert truth_accuracy(data, tmp_path / "run") < 0.7
    assert metrics(tmp_path / "run")[-1]["held_out_agreement"] < 0.7


def test_truth_is_not_opened_and_without_it_training_is_bit_equal(data: Path, run: Path, tmp_path: Path) -> None:
    blind = Path(shutil.copytree(data, tmp_path / "data"))
    shutil.rmtree(blind / "truth")
    assert train(blind, tmp_path / "run") == 0
    assert digests(tmp_path / "run") == digests(run)


def test_the_oracle_reads_truth_and_nothing_else_would_do(data: Path, tmp_path: Path, capsys: Any) -> None:
    wrong = write_data(tmp_path / "data", shuffled=True)
    assert train(wrong, tmp_path / "oracle", train_targets="truth") == 0
    assert truth_accuracy(wrong, tmp_path / "oracle") > 0.95
    shutil.rmtree(wrong / "truth")
    assert train(wrong, tmp_path / "other", train_targets="truth") == 2
    assert "truth/train-00000-of-00003.tfrecord" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fields",
    [
        {"train_loss": "t_supcon", "train_supcon_samples": 64, "train_supcon_prototype_weight": 20.0},
        {"train_soft_targets": False, "head_hidden": 24, "train_learn_temperature": True, "head_dtype": "bfloat16"},
        {"head_blocks": 1, "train_patches_per_photo": 0, "mesh_model": 2},
    ],
)
def test_every_way_to_train_learns(data: Path, tmp_path: Path, fields: dict[str, Any]) -> None:
    assert train(data, tmp_path, **fields) == 0
    assert metrics(tmp_path)[-1]["held_out_agreement"] > 0.9


def test_a_finished_run_says_so_and_changes_nothing(data: Path, run: Path, capsys: Any) -> None:
    before = digests(run)
    assert train(data, run) == 0
    assert "is trained already, to step 60; next: python -m fmbseg_jax.evaluate" in capsys.readouterr().out
    assert digests(run) == before


def test_the_dense_map_is_fitted_once_and_kept(data: Path, tmp_path: Path, capsys: Any) -> None:
    mapped = Path(shutil.copytree(data, tmp_path / "data"))
    write_evidence(mapped)
    assert train(mapped, tmp_path / "whole") == 0
    whole = restore_run(tmp_path / "whole").dense_map
    assert whole is not None and whole.shape == (WIDTH + 1, restore_run(tmp_path / "whole").prototypes.shape[1])
    asked = itertools.count()

    def preempted() -> bool:
        return next(asked) > 25

    assert command(lambda args: train_until(args, preempted), arguments(), argv(mapped, tmp_path / "run")) == 75
    shutil.rmtree(mapped / "evidence")
    capsys.readouterr()
    assert train(mapped, tmp_path / "run") == 0
    assert train(mapped, tmp_path / "run") == 0
    said = capsys.readouterr()
    assert "going on from step" in said.err and "is trained already" in said.out and "no dense map" not in said.err
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")
    assert np.array_equal(restore_run(tmp_path / "run").dense_map, whole)


def test_a_training_without_evidence_says_so_at_its_start_alone(data: Path, tmp_path: Path, capsys: Any) -> None:
    assert train(data, tmp_path) == 0
    assert capsys.readouterr().err.count("no dense map, words new to the head") == 1
    assert train(data, tmp_path) == 0
    assert "no dense map" not in capsys.readouterr().err


def wait_for(workdir: Path, lines: int) -> None:
    path, deadline = workdir / "metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists() and len(path.read_text().splitlines()) >= lines:
            return
        time.sleep(0.01)
    raise TimeoutError(f"{path} never had {lines} lines")


def test_terminated_and_killed_at_random_it_ends_bit_equal(data: Path, tmp_path: Path) -> None:
    chance = random.Random(7)
    steps = {"train_steps": 260, "train_save_every": 10, "train_log_every": 1}
    assert train(data, tmp_path / "whole", **steps) == 0
    killed = tmp_path / "killed"
    reached = 0
    for how in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        lines = chance.randint(5, 60)
        process = start(data, killed, quick=lines, **steps)
        wait_for(killed, reached + lines)
        process.send_signal(how)
        out, err = process.communicate(timeout=120)
        if how != signal.SIGKILL:  # with a checkpoint between the regular ones
            assert process.returncode == {signal.SIGTERM: 75, signal.SIGINT: 130}[how], err
            assert "Traceback" not in err and ("to save it; Ctrl-C again ends at once" in err) == (how == signal.SIGINT)
            assert "stopped and saved at step" in out and "of 260; run the same command again" in out
            reached = len(metrics(killed))
    assert train(data, killed, **steps) == 0
    assert digests(killed) == digests(tmp_path / "whole")
    assert metrics(killed) == metrics(tmp_path / "whole")
    assert read_json(killed / "summary.json", "") == read_json(tmp_path / "whole/summary.json", "")


def test_a_run_that_trains_is_claimed_and_can_be_read(data: Path, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "run"
    process = start(data, run, quick=12, train_save_every=4)
    notes: list[str] = []
    try:
        while not (run / "checkpoints/8").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        before = sorted(path.name for path in run.iterdir())
        assert train(data, run, train_save_every=4) == 2
        error = capsys.readouterr().err
        assert f"error: {run}: another process trains in it; wait until it ends, or name another --workdir" in error
        assert sorted(path.name for path in run.iterdir()) == before
        assert restore_run(run, "latest", notes.append).step >= 8 and not notes
        assert training(run)["curves"]["loss"]
    finally:
        process.terminate()
        process.communicate()
    assert process.returncode == hosts.PREEMPTED and not (run / "training.lock").exists()
    (run / "training.lock").touch()  # as one that was killed leaves it
    assert train(data, run, train_save_every=4) == 0
    assert [line["step"] for line in metrics(run) if "loss" in line] == list(range(5, 61, 5))


def test_a_line_under_way_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 2.0}\n{"step": 10, "lo')
    assert training(tmp_path)["curves"] == {"loss": [[5, 2.0]]}


def test_a_full_disk_is_named_and_nothing_is_lost(data: Path, tmp_path: Path) -> None:
    fields = {"head_hidden": 600, "train_save_every": 30}
    line = " ".join(
        map(shlex.quote, [sys.executable, "-m", "fmbseg_jax.train", *argv(data, tmp_path / "run", **fields)])
    )
    full = subprocess.run(["bash", "-c", f"ulimit -f 24; {line}"], cwd=ROOT, capture_output=True, text=True)
    assert full.returncode == 2, full.stderr
    # a thread of Orbax may still print its own end after our line
    said = [line for line in full.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and said[0].startswith(f"error: {tmp_path / 'run/checkpoints'}: File too large; make room")
    assert "same command" in said[0]
    assert train(data, tmp_path / "run", **fields) == 0


def other_words(data: Path) -> None:
    words = parse_words(["grass: grass, lawn", "sand", "sky: sky, cloud, air", "snow"], "words.txt")
    write_words(data / "labels/default", words, np.load(data / "labels/default/prototypes.npy"))


def other_prototypes(data: Path) -> None:
    write_words(data / "labels/default", ONTOLOGY, unit_rows(np.random.default_rng(5), len(ONTOLOGY.words), 8))


def other_labels(data: Path) -> None:
    write_json(data / "labels/default/labels.json", {"splits": ["train"], "digest": "another"})


def other_encoder(data: Path) -> None:
    info = read_json(data / "dataset.json", "")
    info["encoders"]["encoder"]["sha256"] = "1" * 64
    write_json(data / "dataset.json", info)


@pytest.mark.parametrize(
    ("change", "fields", "named"),
    [
        (None, {"train_steps": 80}, "train.steps = 60, but now it is 80"),
        (None, {"head_hidden": 24}, "head.hidden = 0, but now it is 24"),
        (None, {"train_targets": "truth"}, 'train.targets = "labels", but now it is "truth"'),
        (other_words, {}, 'classes = "grass, sand, sky, water", but now it is "grass, sand, sky, snow"'),
        (other_prototypes, {}, "prototypes (digest) = "),
        (other_labels, {}, "labels (digest) = "),
        (other_encoder, {}, "encoders (digest) = "),
    ],
)
def test_a_run_of_another_training_is_refused(
    data: Path,
    run: Path,
    tmp_path: Path,
    capsys: Any,
    change: Callable[[Path], None] | None,
    fields: dict[str, Any],
    named: str,
) -> None:
    before = digests(run)
    if change:
        data = Path(shutil.copytree(data, tmp_path / "data"))
        change(data)
    assert train(data, run, **fields) == 2
    error = capsys.readouterr().err
    assert f"config.json was made with {named}" in error and "set it back, or train into another --workdir" in error
    assert digests(run) == before


def test_when_to_log_and_save_may_change(data: Path, run: Path) -> None:
    assert train(data, run, train_log_every=1, train_save_every=9) == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train_loss": "focal"}, "train.loss='focal' is none of prototype_ce, t_supcon; choose one"),
        ({"train_batch_size": 10}, "train.batch_size=10 is no multiple of train.virtual_shards=4"),
        ({"train_batch_size": 6, "train_virtual_shards": 6}, "train.batch_size=6 cannot be divided over 4 devices"),
        ({"train_warmup_steps": 60}, "train.warmup_steps=60 leaves nothing of train.steps=60; set it lower"),
        ({"train_holdout": 1.0}, "train.holdout=1.0 is no share of the photos"),
        ({"train_temperature": 0.0}, "train.temperature=0.0 must be above 0"),
        ({"train_steps": 0}, "train.steps=0 is too small; set it to 1 or more"),
        ({"train_loss": "t_supcon", "train_supcon_samples": 7}, "train.supcon_samples=7 is less than one patch"),
        ({"head_blocks": 1, "head_heads": 5}, f"head.heads=5 does not divide the features' width {WIDTH}"),
        ({"train_split": "val"}, "no split 'val'; it has train"),
        ({"labels_name": "mine"}, "labels.name=mine (there are: default)"),
        ({"train_stps": 5}, "--config.train.stps: no such field; did you mean train.steps"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    data: Path, tmp_path: Path, capsys: Any, fields: dict[str, Any], message: str
) -> None:
    assert train(data, tmp_path / "run", **fields) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_labels_that_label_nothing_are_an_error(tmp_path: Path, capsys: Any) -> None:
    data = write_data(tmp_path / "data", photos=4, unlabelled=1.0)
    assert train(data, tmp_path / "run") == 2
    assert "no patch of split 'train' is labelled with any of grass, sand, sky, water" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "of_the_drawn", "said", "ending"),
    [
        (4, False, "4 of 24 photos of split 'train' have labels: 1 of them held out", "held-out loss "),
        (2, True, "2 of 24 photos of split 'train' have labels: 1 of them held out", "held-out loss "),
        (1, False, "1 of 24 photos of split 'train' have labels: none held out", "no rows held out"),
        (1, True, "1 of 24 photos of split 'train' have labels: none held out", "no rows held out"),
    ],
)
def test_what_is_held_out_has_labels(
    tmp_path: Path, capsys: Any, count: int, of_the_drawn: bool, said: str, ending: str
) -> None:
    """As of corrections of a few photos with --only_corrected: a loss of 0 on nothing was the best."""
    data = write_data(tmp_path / "data")
    rows, drawn = split_rows(24, 0.1)
    kept = (drawn if of_the_drawn else rows)[:count]
    keep_labels(data, kept)
    assert train(data, tmp_path / "run", train_steps=20) == 0
    printed = capsys.readouterr()
    assert said in printed.err and ending in printed.out and "held-out loss 0.0000" not in printed.out
    losses = [line["held_out_loss"] for line in metrics(tmp_path / "run") if "held_out_loss" in line]
    assert bool(losses) == (count > 1) and all(loss > 0 for loss in losses)


def test_photos_that_are_drawn_and_have_labels_stay_held_out(tmp_path: Path, capsys: Any) -> None:
    data = write_data(tmp_path / "data")
    rows, drawn = split_rows(24, 0.1)
    keep_labels(data, [rows[0], drawn[1]])
    opened = Dataset.open(data)
    targets = free_labels(opened, "default", "train")
    feed = FeedConfig("train", "labels", 8, 4, 0.1, 0, 0.5)
    found = choose_rows(targets, 24, feed, 4)
    assert found[0].tolist() == rows.tolist() and found[1].tolist() == drawn.tolist()
    assert not capsys.readouterr().err


def test_no_data_is_an_error(tmp_path: Path, capsys: Any) -> None:
    assert train(tmp_path, tmp_path / "run") == 2
    assert "dataset.json: missing; DATA is not complete" in capsys.readouterr().err


def test_two_photos_are_enough(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", photos=2)
    assert train(data, tmp_path / "run", train_steps=6) == 0
    assert restore_run(tmp_path / "run").step == 6
