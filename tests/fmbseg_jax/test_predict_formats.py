"""Predictions in the files of other tools, and with a background that no word names."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmbseg_jax import predict
from labelgen.core.command import command
from labelgen.core.config import load_config
from labelgen.sources.coco_masks import mask_of
from tests.worlds import run as run_world
from tests.worlds import tiny
from tests.worlds.labelling import ONTOLOGY, PROTOTYPES
from tests.worlds.paths import ROOT
from tests.worlds.reference import pixel_logits

TEMPERATURE = 0.04


def predicted(*arguments: Any) -> int:
    return command(predict.main, predict.arguments(), [str(a) for a in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("data"))


def write_run(folder: Path, root: Path, threshold: float = 0.0) -> Path:
    """RUN of a config with photos at `root`."""
    config = load_config(str(ROOT / "configs/default.py"))
    with config.unlocked():
        config.photos.root = str(root)
        config.photos.splits = {"eval": {"photos": "photos", "masks": ""}}
        config.eval.background_threshold = threshold
        config.train.temperature = TEMPERATURE
    return run_world.write_run(folder, config)


def logits(photo: int) -> np.ndarray:
    size_hw = tiny.features(photo).size_hw
    return pixel_logits(tiny.embeddings(photo), PROTOTYPES, ONTOLOGY.word_class, size_hw)


def mask(out: Path, photo: int) -> np.ndarray:
    return np.asarray(Image.open(out / f"masks/eval/p{photo}.png"))


def test_every_format_of_encoded_photos(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(5):
        Image.new("RGB", tiny.features(i).size_hw[::-1]).save(tmp_path / f"photos/p{i}.png")
    run = write_run(tmp_path / "run", tmp_path)
    formats = "--format=png,coco,labelme,cvat,yolo"
    assert predicted(f"--workdir={run}", f"--data={data}", f"--out={tmp_path / 'out'}", formats) == 0
    out = capsys.readouterr().out
    assert "wrote 7 masks (png, coco, labelme, cvat, yolo) and 5 overlays to" in out
    read = json.loads((tmp_path / "out/coco/semantic.json").read_text())
    names = {image["id"]: (image["file_name"], (image["height"], image["width"])) for image in read["images"]}
    assert sorted(name for name, _ in names.values()) == [
        *(f"photos/p{i}.png" for i in range(5)),
        "train/p0",
        "train/p1",
    ]
    for photo in range(5):
        found = np.full(tiny.features(photo).size_hw, -1)
        for annotation in read["annotations"]:
            name, size_hw = names[annotation["image_id"]]
            if name == f"photos/p{photo}.png":
                found[mask_of(annotation["segmentation"], size_hw)] = annotation["category_id"] - 1
        assert np.array_equal(found, logits(photo).argmax(0)) and np.array_equal(found, mask(tmp_path / "out", photo))
        labelme = tmp_path / f"out/labelme/eval/p{photo}.json"
        picture = labelme.parent / json.loads(labelme.read_text())["imagePath"]
        assert picture.samefile(tmp_path / f"photos/p{photo}.png")
        assert (tmp_path / f"out/yolo/labels/eval/p{photo}.txt").read_text()


@pytest.mark.parametrize(("of_run", "flag", "threshold"), [(0.9, [], 0.9), (0.0, [0.8], 0.8), (0.9, [0], 0.0)])
def test_background_by_a_threshold(
    of_run: float, flag: list[float], threshold: float, data: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", tmp_path / "gone", of_run)
    flags = [f"--background_threshold={value}" for value in flag]
    assert predicted(f"--workdir={run}", f"--data={data}", f"--out={tmp_path / 'out'}", *flags) == 0
    taken = 0
    for photo in range(5):
        scores = np.exp(logits(photo) / TEMPERATURE)
        best = (scores / scores.sum(0)).max(0)
        wanted = np.where(best < threshold, 3, scores.argmax(0))
        sure = abs(best - threshold) > 0.02  # features are stored in bfloat16
        assert np.array_equal(mask(tmp_path / "out", photo)[sure], wanted[sure])
        taken += int((wanted == 3).sum())
    assert (taken > 0) == (threshold > 0)
    classes = json.loads((tmp_path / "out/classes.json").read_text())
    assert classes.get("background", {"index": 3, "words": []})["words"] == []
    assert ("background" in classes) == (threshold > 0)


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--format=svg", "--format=svg: 'svg' is no format"), ("--background_threshold=2", "2: a number from 0 to 1")],
)
def test_what_the_user_must_fix(
    flag: str, message: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = predicted("--workdir=run", f"--data={data}", f"--out={tmp_path}", flag)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert re.search(message, capsys.readouterr().err)
