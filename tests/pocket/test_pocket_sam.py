"""The pocket SAM: the shipped weights do what they should, and the training's parts are right."""

import copy
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from labelgen.models.libraries import Sam, SamPredictor
from pocket import measure_sam, sam_data, sam_loss, sam_model, train_sam
from pocket.scenes import Scene, draw

WEIGHTS = Path(sam_model.__file__).parent / "weights"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Sam:
    return sam_model.load(WEIGHTS)


@pytest.fixture(scope="module")
def unseen() -> list[Scene]:
    return [draw(0, index, "eval") for index in range(12)]


@pytest.fixture(scope="module")
def points(model: Sam, unseen: list[Scene]) -> measure_sam.Points:
    predictor, rng = SamPredictor(model), np.random.default_rng(0)
    return measure_sam.join([measure_sam.one_point(predictor, scene, rng) for scene in unseen])


def test_shipped_files_belong_together() -> None:
    stated = json.loads((WEIGHTS / "sam.json").read_text())
    data = (WEIGHTS / "sam.safetensors").read_bytes()
    assert stated["sha256"] == hashlib.sha256(data).hexdigest() and len(data) < 3.5e6
    assert {name: stated[name] for name in sam_model.CONFIG} == json.loads(json.dumps(sam_model.CONFIG))


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    for name in ("sam.json", "sam.safetensors"):
        shutil.copy(WEIGHTS / name, tmp_path)
    data = bytearray((tmp_path / "sam.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "sam.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match="sam.safetensors: sha256 .* sam.json states"):
        sam_model.load(tmp_path)


def test_store_and_load_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(3)
    made = sam_model.build(sam_model.CONFIG)
    sam_model.store(made, tmp_path)
    loaded, first = sam_model.load(tmp_path), (tmp_path / "sam.safetensors").read_bytes()
    for name, value in made.state_dict().items():  # stored in 8 or 16 bits
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0.07, atol=2e-3, msg=name)
    sam_model.store(loaded, tmp_path)
    assert (tmp_path / "sam.safetensors").read_bytes() == first


def test_one_point_finds_the_region(points: measure_sam.Points) -> None:
    stuff, things = points.best()[~points.on_thing], points.best()[points.on_thing]
    assert stuff.mean() > 0.72 and things.mean() > 0.72, (stuff.mean(), things.mean())
    chosen = points.chosen()
    assert chosen[~points.on_thing].mean() > 0.66 and chosen[points.on_thing].mean() > 0.66


def test_predicted_iou_tells_good_masks_from_bad_ones(points: measure_sam.Points) -> None:
    predicted, real = points.predicted.ravel(), points.real.ravel()
    assert np.abs(predicted - real).mean() < 0.15 and abs((predicted - real).mean()) < 0.06
    assert np.corrcoef(predicted, real)[0, 1] > 0.6


def test_points_are_xy(model: Sam, unseen: list[Scene]) -> None:
    predictor = SamPredictor(model)
    hits, crossed = [], []
    for scene in unseen:
        side = min(scene.regions.shape)
        square = scene.regions[:side, :side]
        elsewhere = np.argwhere((scene.mask[:side, :side] >= 6) & (square != square.T))
        if not len(elsewhere):
            continue
        predictor.set_image(scene.photo)
        for y, x in elsewhere[np.random.default_rng(1).integers(0, len(elsewhere), 3)]:
            masks, predicted, _ = predictor.predict(np.array([[x, y]]), np.array([1]))
            hits.append(masks[predicted.argmax(), y, x])
            crossed.append(masks[predicted.argmax(), x, y])
    assert len(hits) > 20 and np.mean(hits) > 0.85 and np.mean(crossed) < 0.3, (np.mean(hits), np.mean(crossed))


def test_automatic_masks_cover_the_regions(model: Sam, unseen: list[Scene]) -> None:
    found = [
        measure_sam.automatic(model, scene, measure_sam.PRED_IOU, measure_sam.STABILITY)[0] for scene in unseen[:2]
    ]
    assert np.concatenate(found).mean() > 0.65


def test_frame_is_what_sam_makes_of_a_photo(model: Sam) -> None:
    scene = draw(5, 2)
    photo, regions, (height, width) = sam_data.to_frame(scene)
    small = torch.from_numpy(photo[:height, :width].transpose(2, 0, 1).copy()).float()
    expected = model.preprocess(small).numpy()
    np.testing.assert_allclose(sam_data.normalised(photo, (height, width)), expected, atol=1e-5)
    assert max(height, width) == sam_model.SIZE_PX and (regions[:height, :width] != sam_data.PAD).all()
    assert (regions[height:] == sam_data.PAD).all() and (regions[:, width:] == sam_data.PAD).all()


def test_prompts_lie_in_their_regions_and_prefer_things() -> None:
    regions = np.zeros((40, 60), np.uint8)
    regions[5:15, 30:50] = 1
    regions[39, 50:55] = 2  # too few pixels
    regions[:, 58:] = sam_data.PAD
    things = np.zeros(16, bool)
    things[1:3] = True
    points, targets = sam_data.prompt_points(regions, things, np.random.default_rng(0), 2000, 3.0)
    x, y = points.astype(int).T
    assert (regions[y, x] == targets).all() and set(targets) == {0, 1}
    assert 0.71 < (targets == 1).mean() < 0.79
    inside = points[targets == 1]
    assert inside.min(0).tolist() == [30, 5] and inside.max(0).tolist() == [49, 14]


def test_things_are_told_from_stuff() -> None:
    scene = draw(5, 3)
    things = sam_data.region_is_thing(scene)
    for region in np.unique(scene.regions):
        assert things[region] == (scene.mask[scene.regions == region][0] >= 6)


