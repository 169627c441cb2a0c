"""The dense variants at the shapes of ViT-B/16 and ViT-L/14, on photos that are not square, in several windows.

The towers are shallow (seven blocks, so that CLIP surgery has its six); widths, heads and patches are the official
ones. What goes into the last blocks comes from open_clip's own modules, the variants from float64 numpy.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from labelgen.core.geometry import Windows
from labelgen.models.clip import ClipEncoder, ClipSource
from labelgen.models.dense_clip import VARIANTS, window_maps
from labelgen.models.libraries import CLIP, open_clip, resize_pos_embed
from tests.worlds import tiny_models
from tests.worlds.dense_reference import Reference, Tower, expected_tokens, resized, unit

TEXT = {"context_length": 8, "vocab_size": 10, "width": 16, "heads": 2, "layers": 1}


def tower(name, quick_gelu, image_px, layers=7):
    """A shallow CLIP of official shapes, and the same for another size of image, as open_clip resizes it."""

    def build(size_px):
        shapes = open_clip.get_model_config(name)
        vision = {**shapes["vision_cfg"], "layers": layers, "image_size": size_px}
        return CLIP(shapes["embed_dim"], vision, TEXT, quick_gelu=quick_gelu).eval()

    torch.manual_seed(0)
    trained = tiny_models.lively(build(224))
    if image_px == 224:
        return trained, trained
    wanted, state = build(image_px), trained.state_dict()
    resize_pos_embed(state, wanted)
    wanted.load_state_dict(state)
    return trained, wanted


def blobs(rng, size_hw):
    """A photo with things in it: large patches of colour, uint8 [H, W, 3]."""
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    return np.asarray(coarse.resize(size_hw[::-1], Image.Resampling.NEAREST))


def encoder_of(model, pixels):
    source = ClipSource({}, Path("none"), pixels["mean"], pixels["std"], "bicubic", str)
    return ClipEncoder(model, source, torch.device("cpu"), torch.float32, 3)


def windows_inputs(model, frame, where, pixels):
    """What open_clip puts into the last six blocks, window by window: lists of [1 + N, width]."""
    mean, std = (torch.tensor(pixels[key]).view(3, 1, 1) for key in ("mean", "std"))
    images = (torch.from_numpy(where.cut(frame)).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.inference_mode():
        inputs = [model.visual._embeds(images)]
        for block in model.visual.transformer.resblocks[:-1]:
            inputs.append(block(inputs[-1]))
    return [[x[i] for x in inputs[-6:]] for i in range(len(images))]


def mean_over_windows(maps, where, cell_px, grid_hw):
    """Each window's map [a, b, E] laid on the photo's grid and averaged, where cells and windows are aligned."""
    total, count = np.zeros((*grid_hw, maps[0].shape[-1])), np.zeros((*grid_hw, 1))
    for (y, x), values in zip(where.starts_yx, maps, strict=True):
        place = slice(y // cell_px, y // cell_px + len(values)), slice(x // cell_px, x // cell_px + len(values))
        total[place] += values
        count[place] += 1
    assert count.min() == 1 < count.max()
    return total / count


@pytest.mark.parametrize(
    ("name", "tag", "side", "frame_hw"),
    [
        ("ViT-B-16", "openai", 224, (256, 336)),  # 14 x 14 patches a window, 16 x 21 in the photo
        ("ViT-B-16", "openai", 336, (400, 336)),  # position embeddings of 14 x 14 on 21 x 21 patches
        ("ViT-L-14", "laion2b_s32b_b82k", 224, (308, 224)),  # 16 x 16 patches a window, no QuickGELU
    ],
)
def test_each_variant_is_its_formula_at_official_shapes(name, tag, side, frame_hw):
    pixels = open_clip.get_pretrained_cfg(name, tag)
    trained, theirs = tower(name, pixels.get("quick_gelu", False), side)
    encoder, patch = encoder_of(trained, pixels), int(name[-2:])
    rng = np.random.default_rng(0)
    frame = blobs(rng, frame_hw)
    corners = [(y, x) for y in sorted({0, frame_hw[0] - side}) for x in sorted({0, frame_hw[1] - side})]
    where = Windows(frame_hw, side, np.array(corners))
    grid_hw = frame_hw[0] // patch, frame_hw[1] // patch
    features = rng.normal(size=(*grid_hw, 5)).astype(np.float32)
    maps, cls = window_maps(encoder, frame, where, tuple(VARIANTS), features)

    n = side // patch
    under = [features[y // patch : y // patch + n, x // patch : x // patch + n] for y, x in corners]
    weights = Tower(theirs.visual, 6)
    references = [Reference(weights, inputs) for inputs in windows_inputs(theirs, frame, where, pixels)]
    for variant in VARIANTS:
        expected = [
            ref.project(expected_tokens(variant, ref, unit(proxy.astype(np.float64)), (n, n))).reshape(n, n, -1)
            for ref, proxy in zip(references, under, strict=True)
        ]
        expected = mean_over_windows(expected, where, patch, grid_hw)
        assert expected.std((0, 1)).mean() > 0.002  # patches differ
        np.testing.assert_allclose(maps[variant], expected, atol=1e-4, err_msg=variant)  # float16 of components < 0.2
    assert cls.shape == (len(corners), encoder.text_width)


def test_values_and_maps_are_resized_to_a_finer_grid_of_features():
    """A photo of 224 x 256 px has 14 x 16 patches of ViT-B/16, and here 21 x 24 of the other encoder."""
    pixels = open_clip.get_pretrained_cfg("ViT-B-16", "openai")
    model, _ = tower("ViT-B-16", True, 224, layers=2)
    rng = np.random.default_rng(1)
    frame, where = blobs(rng, (224, 256)), Windows((224, 256), 224, np.array([(0, 0), (0, 32)]))
    features = rng.normal(size=(21, 24, 5)).astype(np.float32)
    maps, _ = window_maps(encoder_of(model, pixels), frame, where, ("proxyclip", "maskclip"), features)
    fine, coarse = [], []
    for left, inputs in zip((0, 3), windows_inputs(model, frame, where, pixels), strict=True):
        ref, proxy = (
            Reference(Tower(model.visual, 1), inputs[-1:]),
            unit(features[:, left : left + 21].astype(np.float64)),
        )
        fine.append(ref.project(expected_tokens("proxyclip", ref, proxy, (14, 14))).reshape(21, 21, -1))
        patches = ref.project(expected_tokens("maskclip", ref, proxy, (14, 14)))
        coarse.append(resized(patches, (14, 14), (21, 21)).reshape(21, 21, -1))
    cells = Windows((21, 24), 21, np.array([(0, 0), (0, 3)]))
    for variant, each in (("proxyclip", fine), ("maskclip", coarse)):
        expected = mean_over_windows(each, cells, 1, (21, 24))
        np.testing.assert_allclose(maps[variant], expected, atol=1e-4, err_msg=variant)
