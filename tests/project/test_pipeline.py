"""The whole pipeline on the pocket world, small: the story must hold in its own order, or something is broken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from fmbseg_jax import evaluate, predict, train
from labelgen import quality, run
from labelgen.core.command import command
from pocket import scenes
from tests.worlds.paths import ROOT


def call(module: Any, *arguments: str) -> None:
    main: Callable[..., int] = module.main
    assert command(main, module.arguments(), list(arguments)) == 0


class World(NamedTuple):
    """scenes/ and data/ in a folder, and the arguments that every command with a config gets."""

    folder: Path
    config: list[str]

    def trained(self, workdir: str, *more: str) -> dict[str, float]:
        """mIoU by reading of the eval split, after a training into folder/workdir."""
        where = [f"--data={self.folder / 'data'}", f"--workdir={self.folder / workdir}"]
        call(train, *self.config, *more, *where)
        call(evaluate, *self.config, "--config.eval.splits=eval", *where)
        readings = json.loads((self.folder / workdir / "eval/eval.json").read_text())["readings"]
        return {name: scores["miou"] for name, scores in readings.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    scenes.write(folder / "scenes", 0, {"train": 32, "eval": 12, "held_out": 2})
    fields = {
        "photos.root": folder / "scenes",
        "weights_dir": ROOT / "pocket/weights",
        "ontology": ROOT / "configs/words/pocket.txt",
        "train.steps": 300,
        "train.warmup_steps": 20,
        "train.save_every": 100,
    }
    config = [f"--config={ROOT / 'configs/pocket.py'}", *(f"--config.{name}={value}" for name, value in fields.items())]
    call(run, *config, f"--out={folder / 'data'}")
    return World(folder, config)


@pytest.fixture(scope="module")
def miou(world: World) -> dict[str, float]:
    return world.trained("run")


def test_free_labels_beat_dense_clip_where_they_label(world: World) -> None:
    call(quality, *world.config, f"--data={world.folder / 'data'}")
    report = json.loads((world.folder / "data/labels/default/quality.json").read_text())
    readings = report["train"]["readings"]
    assert readings["merged, labelled pixels"]["miou"] > 1.2 * readings["dense CLIP, labelled pixels"]["miou"]
    assert readings["merged"]["coverage"] > 0.6


def test_the_head_beats_dense_clip(miou: dict[str, float]) -> None:
    dense = [value for name, value in miou.items() if name.startswith("dense") and not name.endswith("classes")]
    assert len(dense) == 3
    assert miou["head"] > 1.1 * max(dense)


def test_an_untrained_head_does_not(world: World, miou: dict[str, float]) -> None:
    few = ("--config.train.steps=2", "--config.train.warmup_steps=1")
    assert world.trained("untrained", *few)["head"] < 0.6 * miou["head"]


def test_photos_on_the_fly_get_the_masks_of_encoded_ones(world: World, miou: dict[str, float]) -> None:
    run_, out, photos = f"--workdir={world.folder / 'run'}", world.folder, world.folder / "scenes/photos/held_out"
    call(predict, run_, f"--data={world.folder / 'data'}", f"--out={out / 'encoded'}")
    call(predict, run_, f"--photos={photos}", f"--out={out / 'fresh'}")
    for i in range(2):
        encoded, fresh = (out / place / f"{i:05}.png" for place in ("encoded/masks/held_out", "fresh/masks"))
        assert np.array_equal(np.asarray(Image.open(encoded)), np.asarray(Image.open(fresh)))
        assert (out / f"encoded/overlays/held_out/{i:05}.jpg").exists()