def test_drawn_scenes_are_kept_and_batches_repeat(tmp_path: Path) -> None:
    first = sam_data.drawn(tmp_path, 3, seed=9)
    again = sam_data.drawn(tmp_path, 3, seed=9)
    np.testing.assert_array_equal(first.photos, again.photos)
    np.testing.assert_array_equal(first.photos[2], sam_data.to_frame(draw(9, 2))[0])
    one, two = (sam_data.batch(first, np.random.default_rng(4), 2, 5) for _ in range(2))
    assert torch.equal(one.photos, two.photos) and torch.equal(one.points_xy, two.points_xy)
    for row in range(2):  # mirrored rows too: a point lies in its region
        x, y = one.points_xy[row].long().T
        assert torch.equal(one.regions[row][y, x], one.targets[row])


def test_batched_prediction_equals_sams_own(model: Sam) -> None:
    scenes = [draw(5, index) for index in range(2)]
    frames = [sam_data.to_frame(scene) for scene in scenes]
    photos = torch.from_numpy(np.stack([sam_data.normalised(photo, size) for photo, _, size in frames]))
    points_xy = torch.tensor([[[50.0, 60.0], [100.0, 30.0]], [[20.0, 90.0], [70.0, 110.0]]])
    with torch.no_grad():
        logits, ious = sam_loss.predict(model, model.image_encoder(photos), points_xy)
    for row, (photo, _, (height, width)) in enumerate(frames):
        record = {
            "image": torch.from_numpy(photo[:height, :width].transpose(2, 0, 1).copy()),
            "original_size": (height, width),
            "point_coords": points_xy[row][:, None],
            "point_labels": torch.ones(2, 1, dtype=torch.int),
        }
        own = model([record], multimask_output=True)[0]
        torch.testing.assert_close(logits[2 * row : 2 * row + 2, 1:], own["low_res_logits"], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(ious[2 * row : 2 * row + 2, 1:], own["iou_predictions"], atol=1e-4, rtol=1e-3)


def test_mask_losses_equal_a_float64_loop() -> None:
    rng = np.random.default_rng(0)
    logits, shares = rng.normal(size=(2, 3, 4, 4)), rng.random((2, 1, 4, 4))
    valid = np.ones((2, 1, 4, 4))
    valid[:, :, :, 3] = 0
    shares *= valid
    found = sam_loss.mask_losses(*(torch.from_numpy(a) for a in (logits, shares, valid))).numpy()
    for q in range(2):
        for m in range(3):
            p = 1 / (1 + np.exp(-logits[q, m]))
            t, v = shares[q, 0], valid[q, 0]
            bce = -(v * (t * np.log(p) + (1 - t) * np.log(1 - p))).sum() / v.sum()
            dice = 1 - (2 * (p * v * t).sum() + 1) / (((p * v) ** 2).sum() + (t**2).sum() + 1)
            assert found[q, m] == pytest.approx(dice + 2 * bce, rel=1e-9)


def test_real_ious_count_pixels() -> None:
    inside = torch.zeros(1, 1, 192, 192, dtype=torch.bool)
    inside[..., :96, :96] = True
    valid = torch.ones_like(inside)
    valid[..., 96:] = False
    logits = torch.full((1, 3, 64, 64), -9.0)
    logits[:, 0, :32, :32] = 9  # the region
    logits[:, 1, :32] = 9  # the region and beyond the photo, which does not count
    logits[:, 2, :, :32] = 9  # twice the region
    assert sam_loss.real_ious(logits, inside, valid)[0].tolist() == pytest.approx([1, 1, 0.5], abs=0.02)


def test_affinity_is_low_for_tokens_that_tell_regions_apart() -> None:
    regions = torch.zeros(1, 192, 192, dtype=torch.int64)
    regions[:, :, 96:] = 1
    codes = functional.one_hot(regions[:, ::12, ::12], 32).permute(0, 3, 1, 2).float()
    affinity = sam_loss.Affinity(32)
    torch.nn.init.eye_(affinity.project.weight)
    torch.nn.init.zeros_(affinity.project.bias)
    swapped = codes.transpose(2, 3)
    assert affinity(codes, regions) < 0.1 < 0.6 < affinity(swapped, regions)


@pytest.fixture
def shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """One encoder block, two pictures a step."""
    config = copy.deepcopy(sam_model.CONFIG)
    config["image_encoder"]["depth"] = 1
    monkeypatch.setattr(train_sam, "CONFIG", config)
    monkeypatch.setattr(sam_model, "CONFIG", config)
    monkeypatch.setattr(train_sam, "PICTURES", 2)
    monkeypatch.setattr(train_sam, "PROMPTS", 3)


def test_training_resumes_bit_equal(tmp_path: Path, shrunk: None) -> None:
    scenes = sam_data.drawn(tmp_path, 4, seed=9)
    whole, first, second = (train_sam.Training(scenes, 100.0) for _ in range(3))
    for training, steps in ((whole, 3), (first, 2)):
        for _ in range(steps):
            training.take_step()
            training.spent += 10
    train_sam.save(first, tmp_path / "checkpoint.pt", tmp_path)
    second.restore(torch.load(tmp_path / "checkpoint.pt"))
    second.take_step()
    for name, value in whole.averaged.state_dict().items():
        assert torch.equal(second.averaged.state_dict()[name], value), name
    assert sam_model.load(tmp_path)


def test_training_lowers_the_loss(tmp_path: Path, shrunk: None) -> None:
    training = train_sam.Training(sam_data.drawn(tmp_path, 2, seed=9), 100.0)
    training.spent = 10.0
    masks = [training.take_step().mask.item() for _ in range(8)]
    assert np.mean(masks[-2:]) < 0.9 * np.mean(masks[:2])
