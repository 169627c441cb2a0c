import json

import numpy as np
import pytest
import torch
from PIL import Image

from labelgen.core import geometry
from labelgen.core.errors import UserError
from labelgen.models import patch_encoder, trunks
from labelgen.models.trunks import load_timm
from tests.worlds import tiny_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def config(folder):
    return tiny_models.config(folder).encoder


@pytest.fixture
def encoder(config, folder):
    return load_timm(config, folder, "cpu", "float32")


def photo(*size_hw):
    return np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)


@pytest.mark.parametrize(
    ("size_hw", "grid_hw"),
    [((96, 96), (6, 6)), ((60, 90), (4, 6)), ((90, 33), (6, 2)), ((1, 500), (1, 6)), ((1, 1), (6, 6))],
)
def test_features_are_timms_forward_features_without_prefix_tokens(encoder, size_hw, grid_hw):
    image = photo(*size_hw)
    resized = Image.fromarray(image).resize((grid_hw[1] * 8, grid_hw[0] * 8), Image.Resampling.BICUBIC)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = ((np.asarray(resized) / 255 - mean) / std).astype(np.float32).transpose(2, 0, 1)
    with torch.no_grad():
        tokens = tiny_models.dino_model().forward_features(torch.from_numpy(pixels)[None])
    assert tokens.shape[1] == 5 + grid_hw[0] * grid_hw[1]  # CLS and four registers
    features = encoder.features(image)
    assert features.dtype == np.float32 and features.shape == (*grid_hw, 32)
    np.testing.assert_allclose(features, tokens[0, 5:].view(*grid_hw, 32), atol=1e-5)


def test_rows_are_rows(encoder):
    """A photo that changes from top to bottom only has features that do."""
    image = np.broadcast_to(np.linspace(0, 255, 48).astype(np.uint8)[:, None, None], (48, 48, 3)).copy()
    with torch.no_grad():
        encoder.trunk.model.pos_embed.zero_()
    features = encoder.features(image)
    assert np.abs(features - features[:, :1]).max() < 1e-3 < np.abs(features - features[:1]).max()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32_and_gives_float32(folder, config, encoder, dtype):
    image = photo(60, 90)
    half, exact = load_timm(config, folder, "cpu", dtype).features(image), encoder.features(image)
    assert half.dtype == np.float32
    cosine = (half * exact).sum(-1) / np.linalg.norm(half, axis=-1) / np.linalg.norm(exact, axis=-1)
    assert cosine.min() > 0.99 and not np.array_equal(half, exact)


def test_the_grid_is_fixed_by_the_longest_side(encoder, config, folder):
    assert encoder.grid_hw == (6, 6) and encoder.width == 32 and encoder.patch_px == 8
    config.size_px = 50
    with pytest.raises(UserError, match="encoder.size_px = 50 is no multiple of the encoder's patch of 8 px; set 48"):
        load_timm(config, folder, "cpu", "float32")


def wide(folder, config, **view):
    """The encoder on a grid of 4 x 6 patches unless said otherwise."""
    config.update(size_px=48, height_px=32, window_px=0, stride_px=0)
    config.update(view)
    return load_timm(config, folder, "cpu", "float32")


@pytest.mark.parametrize(("size_hw", "grid_hw"), [((60, 90), (4, 6)), ((90, 60), (4, 3)), ((30, 90), (2, 6))])
def test_a_portrait_photo_fills_the_height_of_a_landscape_grid(folder, config, size_hw, grid_hw):
    encoder = wide(folder, config)
    assert encoder.grid_hw == (4, 6) and encoder.features(photo(*size_hw)).shape == (*grid_hw, 32)


