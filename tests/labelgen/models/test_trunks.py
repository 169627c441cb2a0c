"""CLIP's trunk and SAM's image encoder as patch encoders, beside their own libraries' forward passes."""

import numpy as np
import pytest
import torch
from PIL import Image

from labelgen.core.errors import UserError
from labelgen.models.teachers import Encoders, needs
from labelgen.models.trunks import load_encoder, weight_file
from labelgen.sources.photos import Photo
from tests.worlds import tiny_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def config(folder):
    return tiny_models.config(folder)


def photo(*size_hw):
    return np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)


def chosen(config, name, **fields):
    """config.encoder as `name`; no weights of its own."""
    config.encoder.update(name=name, weights="", **fields)
    return load_encoder(config)


@pytest.mark.parametrize("layers", [(-1,), (0, 2)])
def test_clips_trunk_is_open_clips_own_blocks_after_ln_post(config, layers):
    encoder = chosen(config, "clip", size_px=32, layers=layers)
    image = photo(32, 32)
    model, found = tiny_models.clip_model(tiny_models.CLIP_JSON).visual, []
    for block in model.transformer.resblocks:
        block.register_forward_hook(lambda _, __, out: found.append(out))
    pixels = (image / 255 - np.array(tiny_models.MEAN)) / np.array(tiny_models.STD)
    with torch.no_grad():
        model(torch.from_numpy(pixels.transpose(2, 0, 1)).float()[None])
        expected = torch.cat([model.ln_post(found[i])[0, 1:] for i in layers], -1).view(4, 4, -1)
    features = encoder.features(image)
    assert (encoder.patch_px, encoder.width) == (8, 32 * len(layers)) and expected.shape[-1] == encoder.width
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_clips_trunk_takes_any_grid_in_one_pass_or_in_windows(config):
    whole = chosen(config, "clip", size_px=64)
    assert whole.features(photo(60, 90)).shape == (5, 8, 32)
    windowed = chosen(config, "clip", size_px=64, window_px=32, stride_px=16)
    features = windowed.features(photo(64, 64))
    assert features.shape == (8, 8, 32)
    first = windowed.maps(windowed.pixels(photo(64, 64)[:32, :32]))[0]
    np.testing.assert_allclose(features[:2, :2], first[:2, :2], atol=1e-5)  # only one window sees it


def test_a_shift_by_a_patch_shifts_clips_features_where_no_position_is_known(config):
    encoder = chosen(config, "clip", size_px=48)
    with torch.no_grad():
        encoder.trunk._clip.visual.positional_embedding.zero_()
    before, after = (encoder.features(np.roll(photo(48, 48), px, 1)) for px in (0, 8))
    np.testing.assert_allclose(np.roll(before, 1, 1), after, atol=1e-4)
    assert np.abs(before - after).max() > 0.1


@pytest.mark.parametrize("size_hw", [(64, 64), (40, 64), (64, 24)])
def test_sams_trunk_is_its_own_image_embedding_where_the_photo_is(config, size_hw):
    encoder = chosen(config, "sam", size_px=64)
    image, model = photo(*size_hw), tiny_models.sam_model()
    with torch.no_grad():
        pixels = model.preprocess(torch.from_numpy(image).permute(2, 0, 1)[None].float())
        expected = model.image_encoder(pixels)[0].permute(1, 2, 0)
    h, w = size_hw[0] // 8, size_hw[1] // 8
    features = encoder.features(image)
    assert (encoder.patch_px, encoder.width, features.shape) == (8, 16, (h, w, 16)) and expected.shape == (8, 8, 16)
    np.testing.assert_allclose(features, expected[:h, :w], atol=1e-4)


