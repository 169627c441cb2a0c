import json

import numpy as np
import pytest
import tiny_models  # first: it makes torchvision importable
import torch
from PIL import Image
from safetensors.torch import save_file

from labelgen import dinov2
from labelgen.dinov2 import load_encoder
from labelgen.errors import UserError

# isort: split
import timm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def config(folder):
    return tiny_models.config(folder).encoder


@pytest.fixture
def encoder(config, folder):
    return load_encoder(config, folder, "cpu", "float32")


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
        encoder.model.pos_embed.zero_()
    features = encoder.features(image)
    assert np.abs(features - features[:, :1]).max() < 1e-3 < np.abs(features - features[:1]).max()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32_and_gives_float32(folder, config, encoder, dtype):
    image = photo(60, 90)
    half, exact = load_encoder(config, folder, "cpu", dtype).features(image), encoder.features(image)
    assert half.dtype == np.float32
    cosine = (half * exact).sum(-1) / np.linalg.norm(half, axis=-1) / np.linalg.norm(exact, axis=-1)
    assert cosine.min() > 0.99 and not np.array_equal(half, exact)


def test_the_grid_is_fixed_by_the_longest_side(encoder, config, folder):
    assert encoder.grid_hw == (6, 6) and encoder.width == 32 and encoder.patch_px == 8
    config.size_px = 50
    with pytest.raises(UserError, match="encoder.size_px = 50 is no multiple of the encoder's patch of 8 px; set 48"):
        load_encoder(config, folder, "cpu", "float32")


@pytest.mark.parametrize("metas", [False, True])
def test_a_timm_name_finds_its_file_in_weights_dir(folder, config, monkeypatch, tmp_path, metas):
    """A small model stands in for the large one; Meta's own files name some weights otherwise than timm."""
    create, name = timm.create_model, "vit_small_patch14_reg4_dinov2.lvd142m"

    def small(name, **kwargs):
        return create(name, **{**kwargs, **tiny_models.DINO_JSON["model_args"]})

    monkeypatch.setattr(timm, "create_model", small)
    state = {key: value.contiguous() for key, value in tiny_models.dino_model().state_dict().items()}
    if metas:
        state["register_tokens"] = state.pop("reg_token")
        state["mask_token"] = torch.zeros(1, 32)
        state["pos_embed"] = torch.cat([torch.zeros(1, 1, 32), state["pos_embed"]], 1)
        state["cls_token"] = state["cls_token"].clone()
    save_file(state, tmp_path / f"{name}.safetensors")
    config.name, config.weights = name, ""
    encoder = load_encoder(config, tmp_path, "cpu", "float32")
    expected = tiny_models.dino_model().state_dict()
    for key, value in encoder.model.state_dict().items():
        if key not in ("pos_embed", "cls_token"):
            torch.testing.assert_close(value, expected[key])


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
def test_a_wrong_name_or_file_says_what_would_mend_it(folder, config, monkeypatch, fields, message):
    def offline(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr(dinov2, "hf_hub_download", offline)
    config.update(**fields)
    with pytest.raises(UserError, match=message):
        load_encoder(config, folder, "cpu", "float32")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "resnet18", "model_args": {}}, "cannot be built|no ViT with patch tokens"),
        ({"model_args": {"patch": 8}}, r"cannot be built from this \(TypeError"),
        ({"model_args": {**tiny_models.DINO_JSON["model_args"], "depth": 3}}, "weights of another model than"),
        ({"model_args": {**tiny_models.DINO_JSON["model_args"], "img_size": 64}}, "weights of another model than"),
    ],
)
def test_a_model_config_that_does_not_fit_is_refused(folder, config, changes, message):
    (folder / "other.json").write_text(json.dumps({**tiny_models.DINO_JSON, **changes}))
    config.name = "other.json"
    with pytest.raises(UserError, match=message):
        load_encoder(config, folder, "cpu", "float32")
