import json
from pathlib import Path

import numpy as np
import pytest
import tiny_models  # first: it makes torchvision importable
import torch

from labelgen import rle, sam
from labelgen.errors import UserError
from labelgen.sam import load_sam, share
from pocket.scenes import draw

# isort: split
from segment_anything import SamAutomaticMaskGenerator, SamPredictor
from segment_anything.utils.amg import build_point_grid

POCKET = Path(__file__).parents[1] / "pocket/weights"
SIZES = [(60, 90), (97, 41), (64, 64), (30, 20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def config(folder):
    return tiny_models.config(folder).sam


@pytest.fixture
def encoder(config, folder):
    return load_sam(config, folder, "cpu", "float32")


def photo(size_hw, seed=0):
    """Smooth blobs, so that masks have shapes."""
    rng = np.random.default_rng(seed)
    small = torch.from_numpy(rng.uniform(0, 255, (1, 3, 5, 6)).astype(np.float32))
    image = torch.nn.functional.interpolate(small, size_hw, mode="bicubic").clamp(0, 255)
    return image[0].permute(1, 2, 0).numpy().astype(np.uint8)


def predicted(image, points_xy):
    """The official predictor's masks bool [P, 3, H, W] and predicted IoUs [P, 3]."""
    predictor = SamPredictor(tiny_models.sam_model())
    predictor.set_image(image)
    answers = [predictor.predict(point[None], np.ones(1)) for point in points_xy]
    return np.stack([masks for masks, _, _ in answers]), np.stack([iou for _, iou, _ in answers])


def iou_of(a, b):
    return (a & b).sum() / max(1, (a | b).sum())


@pytest.mark.parametrize("size_hw", SIZES)
def test_a_points_masks_are_the_predictors(encoder, size_hw):
    image = photo(size_hw)
    result = encoder.masks(image)
    masks, iou = predicted(image, result.points_xy.astype(np.float64))
    bitmaps = rle.decode(result, np.arange(len(result)))
    assert len(result.points_xy) == 36 and len(result) < 36 * 3
    exact = 0
    for p, numbers in enumerate(result.point_masks):
        for slot, number in enumerate(numbers):
            if number < 0:
                assert not masks[p, slot].any() or iou[p, slot] < min(sam.MIN_IOU, iou[p].max())
                continue
            same = iou_of(bitmaps[number], masks[p, slot])
            assert same > 0.85  # >= .95 at SAM's own resolution
            exact += same == 1 and abs(result.iou[number] - iou[p, slot]) < 1e-5
    assert exact >= len(result)  # each stored mask is at least one point's, to the pixel


def check_automatic(model, encoder, image):
    """The automatic generator's masks on these weights are those marked automatic, to the pixel; how many there are."""
    config = encoder.config
    official = SamAutomaticMaskGenerator(
        model,
        points_per_side=config.points_per_side,
        points_per_batch=config.batch_size,
        pred_iou_thresh=config.pred_iou_threshold,
        stability_score_thresh=config.stability_threshold,
        box_nms_thresh=config.nms_threshold,
    ).generate(image)
    result = encoder.masks(image)
    ids = np.flatnonzero(result.automatic)
    mine = sorted(zip(result.iou[ids].tolist(), ids, strict=True))
    theirs = sorted(official, key=lambda mask: mask["predicted_iou"])
    assert len(mine) == len(theirs) < len(result)
    for (iou, number), mask in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(rle.decode(result, [number])[0], mask["segmentation"])
        assert iou == pytest.approx(mask["predicted_iou"], abs=1e-6)
        assert result.stability[number] == pytest.approx(mask["stability_score"], abs=1e-6)
    return len(mine)


@pytest.mark.parametrize("size_hw", SIZES)
def test_automatic_masks_are_the_automatic_generators(encoder, size_hw):
    assert check_automatic(tiny_models.sam_model(), encoder, photo(size_hw)) > 0


def test_automatic_masks_of_the_pocket_sam_are_the_automatic_generators(config):
    """Trained, it has many masks of all sizes: here the suppression of near-duplicates has something to do."""
    config.update(points_per_side=8, stability_threshold=0.5)
    encoder = load_sam(config, POCKET, "cpu", "float32")
    image = draw(seed=3, index=2, split="eval").photo
    answers = encoder.prompt(image, build_point_grid(8) * image.shape[1::-1])
    config.pred_iou_threshold = float(answers.iou.quantile(0.3))
    kept = check_automatic(load_sam(config, POCKET, "cpu", "float32").model, encoder, image)
    config.nms_threshold = 1.0
    assert 1 < kept < len(encoder.automatic(answers))


def test_points_are_x_then_y_in_the_photos_px(encoder):
    points = encoder.masks(photo((60, 90))).points_xy
    np.testing.assert_allclose(points[0], (7.5, 5))
    np.testing.assert_allclose(points[1], (22.5, 5))
    np.testing.assert_allclose(points, build_point_grid(6) * (90, 60))


def test_boxes_hold_their_mask_exactly(encoder):
    result = encoder.masks(photo((60, 90)))
    for number, (x0, y0, x1, y1) in enumerate(result.boxes.astype(int)):
        rows, columns = np.nonzero(rle.decode(result, [number])[0])
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x0, y0, x1, y1)


def test_masks_are_stored_once(encoder):
    result = encoder.masks(photo((64, 64)))
    bitmaps = rle.decode(result, np.arange(len(result)))
    others = np.flatnonzero(~result.automatic)
    alike = max(iou_of(bitmaps[i], bitmaps[j]) for i in others for j in range(len(result)) if i != j)
    assert alike < 0.98  # below .95 at SAM's own resolution
    assert set(result.point_masks[result.point_masks >= 0]) == set(range(len(result)))


@pytest.mark.parametrize("size_hw", [(1, 90), (90, 1), (1, 1), (2, 3000)])
def test_a_strip_has_masks_of_its_own_size(encoder, size_hw):
    result = encoder.masks(photo(size_hw))
    bitmaps = rle.decode(result, np.arange(len(result)))
    assert bitmaps.shape == (len(result), *size_hw) and bitmaps.any((1, 2)).all()
    assert len(result.offsets) == len(result) + 1 and result.point_masks.shape == (36, 3)


def test_no_mask_at_all_is_an_empty_set(encoder, monkeypatch):
    monkeypatch.setattr(encoder.model, "mask_threshold", 1e9)
    result = encoder.masks(photo((20, 30)))
    assert len(result) == 0 and (result.point_masks == -1).all() and result.offsets.tolist() == [0]
    assert [a.dtype for a in (result.runs, result.offsets, result.boxes)] == [np.uint32, np.int64, np.float32]


def test_masks_in_parts_are_the_masks_at_once(encoder, monkeypatch):
    image = photo((60, 90))
    whole = encoder.masks(image)
    monkeypatch.setattr(sam, "CHUNK_PX", 1)
    parts = encoder.masks(image)
    np.testing.assert_array_equal(whole.runs, parts.runs)
    np.testing.assert_array_equal(whole.point_masks, parts.point_masks)


def bits(rows):
    packed = np.packbits(np.array(rows, bool), axis=1)
    return np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8))).view(np.uint64)