def test_a_shift_by_a_patch_shifts_sams_features_away_from_the_border(config):
    """Its neck is a convolution; positions are left out."""
    encoder = chosen(config, "sam", size_px=64)
    with torch.no_grad():
        encoder.trunk._sam.model.image_encoder.pos_embed.zero_()
    before, after = (encoder.features(np.roll(photo(64, 64), px, 1)) for px in (0, 8))
    np.testing.assert_allclose(before[1:-1, 1:-2], after[1:-1, 2:-1], atol=1e-4)
    assert np.abs(before[1:-1, 1:-2] - after[1:-1, 1:-2]).max() > 0.1


@pytest.mark.parametrize("name", ["clip", "sam"])
def test_wrong_normalisation_is_noticed(config, name):
    encoder = chosen(config, name, size_px=64)
    features = encoder.features(photo(64, 64))
    encoder.trunk.mean = (0.0, 0.0, 0.0)
    assert np.abs(encoder.features(photo(64, 64)) - features).max() > 0.05


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("clip", {"layers": (3,)}, "encoder.layers has 3, but clip has 3: 0 ... 2, or from the end -1 ... -3"),
        ("clip", {"size_px": 50}, "encoder.size_px = 50 is no multiple of the encoder's patch of 8 px; set 48"),
        ("sam", {"layers": (-2,)}, "encoder.layers has -2, but sam has 1"),
        ("sam", {"size_px": 128}, "takes 64 x 64 px and nothing else, but a pass has 128 x 128; set encoder.size_px ="),
        ("sam", {"size_px": 64, "height_px": 32}, "but a pass has 64 x 32; set encoder.size_px = 64, encoder.height"),
    ],
)  # fmt: skip
def test_views_and_layers_that_a_trunk_does_not_have_are_refused(config, name, fields, message):
    with pytest.raises(UserError, match=message):
        chosen(config, name, **fields)


def test_larger_photos_go_through_sam_in_windows(config):
    encoder = chosen(config, "sam", size_px=128, window_px=64, stride_px=32)
    features = encoder.features(photo(96, 128))
    resized = np.asarray(Image.fromarray(photo(96, 128)))
    first = encoder.maps(encoder.pixels(resized[:64, :64]))[0]
    assert features.shape == (12, 16, 16)
    np.testing.assert_allclose(features[:4, :4], first[:4, :4], atol=1e-5)


@pytest.mark.parametrize(("name", "width"), [("clip", 32), ("sam", 16)])
def test_encoding_with_a_teacher_as_the_encoder_loads_it_once_and_names_it(config, name, width):
    config.encoder.update(name=name, weights="left.over", size_px=64)
    encoders = Encoders(config)
    teachers = {"clip": encoders._clip, "sam": encoders._sam}
    assert getattr(encoders._patches.trunk, f"_{name}") is teachers[name]
    features, evidence, _ = encoders.encode_photo(Photo("a", photo(48, 96)))
    assert features.features.shape == (8, 8, width) and features.grid_hw == evidence.grid_hw == (4, 8)
    assert not features.features[4:].any()
    identity = encoders.identity()
    assert identity["encoder"]["sha256"] == identity[name]["sha256"] and identity["encoder"]["name"] == name
    assert identity["encoder"]["weights"] == f"{name}.safetensors"


@pytest.mark.parametrize("layers", [(-1,), (0,), (2,), (0, -1)])
def test_a_data_names_its_layers_as_the_encoder_alone_does(config, layers):
    """What a RUN remembers of its DATA is compared with an encoder that is opened later."""
    config.encoder.update(name="clip", size_px=64, layers=layers)
    named, alone = Encoders(config).identity()["encoder"], load_encoder(config).identity()
    assert [named.get(field) for field in ("layers", "join")] == [alone.get(field) for field in ("layers", "join")]
    assert ("layers" in named) == (layers != (-1,))


@pytest.mark.parametrize("name", ["clip", "sam"])
def test_a_teacher_as_the_encoder_needs_no_file_of_its_own(config, name):
    assert [need.role for need in needs(config)] == ["CLIP", "SAM", "encoder"]
    config.encoder.name = name
    assert weight_file(config) is None and [need.role for need in needs(config)] == ["CLIP", "SAM"]
