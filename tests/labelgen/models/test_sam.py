import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.default import get_config
from labelgen.core.errors import UserError
from labelgen.core.geometry import WORKING_PX
from labelgen.data import rle
from labelgen.models import mobile_sam, sam
from labelgen.models.libraries import SamAutomaticMaskGenerator, SamPredictor, build_point_grid, sam_model_registry
from labelgen.models.sam import SamEncoder, load_sam
from pocket.scenes import draw
from tests.worlds import tiny_models
from tests.worlds.paths import ROOT

POCKET = ROOT / "pocket/weights"
ROUNDING = 5e-5
"""Share of a mask's pixels at the threshold itself that may fall on its other side: products in another order."""
SIZES = [(60, 90), (97, 41), (64, 64), (30, 20)]
LARGE = [(700, WORKING_PX + 1), (1100, 830), (2000, 90)]


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
    """The automatic generator's masks on these weights are those marked automatic; how many there are."""
    config = encoder.config
    official = SamAutomaticMaskGenerator(
        model,
        points_per_side=config.points_per_side,
        pred_iou_thresh=config.pred_iou_threshold,
        stability_score_thresh=config.stability_threshold,
        box_nms_thresh=config.nms_threshold,
        crop_n_layers=0,
    ).generate(image)
    result = encoder.masks(image)
    ids = np.flatnonzero(result.automatic)
    mine = sorted(zip(result.iou[ids].tolist(), ids, strict=True))
    theirs = sorted(official, key=lambda mask: mask["predicted_iou"])
    assert len(mine) == len(theirs) < len(result)
    for (iou, number), mask in zip(mine, theirs, strict=True):
        assert (rle.decode(result, [number])[0] != mask["segmentation"]).mean() <= ROUNDING
        assert iou == pytest.approx(mask["predicted_iou"], abs=1e-6)
        assert result.stability[number] == pytest.approx(mask["stability_score"], abs=5e-4)
    return len(mine)


def check_official_defaults(encoder, image, monkeypatch):
    """The same at the official thresholds. Predicted IoUs are moved so that 70 % pass the first; the others then drop
    some of these and leave several."""
    points_xy = build_point_grid(encoder.config.points_per_side) * image.shape[1::-1]
    answers = encoder.prompt(image, points_xy)
    shift = 0.88 - float(answers.iou.quantile(0.3))
    encoder.model.mask_decoder.iou_prediction_head.layers[-1].bias += shift
    answers = replace(answers, iou=answers.iou + shift)
    monkeypatch.setattr(encoder, "prompt", lambda *again: answers)
    kept = check_automatic(encoder.model, encoder, image)
    encoder.config.nms_threshold = 1.0
    stable = len(encoder.automatic(answers))
    encoder.config.stability_threshold = 0.0
    confident = len(encoder.automatic(answers))
    assert 1 < kept < stable < confident < len(answers.iou) == 3 * len(points_xy), (kept, stable, confident)


def official_defaults(**fields):
    config = get_config().sam
    config.update(batch_size=64, **fields)
    return config


@pytest.mark.parametrize("size_hw", [*SIZES, *LARGE])
@pytest.mark.parametrize("batch_size", [16, 7])
def test_automatic_masks_are_the_automatic_generators(encoder, size_hw, batch_size):
    encoder.config.batch_size = batch_size  # the generator's own is 64
    assert check_automatic(tiny_models.sam_model(), encoder, photo(size_hw)) > 0


@pytest.mark.parametrize(("scale", "points"), [(1, 32), (6, 8)])  # of the scene; 6: beyond the working size
def test_automatic_masks_of_the_pocket_sam_are_the_automatic_generators_at_the_official_defaults(
    monkeypatch, scale, points
):
    """Trained, it has many masks of all sizes. Its logits are less steep than the official models'."""
    config = official_defaults(name="sam.json", weights="sam.safetensors", points_per_side=points)
    encoder = load_sam(config, POCKET, "cpu", "float32")
    for mlp in encoder.model.mask_decoder.output_hypernetworks_mlps:
        mlp.layers[-1].weight *= 40
        mlp.layers[-1].bias *= 40
    image = draw(seed=3, index=2, split="eval").photo.repeat(scale, 0).repeat(scale, 1)
    assert (max(image.shape) > WORKING_PX) == (scale > 1)
    check_official_defaults(encoder, image, monkeypatch)


