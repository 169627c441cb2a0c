"""Texture statistics and silhouettes of regions: what they ignore, what they tell apart; classes judge, never teach."""

import numpy as np
import pytest

from pocket.regions import cluster, large_enough, silhouettes, textures
from pocket.scenes import draw_layout, render, scene_rng


@pytest.fixture(scope="module")
def described() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Statistics [n, 38] of the large regions of 60 layouts in two drawings, and the regions' classes [n]."""
    first, second, classes = [], [], []
    for i in range(60):
        rng = scene_rng(7, i, "train")
        layout = draw_layout(rng)
        drawings = [render(layout, rng) for _ in range(2)]
        found = [textures(scene.photo, layout.regions) for scene in drawings]
        for r in np.flatnonzero(large_enough(layout.regions)):
            first.append(found[0][r])
            second.append(found[1][r])
            classes.append(layout.mask[layout.regions == r][0])
    return np.array(first), np.array(second), np.array(classes)


def purity(of: np.ndarray, classes: np.ndarray) -> float:
    return sum(np.bincount(classes[of == k]).max() for k in np.unique(of)) / len(of)


def test_texture_clusters_are_nearly_pure(described: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    first, second, classes = described
    found = cluster(first, second, 24, directions=12)
    assert purity(found.assign(first), classes) > 0.8
    shuffled = np.random.default_rng(0).permutation(classes)
    assert purity(found.assign(first), shuffled) < 0.5, "the measure itself says little of chance"


def test_textures_ignore_contrast_and_lightness() -> None:
    scene = render(draw_layout(scene_rng(7, 1, "train")), np.random.default_rng(0))
    pale = (60 + 0.4 * scene.photo.astype(np.float64)).astype(np.uint8)
    one, other = textures(scene.photo, scene.regions), textures(pale, scene.regions)
    spread = one.std(0) + 1e-3
    assert np.median(np.abs(one - other) / spread) < 0.3


def test_textures_ignore_quarter_turns() -> None:
    scene = render(draw_layout(scene_rng(7, 2, "train")), np.random.default_rng(0))
    turned = textures(np.ascontiguousarray(np.rot90(scene.photo)), np.ascontiguousarray(np.rot90(scene.regions)))
    np.testing.assert_allclose(turned, textures(scene.photo, scene.regions), atol=0.05)


def test_silhouettes_ignore_place_turn_and_size_and_leave_out_what_the_frame_cuts() -> None:
    regions = np.zeros((120, 160), np.uint16)
    regions[20:40, 30:70] = 1
    regions[70:110, 100:120] = 2
    regions[60:119, 20:60] = 3
    regions[0:30, 120:150] = 4
    found = silhouettes(regions)
    assert np.isnan(found[0]).all() and np.isnan(found[4]).all()
    np.testing.assert_allclose(found[1], found[2], atol=1e-6)
    assert np.abs(found[1] - found[3]).max() > 0.05, "another shape"
