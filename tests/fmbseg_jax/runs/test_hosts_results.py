"""Evaluation and prediction shared out over two processes: what one process finds, to the last digit and byte."""

from pathlib import Path
from typing import Any

import pytest

from fmbseg_jax import evaluate, predict
from labelgen.core.command import command
from labelgen.core.config import load_config
from labelgen.core.files import read_json
from tests.worlds import tiny
from tests.worlds.paths import ROOT
from tests.worlds.processes import hosts, pair
from tests.worlds.run import write_run

pytestmark = pytest.mark.serial
DEFAULT = str(ROOT / "configs/default.py")


def evaluation(data: Path, run: Path, how: str = "off") -> list[str]:
    fields = {"eval.splits": "eval,train", "eval.batch_size": 2, "distributed": how}
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return [f"--config={DEFAULT}", f"--data={data}", f"--workdir={run}", *overrides]


def prediction(data: Path, run: Path, out: Path) -> list[str]:
    return [f"--workdir={run}", f"--data={data}", f"--out={out}", "--format=png,coco,cvat"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with RUN and MASKS of two processes, and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    run = write_run(folder / "run", load_config(DEFAULT))
    commands = pair(
        lambda how: [
            *("-m", "fmbseg_jax.evaluate", *evaluation(data, run, how), "+"),
            # They have met already.
            *("-m", "fmbseg_jax.predict", *prediction(data, run, folder / "masks")),
        ]
    )
    with hosts(commands, folder / "log", 1) as started:
        ended = started.end()
    assert [end.code for end in ended] == [0, 0], ended[0].err + ended[1].err
    return folder, [end.out for end in ended]


def test_two_processes_count_what_one_counts(data: Path, two: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", load_config(DEFAULT))
    assert command(evaluate.main, evaluate.arguments(), evaluation(data, run)) == 0
    for split in ("eval", "train"):
        assert (two[0] / f"run/eval/{split}.json").read_bytes() == (run / f"eval/{split}.json").read_bytes()
    assert read_json(run / "eval/eval.json", "")["protocol"]["photos"] == 5
    first, second = two[1]
    assert "eval, 5 photos" in first and all(line.startswith("[Gloo]") for line in second.splitlines())


def test_two_processes_write_the_masks_that_one_writes(data: Path, two: Any, tmp_path: Path) -> None:
    assert command(predict.main, predict.arguments(), prediction(data, two[0] / "run", tmp_path)) == 0
    masks, expected = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (two[0] / "masks", tmp_path)
    )
    assert masks == expected and len(masks) == 5 + 2 + 2 + (2 + 5 + 2) + 2
    assert "wrote 7 masks (png, coco, cvat) and 0 overlays" in two[1][0]


def test_a_distributed_that_is_none_is_refused_by_all_commands(
    data: Path, two: Any, tmp_path: Path, capsys: Any
) -> None:
    wrong = [*prediction(data, two[0] / "run", tmp_path), "--distributed=yes"]
    assert command(predict.main, predict.arguments(), wrong) == 2
    assert command(evaluate.main, evaluate.arguments(), evaluation(data, two[0] / "run", "yes")) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all("error: distributed='yes' is none of off, auto, ADDRESS:PORT" in e for e in errors)
