"""Any encoder of timm: a small random member of each family against hooks on it, and against what a person knows."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from labelgen.core.errors import UserError
from labelgen.core.geometry import bilinear_matrix
from labelgen.data.records import FEATURE_DTYPES, feature_row
from labelgen.models import trunks
from labelgen.models.libraries import timm
from tests.worlds import families
from tests.worlds.families import FAMILIES

ALL = list(FAMILIES)
TOKENS = [title for title in ALL if FAMILIES[title].blocks == "blocks"]
SIZE_HW = (60, 90)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return families.write(tmp_path_factory.mktemp("families"))


def photo(size_hw=SIZE_HW):
    return np.random.default_rng(0).integers(0, 256, (*size_hw, 3), np.uint8)


def hooked(encoder, title, image):
    """(features, what each block or stage gave: float64 [h, w, D] without prefix tokens)."""
    family, found = FAMILIES[title], []
    blocks = getattr(encoder.trunk.model, family.blocks)
    hooks = [
        block.register_forward_hook(lambda _, __, out: found.append(on_map(out[0].double(), family)))
        for block in blocks
    ]
    features = encoder.features(image)
    for hook in hooks:
        hook.remove()
    return features, found


def on_map(out, family):
    """[h, w, D] of what a block gives for one photo."""
    if family.blocks == "stages":  # channels first
        return out.permute(1, 2, 0).numpy()
    if family.blocks == "layers":
        return out.numpy()
    return out[family.prefix :].numpy().reshape(-1, 6, out.shape[-1])  # 6 patches across, however high


def normed(values, model, family):
    """Layer norm over the channels, by hand."""
    norm = model.get_submodule(family.norm)
    centred = values - values.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps)
    return scaled * norm.weight.double().numpy() + norm.bias.double().numpy()


@pytest.mark.parametrize("title", ALL)
def test_features_are_the_last_blocks_patches_after_the_norm_on_the_photos_grid(folder, title):
    family, encoder = FAMILIES[title], families.load(folder, title)
    features, blocks = hooked(encoder, title, photo())
    h, w = round(family.size_px * 2 / 3 / family.patch_px), family.size_px // family.patch_px
    assert features.shape == (h, w, family.width) and features.dtype == np.float32
    assert (encoder.patch_px, encoder.width, encoder.grid_hw) == (family.patch_px, family.width, (w, w))
    last = blocks[-1][:h, :w]  # what is below is padding, where the input has one size
    np.testing.assert_allclose(features, normed(last, encoder.trunk.model, family), atol=2e-4)


def test_beit_takes_one_size_and_what_the_photo_does_not_fill_is_no_patch_of_it(folder):
    encoder = families.load(folder, "beit")
    seen = []
    encoder.trunk.model.patch_embed.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    features = encoder.features(photo())
    assert seen[0].shape == (1, 3, 48, 48) and not seen[0][:, :, 32:].any() and seen[0][:, :, :32].any()
    assert features.shape == (4, 6, 32)
    row = feature_row("a", (64, 96), features, encoder.grid_hw, FEATURE_DTYPES["float32"])
    assert row.grid_hw == (4, 6) and row.features.shape == (6, 6, 32)
    assert not row.features[4:].any() and row.features[:4].all(-1).all()


@pytest.mark.parametrize("title", ALL)
def test_pixels_have_the_mean_and_deviation_that_the_model_was_trained_with(folder, title):
    encoder = families.load(folder, title)
    image = photo((96, 96))
    mean, std = map(np.array, FAMILIES[title].pixels)
    expected = ((image / 255 - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(encoder.pixels(image)[0], expected, atol=1e-5)
    features = encoder.features(image)
    encoder.trunk.mean, encoder.trunk.std = next(p for p in (families.HALF, families.IMAGENET) if p[0] != tuple(mean))
    assert np.abs(encoder.features(image) - features).max() > 0.05


def without_positions(model):
    """The model with nothing that tells one place from another."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "pos_embed" or name.endswith("relative_position_bias_table"):
                parameter.zero_()


