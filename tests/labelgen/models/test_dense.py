import numpy as np
import pytest
import torch
import torch.nn.functional as F

from labelgen.core.errors import UserError
from labelgen.core.geometry import Windows, tile
from labelgen.models import dense_clip
from labelgen.models.clip import load_clip
from labelgen.models.dense_clip import VARIANTS, Tokens, Variant, window_maps
from tests.worlds import tiny_models
from tests.worlds.dense_reference import Reference, Tower, expected_tokens, unit

GRID = (4, 4)
ONE = Windows((32, 32), 32, np.array([[0, 0]]))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tiny_models.write(tmp_path_factory.mktemp("weights"))
    return load_clip(tiny_models.config(folder).clip, folder, "cpu", "float32")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def image(rng, *size_hw):
    return rng.integers(0, 256, (*size_hw, 3), np.uint8)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_each_variant_is_its_formula(encoder, rng, name):
    frame, features = image(rng, 32, 32), rng.normal(size=(*GRID, 7)).astype(np.float32)
    maps, _ = window_maps(encoder, frame, ONE, (name,), features)
    ref = Reference(Tower(encoder.visual, 6), [x[0] for x in encoder.inputs(frame[None], 6)])
    expected = ref.project(expected_tokens(name, ref, unit(features.astype(np.float64)), GRID))
    assert maps[name].dtype == np.float16
    np.testing.assert_allclose(maps[name].reshape(16, -1), expected, atol=1e-3)  # float16


def test_variants_differ(encoder, rng):
    """Otherwise the test above might compare one thing with itself."""
    maps, _ = window_maps(encoder, image(rng, 32, 32), ONE, tuple(VARIANTS), rng.normal(size=(*GRID, 7)).astype("f4"))
    flat = [value.astype(np.float32).ravel() for value in maps.values()]
    assert all(np.abs(a - b).max() > 0.02 for i, a in enumerate(flat) for b in flat[:i])


def plain(tokens: Tokens) -> torch.Tensor:
    """The last block as it is."""
    block, (q, k, v) = tokens.block, tokens.qkv
    return tokens.patches(block.residual(tokens.x, block.out(block.attend(q, k, v))))


def open_clip_dense(frame):
    """open_clip's own patch tokens, projected: [4, 4, E] unit."""
    model = tiny_models.clip_model(tiny_models.CLIP_JSON)
    model.visual.output_tokens = True
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (tiny_models.MEAN, tiny_models.STD))
    with torch.no_grad():
        pooled, tokens = model.visual(((torch.from_numpy(frame).permute(2, 0, 1) / 255 - mean) / std)[None])
        return F.normalize(tokens @ model.visual.proj, dim=-1).view(*GRID, -1), F.normalize(pooled, dim=-1)


def test_where_the_variant_is_the_identity_the_maps_are_open_clips_own(encoder, rng, monkeypatch):
    monkeypatch.setitem(VARIANTS, "plain", Variant(plain))
    frame = image(rng, 32, 32)
    maps, cls = window_maps(encoder, frame, ONE, ("plain",), np.ones((*GRID, 2), np.float32))
    tokens, pooled = open_clip_dense(frame)
    np.testing.assert_allclose(maps["plain"], tokens, atol=1e-3)
    np.testing.assert_allclose(cls, pooled, atol=1e-5)


def test_maskclip_is_open_clips_modules_without_attention(encoder, rng):
    frame = image(rng, 32, 32)
    model = tiny_models.clip_model(tiny_models.CLIP_JSON).visual
    block = model.transformer.resblocks[-1]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (tiny_models.MEAN, tiny_models.STD))
    with torch.no_grad():
        x = model._embeds(((torch.from_numpy(frame).permute(2, 0, 1) / 255 - mean) / std)[None])
        for previous in model.transformer.resblocks[:-1]:
            x = previous(x)
        v = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1)[2]
        expected = F.normalize(model.ln_post(block.attn.out_proj(v)) @ model.proj, dim=-1)[0, 1:]
    maps, _ = window_maps(encoder, frame, ONE, ("maskclip",), np.ones((*GRID, 2), np.float32))
    np.testing.assert_allclose(maps["maskclip"].reshape(16, -1), expected, atol=1e-3)