@pytest.mark.parametrize(("name", "seed"), [("vit_b", 3), ("mobile_sam", 1)])  # random weights that make masks
def test_automatic_masks_of_the_official_architectures_are_the_automatic_generators(name, seed, monkeypatch):
    """At 1024 px. Two of vit_b's twelve blocks stand for all: those of global attention take 3 GB each there."""
    torch.manual_seed(seed)
    model = mobile_sam.build() if name == "mobile_sam" else sam_model_registry[name]()
    if name == "vit_b":
        del model.image_encoder.blocks[2:]
    config = official_defaults(name=name, points_per_side=3)
    encoder = SamEncoder(tiny_models.mask_makers(model), Path("none"), config, torch.device("cpu"), torch.float32)
    check_official_defaults(encoder, photo((300, 400)), monkeypatch)


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
    monkeypatch.setattr(sam, "CACHED_PX", 1)
    parts = encoder.masks(image)
    np.testing.assert_array_equal(whole.runs, parts.runs)
    np.testing.assert_array_equal(whole.point_masks, parts.point_masks)


@pytest.mark.parametrize("size_hw", [*SIZES, (1, 90), (90, 1), (2, 300)])
def test_masks_by_their_outlines_are_those_of_all_pixels(encoder, size_hw, monkeypatch):
    image = photo(size_hw)
    whole = encoder.masks(image)
    monkeypatch.setattr(sam, "WORKING_PX", 0)
    outlined = encoder.masks(image)
    bitmaps, others = (rle.decode(masks, np.arange(len(masks))) for masks in (whole, outlined))
    assert (bitmaps != others).mean() <= ROUNDING
    np.testing.assert_array_equal(whole.point_masks, outlined.point_masks)
    np.testing.assert_array_equal(whole.automatic, outlined.automatic)
    np.testing.assert_array_equal(whole.boxes, outlined.boxes)
    np.testing.assert_allclose(whole.stability, outlined.stability, atol=2e-3)  # a pixel in 600


def test_of_a_large_photo_no_pixels_are_made(encoder, monkeypatch):
    """What is enlarged goes no further than SAM's input, however large the photo is."""
    made = []

    def enlarge(values, size, **how):
        large = interpolate(values, size, **how)
        made.append(large.shape[-2] * large.shape[-1])
        return large

    interpolate, images = sam.F.interpolate, [photo(size_hw) for size_hw in ((600, 900), (1200, 1600))]
    monkeypatch.setattr(sam.F, "interpolate", enlarge)
    for image in images:
        made.clear()
        assert len(encoder.masks(image))
        assert (max(made) <= 64 * 64) == (max(image.shape) > WORKING_PX)


@pytest.mark.parametrize("input_px", [64, 56])  # 32 x 32 answers: with 56 px no whole number of pixels each
@pytest.mark.parametrize("size_hw", [*SIZES, (3, 90), (90, 1)])
def test_logits_at_the_photos_size_are_the_predictors_to_the_bit(encoder, size_hw, input_px):
    encoder.input_px = encoder.model.image_encoder.img_size = input_px
    input_hw = tuple(max(1, int(side * input_px / max(size_hw) + 0.5)) for side in size_hw)
    low = torch.randn(5, 32, 32, generator=torch.Generator().manual_seed(0))
    rows, columns = encoder._needed(input_hw)
    answers = sam.Answers(low[:, :rows, :columns], torch.zeros(5), input_hw, size_hw)
    found = torch.cat(encoder._upscaled(answers, torch.arange(5), lambda logits: logits))
    assert torch.equal(found, encoder.model.postprocess_masks(low[:, None], input_hw, size_hw)[:, 0])
    assert (rows < 32 or columns < 32) == (input_px == 64 and size_hw != (64, 64))


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
        ({"name": "vit_x"}, "sam.name = 'vit_x'; choose one of vit_h, .*, sam2.1_hiera_tiny, .*, or name"),
        ({"weights": "no.safetensors"}, r"no\.safetensors: no such weight file"),
        ({"weights": "clip.safetensors"}, r"clip\.safetensors: are the weights of another model than sam\.json"),
        ({"name": "clip.json"}, r"clip\.json: has no 'image_encoder'"),
        ({"sha256": "00ff"}, "but 00ff is wanted"),
    ],
)
def test_a_wrong_name_or_file_says_what_would_fix_it(folder, config, fields, message):
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