def test_share_by_hand():
    a, b, c = np.zeros((3, 100), bool)
    a[:40], b[:41], c[50:90] = True, True, True
    none = np.zeros(100, bool)
    iou = np.array([0.5, 0.9, 0.7, 0.99], np.float32)
    assert share(bits([a, b, c, none]), iou, np.array([], int)).tolist() == [1, 1, 2, -1]
    assert share(bits([a, b, c, none]), iou, np.array([0])).tolist() == [0, 0, 2, -1]
    assert share(bits([a, b, c, none]), iou, np.array([0, 1])).tolist() == [0, 1, 2, -1]
    assert share(bits([a, ~a, c, c]), iou, np.array([], int)).tolist() == [0, 1, 3, 3]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_scores_in_float32(folder, config, encoder, dtype):
    image = photo((60, 90))
    points = build_point_grid(4) * (90, 60)
    half = load_sam(config, folder, "cpu", dtype).prompt(image, points)
    exact = encoder.prompt(image, points)
    assert half.iou.dtype == half.low.dtype == torch.float32
    np.testing.assert_allclose(half.iou, exact.iou, atol=0.05)
    assert ((half.low > 0) == (exact.low > 0)).float().mean() > 0.95


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "vit_x"}, "sam.name = 'vit_x'; choose one of vit_h, vit_l, vit_b, mobile_sam, or name"),
        ({"weights": "no.safetensors"}, r"no\.safetensors: no such weight file"),
        ({"weights": "clip.safetensors"}, r"clip\.safetensors: are the weights of another model than sam\.json"),
        ({"name": "clip.json"}, r"clip\.json: has no 'image_encoder'"),
        ({"sha256": "00ff"}, "but 00ff is wanted"),
    ],
)
def test_a_wrong_name_or_file_says_what_would_mend_it(folder, config, fields, message):
    config.update(**fields)
    with pytest.raises(UserError, match=message):
        load_sam(config, folder, "cpu", "float32")


def test_a_model_config_that_does_not_fit_is_refused(folder, config):
    described = json.loads((folder / "sam.json").read_text())
    described["image_encoder"]["colour"] = 3
    (folder / "odd.json").write_text(json.dumps(described))
    config.name = "odd.json"
    with pytest.raises(UserError, match=r"odd\.json: the model cannot be built from this \(TypeError"):
        load_sam(config, folder, "cpu", "float32")