def test_maps_are_the_mean_over_the_windows_that_cover_a_patch(encoder, rng):
    """A photo of 40 x 56 px with windows at multiples of the patch, so that patches of the grid are tokens."""
    frame, where = image(rng, 40, 56), Windows((40, 56), 32, np.array([[0, 0], [8, 8], [0, 24], [8, 24]]))
    features = rng.normal(size=(5, 7, 3)).astype(np.float32)
    maps, cls = window_maps(encoder, frame, where, ("maskclip",), features)
    total, count = np.zeros((5, 7, 24)), np.zeros((5, 7, 1))
    for i, (y, x) in enumerate(where.starts_yx):
        crop = frame[y : y + 32, x : x + 32]
        alone, its_cls = window_maps(encoder, crop, ONE, ("maskclip",), np.ones((*GRID, 3), np.float32))
        total[y // 8 : y // 8 + 4, x // 8 : x // 8 + 4] += alone["maskclip"]
        count[y // 8 : y // 8 + 4, x // 8 : x // 8 + 4] += 1
        np.testing.assert_allclose(cls[i], its_cls[0], atol=1e-6)
    corner = np.broadcast_to(count > 0, total.shape)  # the lower left is outside all four windows
    assert not corner.all()
    np.testing.assert_allclose(maps["maskclip"][corner], (total / np.maximum(count, 1))[corner], atol=2e-3)


def test_proxy_features_lie_under_their_window(encoder):
    """Features that are their own place: a swap of x and y, or a shift by a patch, would show."""
    h, w = 10, 14
    places = np.stack(np.meshgrid(np.arange(h) + 0.5, np.arange(w) + 0.5, indexing="ij"), -1).astype(np.float32)
    where = tile((80, 112), 80, 32, 16)
    under = dense_clip._under(where, torch.from_numpy(places))
    assert under.shape[:3] == (len(where.starts_yx), 4, 4)
    for (y, x), features in zip(where.starts_yx, under, strict=True):
        centre = np.stack(np.meshgrid(y + 8 * np.arange(4) + 4.0, x + 8 * np.arange(4) + 4.0, indexing="ij"), -1) / 8
        np.testing.assert_allclose(features, unit(centre), atol=1e-5)


@pytest.mark.parametrize("grid_hw", [(1, 1), (1, 9), (9, 1), (3, 11), (30, 30)])
def test_any_grid_is_filled_with_finite_vectors(encoder, rng, grid_hw):
    where = tile((grid_hw[0] * 5, grid_hw[1] * 5), 48, 32, 16)
    features = np.ones((*grid_hw, 3), np.float32)  # all alike: proxyclip's similarities are all below their mean x BETA
    maps, _ = window_maps(encoder, image(rng, *where.frame_hw), where, tuple(VARIANTS), features)
    for value in maps.values():
        assert value.shape == (*grid_hw, 24)
        norm = np.linalg.norm(value.astype(np.float32), axis=-1)
        assert np.isfinite(value).all() and (norm > 0.3).all() and (norm < 1.001).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32(tmp_path, encoder, rng, dtype):
    folder = tiny_models.write(tmp_path)
    half = load_clip(tiny_models.config(folder).clip, folder, "cpu", dtype)
    frame, features = image(rng, 32, 32), rng.normal(size=(*GRID, 7)).astype(np.float32)
    for name, value in window_maps(half, frame, ONE, tuple(VARIANTS), features)[0].items():
        exact = window_maps(encoder, frame, ONE, (name,), features)[0][name]
        assert (value.astype(np.float32) * exact.astype(np.float32)).sum(-1).min() > 0.99, name


def test_an_unknown_variant_lists_those_there_are():
    with pytest.raises(UserError, match="clip.variants has 'clipdense'; choose from maskclip, .*proxyclip"):
        dense_clip.check_variants(["maskclip", "clipdense"])
