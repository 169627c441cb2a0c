"""The labelling command with models of the libraries' own classes, tiny and untrained, on photos of every shape."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labelgen import run
from labelgen.core.command import command
from labelgen.data.dataset import Dataset
from labelgen.data.records import EvidenceRow, FeatureRow, LabelRow
from labelgen.data.rle import decode
from labelgen.models.clip import ClipEncoder
from labelgen.models.teachers import Encoders
from tests.worlds import tiny_models

SIZES_WH = {"grey": (40, 30), "panorama": (20_000, 12), "pixel": (1, 1), "portrait": (31, 57), "tower": (3, 400)}

CONFIG = """
from ml_collections import ConfigDict
from tests.worlds.tiny_models import config as tiny

def get_config():
    config = tiny({weights!r})
    config.photos.root, config.ontology = {photos!r}, {words!r}
    config.photos.splits = ConfigDict({{"train": {{"photos": "", "masks": ""}}}})
    config.labels.variant = "maskclip"
    return config
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_models.write(folder / "weights")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES_WH.items():
        pixels = rng.integers(0, 256, (height, width) if name == "grey" else (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"photos/{name}.png")
    (folder / "photos/torn.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (folder / "words.txt").write_text("ball\nbox: box, ball box\n")
    fields = {name: str(folder / name) for name in ("weights", "photos")} | {"words": str(folder / "words.txt")}
    (folder / "config.py").write_text(CONFIG.format(**fields))
    assert label(folder) == 0
    return folder


def label(world: Path, *more: str) -> int:
    argv = [f"--config={world}/config.py", f"--out={world}/data", "--config.photos.max_pixels=1000000", *more]
    return command(run.main, run.arguments(), argv)


def test_every_photo_gets_labels_of_its_size(world: Path) -> None:
    data = Dataset.open(world / "data")
    families = data.reader("features", "train"), data.reader("evidence", "train"), data.label_reader("default", "train")
    assert len(families[0]) == len(SIZES_WH)
    for row, (name, (width, height)) in enumerate(sorted(SIZES_WH.items())):
        features, evidence = FeatureRow.decode(families[0][row]), EvidenceRow.decode(families[1][row])
        labels = LabelRow.decode(families[2][row])
        assert features.photo_id == evidence.photo_id == labels.photo_id == name
        assert features.size_hw == labels.label_map.shape == labels.confidence.shape == (height, width)
        assert features.features.shape[:2] == labels.target_classes.shape[:2] == data.grid_hw == (6, 6)
        assert decode(evidence.masks, [*range(len(evidence.masks))][:1]).shape[1:] == (height, width)
        assert features.grid_hw == {"panorama": (1, 6), "tower": (6, 1), "portrait": (6, 3)}.get(name, features.grid_hw)
        valid = np.zeros((6, 6), bool)
        valid[: features.grid_hw[0], : features.grid_hw[1]] = True
        assert not features.features[~valid].any() and features.features[valid].any(-1).all()
    assert "torn" in (world / "data/failures.jsonl").read_text()


def test_other_words_run_no_image_tower(world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def runs(*arguments: Any) -> None:
        raise AssertionError("an image tower ran")

    monkeypatch.setattr(ClipEncoder, "inputs", runs)
    monkeypatch.setattr(Encoders, "__init__", runs)
    (tmp_path / "words.txt").write_text("box\nball\nbackground: ball box")
    assert label(world, "--config.labels.name=other", f"--config.ontology={tmp_path}/words.txt") == 0
    ours, theirs = (Dataset.open(world / "data").labels(name) for name in ("other", "default"))
    assert ours.ontology.names == ("box", "ball", "background")
    assert np.allclose(ours.prototypes, theirs.prototypes[[1, 0, 2]], atol=1e-6)


def test_clip_of_another_weight_file_is_refused(world: Path, tmp_path: Path, capsys: Any) -> None:
    other = tiny_models.write(tmp_path / "weights")
    raw = bytearray((other / "clip.safetensors").read_bytes())
    raw[-1] ^= 1
    (other / "clip.safetensors").write_bytes(raw)
    assert label(world, "--config.labels.name=third", f"--config.weights_dir={other}") == 2
    assert "clip.safetensors: is not the CLIP that encoded the photos" in capsys.readouterr().err