@pytest.mark.parametrize("size_hw", [(32, 48), (48, 24), (8, 48)])
def test_a_patch_is_the_mean_over_the_windows_that_cover_it(folder, config, size_hw, monkeypatch):
    """By hand: each window through the model by itself. Two windows a pass, so that the last pass is short."""
    monkeypatch.setattr(patch_encoder, "WINDOWS_A_PASS", 2)
    encoder = wide(folder, config, window_px=24, stride_px=16)
    image = photo(*size_hw)  # of whole patches already: nothing is resized
    grid_hw, _ = geometry.view_grid(size_hw, 48, 8, 32)
    pixels = encoder.pixels(np.asarray(Image.fromarray(image).resize((grid_hw[1] * 8, grid_hw[0] * 8), 3)))
    starts = {1: [0], 2: [0], 4: [0, 1], 6: [0, 2, 3]}  # 3 patches a window, at most 2 apart, evenly spread
    total, count = np.zeros((*grid_hw, 32)), np.zeros((*grid_hw, 1))
    for y in starts[grid_hw[0]]:
        for x in starts[grid_hw[1]]:
            window = pixels[:, :, 8 * y : 8 * y + 24, 8 * x : 8 * x + 24]
            h, w = window.shape[2] // 8, window.shape[3] // 8
            total[y : y + h, x : x + w] += encoder.maps(window)[0].numpy()
            count[y : y + h, x : x + w] += 1
    assert count.min() == 1 < count.max()
    np.testing.assert_allclose(encoder.features(image), total / count, atol=1e-5)


def test_one_window_is_the_whole_pass(folder, config):
    image = photo(60, 90)
    whole = wide(folder, config).features(image)
    np.testing.assert_array_equal(wide(folder, config, window_px=48, stride_px=24).features(image), whole)
    assert np.abs(wide(folder, config, window_px=40, stride_px=8).features(image) - whole).max() > 0.01


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ({"height_px": 30}, "encoder.height_px = 30 is no multiple of the encoder's patch of 8 px; set 32"),
        ({"window_px": 20, "stride_px": 8}, "encoder.window_px = 20 is no multiple .*; set 16"),
        ({"window_px": 24, "stride_px": 4}, "encoder.stride_px = 4 is no multiple .*; set 8"),
    ],
)
def test_heights_windows_and_strides_are_whole_patches(folder, config, view, message):
    with pytest.raises(UserError, match=message):
        wide(folder, config, **view)


def test_identity_tells_views_apart(folder, config):
    identity = wide(folder, config, window_px=24, stride_px=16).identity()
    assert {name: identity[name] for name in ("size_px", "height_px", "window_px", "stride_px")} == {
        "size_px": 48, "height_px": 32, "window_px": 24, "stride_px": 16,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "vit_tiny_patch99"}, "encoder.name: .*vit_tiny_patch99.*timm.list_pretrained"),
        ({"name": "vit_small_patch14_dinov2.mine"}, r"encoder.name: Invalid pretrained tag \(mine\)"),
        (
            {"name": "vit_small_patch14_dinov2.lvd142m", "weights": ""},
            r"vit_small_patch14_dinov2\.lvd142m\.safetensors: no such.*offline.*huggingface.co/timm/vit_small",
        ),
        ({"name": "no.json"}, r"no\.json: no such model config"),
        ({"weights": "no.safetensors"}, r"no\.safetensors: no such weight file"),
        ({"weights": "sam.safetensors"}, r"sam\.safetensors: are the weights of another model than vit_small"),
        ({"sha256": "00ff"}, "but 00ff is wanted"),
    ],
)
def test_a_wrong_name_or_file_says_what_would_fix_it(folder, config, monkeypatch, fields, message):
    def offline(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr(trunks, "hf_hub_download", offline)
    config.update(**fields)
    with pytest.raises(UserError, match=message):
        load_timm(config, folder, "cpu", "float32")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet18", "model_args": {}}, "weights of another model than resnet18"),
        ({"model_args": {"patch": 8}}, r"cannot be built from this \(TypeError"),
        ({"model_args": {**tiny_models.DINO_JSON["model_args"], "depth": 3}}, "weights of another model than"),
        ({"model_args": {**tiny_models.DINO_JSON["model_args"], "img_size": 64}}, "weights of another model than"),
    ],
)
def test_a_model_config_that_does_not_fit_is_refused(folder, config, changes, message):
    (folder / "other.json").write_text(json.dumps({**tiny_models.DINO_JSON, **changes}))
    config.name = "other.json"
    with pytest.raises(UserError, match=message):
        load_timm(config, folder, "cpu", "float32")