def shifted(encoder, patches, size):
    """Features of a photo of size x size patches, and of it moved to the right by so many patches, round the edge."""
    image = photo((size * encoder.patch_px,) * 2)
    return encoder.features(image), encoder.features(np.roll(image, patches * encoder.patch_px, 1))


@pytest.mark.parametrize("title", [title for title in TOKENS if title != "dinov3"])
def test_a_shift_by_a_patch_shifts_the_features_where_no_position_is_known(folder, title):
    """Attention without positions does not care for the order of its tokens: exact, round the edge too."""
    encoder = families.load(folder, title)
    without_positions(encoder.trunk.model)
    before, after = shifted(encoder, 1, 6)
    np.testing.assert_allclose(np.roll(before, 1, 1), after, atol=2e-4)
    assert np.abs(before - after).max() > 0.5


def test_a_shift_by_a_stride_shifts_a_convolutions_features_away_from_the_border(folder):
    encoder = families.load(folder, "convnext", size_px=640)
    before, after = shifted(encoder, 1, 20)
    np.testing.assert_allclose(before[8:-8, 8:-9], after[8:-8, 9:-8], atol=2e-4)
    assert np.abs(before[8:-8, 8:-9] - after[8:-8, 8:-9]).max() > 0.1


def test_a_shift_by_a_window_shifts_swins_features_away_from_the_border(folder):
    encoder = families.load(folder, "swin", size_px=512)
    before, after = shifted(encoder, 4, 16)
    np.testing.assert_allclose(before[4:12, 4:8], after[4:12, 8:12], atol=2e-4)
    assert np.abs(before[4:12, 4:8] - after[4:12, 4:8]).max() > 0.1


def agreement(a, b):
    """Correlation of two maps away from the border."""
    a, b = a[3:-3, 3:-3], b[3:-3, 3:-3]
    a, b = a - a.mean((0, 1)), b - b.mean((0, 1))
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


@pytest.mark.parametrize(("title", "least"), [("dinov3", 0.99), ("swin", 0.5)])
def test_a_shift_by_a_patch_moves_features_with_it_where_attention_knows_positions(folder, title, least):
    """Rotary positions reach over the border, Swin's windows stay where they are: not exact."""
    encoder = families.load(folder, title, size_px=12 * FAMILIES[title].patch_px)
    before, after = shifted(encoder, 1, 12)
    assert agreement(np.roll(before, 1, 1), after) > least and agreement(before, after) < 0.3


@pytest.mark.parametrize("title", TOKENS)
@pytest.mark.parametrize("join", ["concatenate", "mean"])
def test_several_layers_are_joined_each_after_the_norm(folder, title, join):
    family, encoder = FAMILIES[title], families.load(folder, title, layers=(-1, 0), join=join)
    features, blocks = hooked(encoder, title, photo())
    first, last = (normed(block[: features.shape[0]], encoder.trunk.model, family) for block in blocks)
    expected = (first + last) / 2 if join == "mean" else np.concatenate([first, last], -1)
    assert encoder.width == expected.shape[-1]
    np.testing.assert_allclose(features, expected, atol=2e-4)
    assert encoder.identity()["layers"] == [0, 1] and encoder.identity()["join"] == join


@pytest.mark.parametrize("title", ["swin", "convnext"])
def test_coarser_stages_are_resized_to_the_finest(folder, title):
    family, encoder = FAMILIES[title], families.load(folder, title, layers=(2, 3))
    features, stages = hooked(encoder, title, photo((192, 192)))
    fine, coarse = stages[2], normed(stages[3], encoder.trunk.model, family)
    assert encoder.patch_px == 16 and fine.shape[:2] == (12, 12) and coarse.shape[:2] == (6, 6)
    up = bilinear_matrix(12, 6)
    coarse = np.einsum("ia,abd,jb->ijd", up, coarse, up)
    np.testing.assert_allclose(features, np.concatenate([fine, coarse], -1), atol=2e-4)


