"""SAM 2.1 beside transformers' own model and processor on the same random weights."""

import copy
import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from configs.default import get_config
from labelgen.core.errors import UserError
from labelgen.core.geometry import WORKING_PX
from labelgen.data import rle
from labelgen.models import sam, sam2, sam2_names, weight_files
from labelgen.models.patch_encoder import PatchEncoder, View
from labelgen.models.sam import RELEASES, SamEncoder, load_sam, weight_file
from labelgen.models.trunks import SamTrunk
from tests.labelgen.models.test_sam import iou_of, photo
from tests.worlds import tiny_sam2

SIZES = [(60, 90), (97, 41), (128, 128), (30, 200)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def official():
    return tiny_sam2.theirs()


@pytest.fixture(scope="module")
def path(official, tmp_path_factory):
    return tiny_sam2.write(official, tmp_path_factory.mktemp("weights") / "model.safetensors")


@pytest.fixture
def encoder(path):
    config = get_config().sam
    config.update(
        points_per_side=6, batch_size=16, pred_iou_threshold=0.42, stability_threshold=0.82, nms_threshold=0.9
    )
    model = tiny_sam2.ours()
    sam2.fill(model, path, "sam2.1_hiera_tiny")
    return SamEncoder(model, path, config, CPU, torch.float32)


@torch.inference_mode()
def answered(official, image, points_xy):
    """transformers: logits [P, 3, l, l], predicted IoUs [P, 3], masks bool [P, 3, H, W] of processor and model."""
    processor = tiny_sam2.processor()
    points = [[[list(point)] for point in points_xy.tolist()]]
    inputs = processor(images=Image.fromarray(image), input_points=points, return_tensors="pt")
    outputs = official(**{name: value for name, value in inputs.items() if name != "original_sizes"})
    masks = processor.post_process_masks(outputs.pred_masks, inputs["original_sizes"])[0]
    return outputs.pred_masks[0], outputs.iou_scores[0], masks


def test_embeddings_and_answers_are_the_librarys(official, encoder):
    pixels = torch.randn(1, 3, 128, 128)
    points = torch.rand(5, 2) * 128
    with torch.inference_mode():
        quarter, half, embedding = official.get_image_embeddings(pixels)
        detail = encoder.model.image_encoder.detail(pixels)
        outputs = official(image_embeddings=[quarter, half, embedding], input_points=points[None, :, None])
        low, iou = encoder._decode(detail, points, (32, 32))
    torch.testing.assert_close(detail.embedding, embedding, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(encoder.model.image_encoder(pixels), embedding, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(low, outputs.pred_masks[0].flatten(0, 1), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(iou, outputs.iou_scores[0].flatten(), atol=1e-5, rtol=1e-4)
    assert iou.std() > 0.02 and 0.2 < (low > 0).float().mean() < 0.8  # they say something


@pytest.mark.parametrize("size_hw", SIZES)
def test_a_points_masks_are_the_librarys(official, encoder, size_hw):
    image = photo(size_hw)
    result = encoder.masks(image)
    _, iou, masks = answered(official, image, result.points_xy)
    bitmaps = rle.decode(result, np.arange(len(result)))
    assert len(result.points_xy) == 36
    exact = 0
    for p, numbers in enumerate(result.point_masks):
        for slot, number in enumerate(numbers):
            theirs = masks[p, slot].numpy()
            if number < 0:
                assert not theirs.any() or iou[p, slot] < max(sam.MIN_IOU, 0) + 1e-3
                continue
            assert iou_of(bitmaps[number], theirs) > 0.85
            close = (bitmaps[number] != theirs).mean() < 2e-3
            exact += close and abs(result.iou[number] - float(iou[p, slot])) < 1e-3
    assert exact >= len(result)


@pytest.mark.parametrize("size_hw", SIZES)
def test_the_automatic_masks_are_those_that_the_library_keeps(official, encoder, size_hw):
    """transformers' filter and suppression on its own answers; its pipeline places points of a photo that is no square
    as SAM 1 wants them, so that it is no reference there."""
    image = photo(size_hw, seed=1)
    result = encoder.masks(image)
    low, iou, _ = answered(official, image, result.points_xy)
    processor = tiny_sam2.processor().image_processor
    large = torch.nn.functional.interpolate(low, size_hw, mode="bilinear", align_corners=False)
    config, whole = encoder.config, [0, 0, size_hw[1], size_hw[0]]
    kept = processor.filter_masks(large, iou, size_hw, whole, config.pred_iou_threshold, config.stability_threshold)
    theirs, scores, _, _ = processor.post_process_for_mask_generation(*kept, config.nms_threshold)
    ids = np.flatnonzero(result.automatic)
    ids = ids[np.argsort(-result.iou[ids])]
    assert 3 < len(ids) == len(theirs) < len(kept[0]) < 108
    for number, score, mask in zip(ids, scores.tolist(), theirs, strict=True):  # best first
        assert result.iou[number] == pytest.approx(score, abs=1e-4)
        assert (rle.decode(result, [number])[0] != mask.numpy()).mean() < 2e-3


def drawn(run, size_hw):
    """bool [H, W] of run lengths that begin with zeros."""
    return np.repeat(np.arange(len(run)) % 2 == 1, run).reshape(size_hw)


def test_a_large_photos_masks_by_outlines_are_those_of_its_pixels(encoder):
    image = photo((700, WORKING_PX + 60))
    answers = encoder.prompt(image, np.array([[300.0, 200.0], [900.0, 650.0]]))
    ids = torch.arange(6)
    outlined = encoder._outlined(answers, ids)
    pixels = encoder._upscaled(answers, ids, lambda logits: logits > 0)
    runs = [run for part in outlined for run in part.runs]
    for run, mask in zip(runs, torch.cat(pixels).numpy(), strict=True):
        assert (drawn(run, mask.shape) != mask).mean() < 1e-4


def test_half_precision_is_near_float32(encoder, path, monkeypatch):
    half = SamEncoder(copy.deepcopy(encoder.model), path, encoder.config, CPU, torch.bfloat16)
    image, points = photo((60, 90)), np.array([[30.0, 20.0], [70.0, 50.0]])
    exact, rough = encoder.prompt(image, points), half.prompt(image, points)
    assert rough.low.dtype == rough.iou.dtype == torch.float32
    np.testing.assert_allclose(rough.iou, exact.iou, atol=0.05)
    assert ((rough.low > 0) == (exact.low > 0)).float().mean() > 0.9


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("tiny", 38_962_498), ("small", 46_060_354), ("base_plus", 80_850_178), ("large", 224_446_642)],
)
def test_every_tensor_of_the_published_sizes_has_its_place(tmp_path, size, parameters):
    """Names and shapes as transformers has them; parameters as SAM2Base of Meta's package (sam2 1.1.0) has them."""
    state = {
        key: torch.zeros(value.shape) if key.endswith("positional_embedding") else value
        for key, value in tiny_sam2.official(size).state_dict().items()
    }
    found = {key: value.shape for key, value in sam2_names.renamed(state).items()}
    with torch.device("meta"):
        model = sam2.build(f"sam2.1_hiera_{size}")
    assert found == {key: value.shape for key, value in model.state_dict().items()}
    config = get_config().sam
    config.update(name=f"sam2.1_hiera_{size}", weights=f"sam2.1_hiera_{size}.pt")
    file = weight_file(config, tmp_path)
    assert file.parameters() == parameters
    assert (file.licence, file.official) == ("Apache-2.0", RELEASES[config.name].sha256)
    assert file.source == f"https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_{size}.pt"


@pytest.mark.parametrize(
    ("size", "digest"),
    [
        ("tiny", "fd1d7e7a2bdfa268"),
        ("small", "79988f66d2a2f353"),
        ("base_plus", "c395e3c3ee1050aa"),
        ("large", "3233b98aa52b16e6"),
    ],
)
def test_metas_names_are_those_of_its_package(size, digest):
    """The digest is that of the names and shapes of sam2 1.1.0's SAM2Base, built by its own configs/sam2.1/*.yaml, less
    what is a video's."""
    with torch.device("meta"):
        state = tiny_sam2.as_meta(sam2.build(f"sam2.1_hiera_{size}").state_dict(), video=False)
    lines = "\n".join(sorted(f"{key} {tuple(value.shape)}" for key, value in state.items()))
    assert hashlib.sha256(lines.encode()).hexdigest().startswith(digest)


def test_metas_release_gives_the_same_model(encoder, tmp_path):
    state = encoder.model.state_dict()
    torch.save({"model": tiny_sam2.as_meta(state)}, tmp_path / "sam2.1.pt")
    model = tiny_sam2.ours()
    sam2.fill(model, tmp_path / "sam2.1.pt", "sam2.1_hiera_tiny")
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"mask_decoder.iou_token.weight": None},
            "are the weights of another model than sam2.1_hiera_tiny .*iou_token",
        ),
        ({"head.weight": torch.zeros(1)}, "are the weights of another model than sam2.1_hiera_tiny .*head.weight"),
        ({tiny_sam2.POSITIONS: torch.zeros(2, 16)}, f"{tiny_sam2.POSITIONS} is another one than the prompt encoder's"),
        ({"no_memory_embedding": torch.zeros(1, 1, 8)}, "size mismatch for image_encoder.no_mem_embed"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(official, tmp_path, change, message):
    state = dict(official.state_dict()) | change
    path = tmp_path / "model.safetensors"
    save_file({key: value.clone() for key, value in state.items() if value is not None}, path)
    with pytest.raises(UserError, match=message):
        sam2.fill(tiny_sam2.ours(), path, "sam2.1_hiera_tiny")


def test_a_config_that_names_it_loads_a_file_of_either_kind(monkeypatch, official, path, tmp_path):
    monkeypatch.setattr(sam2, "build", lambda name: tiny_sam2.ours())
    config = get_config().sam
    config.update(name="sam2.1_hiera_small", weights="model.safetensors")
    loaded = load_sam(config, path.parent, "cpu", "float32")
    assert loaded.identity() == {
        "weights": "model.safetensors", "sha256": weight_files.digest(path), "input_px": 128,
        "mean": pytest.approx([123.675, 116.28, 103.53]), "std": pytest.approx([58.395, 57.12, 57.375]),
    }  # fmt: skip
    config.weights = "sam_vit_h_4b8939.pth"
    with pytest.raises(UserError, match=r"is the file of vit_h, .*; set sam.weights = 'sam2.1_hiera_small.pt'"):
        load_sam(config, path.parent, "cpu", "float32")
    config.weights = "sam2.1_hiera_small.pt"
    (tmp_path / config.weights).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=f"is not the official file: .* not {RELEASES[config.name].sha256}; fetch it"):
        load_sam(config, tmp_path, "cpu", "float32")


def test_its_image_embedding_is_an_encoder_of_patches(official, encoder):
    """As of SAM: the photo keeps its shape and lies in the upper left of the square."""
    patches = PatchEncoder(SamTrunk(encoder, (-1,), "concatenate"), View(128))
    image = photo((64, 128))
    found = patches.features(image)
    pixels = torch.nn.functional.pad(patches.pixels(image), (0, 0, 0, 64))
    with torch.inference_mode():
        *_, embedding = official.get_image_embeddings(pixels)
    assert found.shape == (4, 8, 32)
    np.testing.assert_allclose(found, embedding[0].permute(1, 2, 0)[:4], atol=1e-4, rtol=1e-4)