def test_a_photo_of_odd_patches_is_padded_for_the_coarsest_stage(folder):
    encoder = families.load(folder, "convnext", layers=(2, 3))
    assert encoder.features(photo((100, 192))).shape == (6, 12, 56)
    assert encoder.features(photo((80, 192))).shape == (5, 12, 56)


@pytest.mark.parametrize(
    ("title", "fields", "message"),
    [
        ("mae", {"layers": (2,)}, r"encoder.layers has 2, but mae.json has 2: 0 ... 1, or from the end -1 ... -2"),
        ("swin", {"layers": (2, 3), "join": "mean"}, r"layers \[2, 3\] of swin.json have \[64, 128\] channels"),
        ("swin", {"size_px": 100}, "encoder.size_px = 100 is no multiple of the encoder's patch of 32 px; set 96"),
    ],
)
def test_layers_that_cannot_be_joined_are_refused(folder, title, fields, message):
    with pytest.raises(UserError, match=message):
        families.load(folder, title, **fields)


def register(monkeypatch, folder, model):
    """An architecture of timm's that somebody wrote, with its file."""
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, num_classes: model)
    torch.save(model.state_dict(), folder / "odd.pth")
    (folder / "odd.json").write_text(json.dumps({"name": "odd", "model_args": {}}))
    return {"name": "odd.json", "weights": "odd.pth"}


def test_an_architecture_without_tokens_or_map_is_refused(folder, monkeypatch):
    model = torch.nn.Linear(3, 3)
    model.pretrained_cfg = {"fixed_input_size": False, "classifier": None}
    fields = register(monkeypatch, folder, model)
    monkeypatch.setattr(trunks, "FREE_SIZE", "pretrained")
    with pytest.raises(UserError, match="'odd': this architecture gives neither patch tokens nor a feature map"):
        families.load(folder, "mae", **fields)


def test_an_input_of_one_size_that_cannot_be_changed_is_told(folder):
    fixed = {
        "name": "xcit_nano_12_p16_224",
        "model_args": {"depth": 1, "embed_dim": 16, "num_heads": 2, "img_size": 96},
    }
    (folder / "fixed.json").write_text(json.dumps(fixed))
    torch.save(timm.create_model(fixed["name"], **fixed["model_args"]).state_dict(), folder / "fixed.pth")
    fields = {"name": "fixed.json", "weights": "fixed.pth"}
    with pytest.raises(
        UserError, match=r"takes 96 x 96 px and nothing else, but a pass has 192 x 192; set encoder\.si"
    ):
        families.load(folder, "mae", **fields, size_px=192)
    windowed = families.load(folder, "mae", **fields, size_px=192, window_px=96, stride_px=32)
    assert windowed.features(photo()).shape == (8, 12, 16)


def test_strides_that_are_not_as_stated_are_told(folder):
    encoder = families.load(folder, "convnext")
    encoder.trunk._layers._taken[0] = encoder.trunk._layers._taken[0]._replace(width=31)
    with pytest.raises(
        UserError, match=r"layer 3 of convnext.json gives \[4, 6, 32\] for \[128, 192\] px, not .* 31\]"
    ):
        encoder.features(photo())


@pytest.mark.parametrize("title", ["supervised", "swin"])
def test_files_may_have_a_classifier_and_nothing_else_besides(folder, title):
    state = families.build(FAMILIES[title]).state_dict()
    assert any(key.startswith("head.") for key in state)
    torch.save({**state, "else.weight": torch.zeros(2)}, folder / "more.pth")
    with pytest.raises(UserError, match="more.pth: are the weights of another model"):
        families.load(folder, title, weights="more.pth")


def test_photos_are_resized_as_the_model_says(folder):
    encoder = families.load(folder, "mae")
    resized = Image.fromarray(photo()).resize((48, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(encoder.features(photo()), encoder.maps(encoder.pixels(np.asarray(resized)))[0])
