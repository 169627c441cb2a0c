"""Maps sharpened by a photo's colours, beside what the authors' published code made of the same input.

pamr_outside.npz: `python -m tests.fmbseg_jax.inference.test_sharpening PAMR.PY` writes it anew, of models/mods/pamr.py
of github.com/visinf/1-stage-wseg (commit d905fca, Apache-2.0), 10 iterations, dilations 1, 2, 4, 8, 12, 24.
"""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from fmbseg_jax.inference import label_maps, sharpening
from fmbseg_jax.inference.label_maps import may_win, sharpened_classes
from fmbseg_jax.inference.sharpening import sharpened

FILE = Path(__file__).with_name("pamr_outside.npz")


def by_hand(maps: np.ndarray, image: np.ndarray, iterations: int = 10) -> np.ndarray:
    """The paper's equations in float64, a pixel and a neighbour at a time; beyond the border is the border's pixel."""
    _, height, width = maps.shape
    x, m = image.astype(np.float64), maps.astype(np.float64)
    places, weights = {}, {}
    for i in range(height):
        for j in range(width):
            near, seen = [], []
            for d in (1, 2, 4, 8, 12, 24):
                for dy in (-d, 0, d):
                    for dx in (-d, 0, d):
                        at = min(max(i + dy, 0), height - 1), min(max(j + dx, 0), width - 1)
                        seen.append(x[at])
                        if dy or dx:
                            near.append(at)
            deviation = np.std(seen, axis=0, ddof=1)
            energy = np.array([np.mean(-np.abs(x[i, j] - x[at]) / (1e-8 + 0.1 * deviation)) for at in near])
            weights[i, j], places[i, j] = np.exp(energy) / np.exp(energy).sum(), near
    for _ in range(iterations):
        m = np.stack([sum(w * m[:, *at] for w, at in zip(weights[p], places[p], strict=True)) for p in places], -1)
        m = m.reshape(maps.shape)
    return m


def test_as_the_authors_code(monkeypatch: pytest.MonkeyPatch) -> None:
    with np.load(FILE) as known:
        found = sharpened(known["maps"], known["image"])
        assert np.abs(known["sharpened"] - known["maps"]).max() > 0.5
        np.testing.assert_allclose(found, known["sharpened"], atol=2e-5)
        monkeypatch.setattr(sharpening, "CANVAS_PX", 37)  # another canvas, the same photo
        np.testing.assert_allclose(sharpened(known["maps"], known["image"]), known["sharpened"], atol=2e-5)


def test_as_the_equations_on_a_photo_smaller_than_the_rings() -> None:
    rng = np.random.default_rng(1)
    image, maps = rng.integers(0, 256, (5, 8, 3), np.uint8), rng.random((10, 5, 8), np.float32)  # in two groups
    np.testing.assert_allclose(sharpened(maps, image), by_hand(maps, image), atol=1e-5)


def test_an_edge_moves_to_where_the_colours_change() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = (200, 90, 20)
    image += np.random.default_rng(0).integers(0, 12, image.shape, np.uint8)
    said = np.clip((np.arange(60) - 26) / 14 + 0.5, 0, 1).astype(np.float32)  # soft, and four pixels to the left
    maps = np.stack([1 - said, said])[:, None].repeat(40, 1)
    assert (maps.argmax(0)[:, 27:30] == 1).all()
    assert np.array_equal(sharpened(maps, image).argmax(0), (np.arange(60) >= 30)[None].repeat(40, 0))


def test_no_class_that_may_win_is_left_out() -> None:
    rng = np.random.default_rng(0)
    for sharpness in (0.02, 0.1, 1.0):
        patches = rng.dirichlet(np.full(50, sharpness), 30)
        pixels = rng.dirichlet(np.full(30, 0.2), 2000) @ patches
        kept = may_win(patches.max(0))
        assert set(pixels.argmax(1)) <= set(kept) and (np.diff(kept) > 0).all()
    few = np.eye(50)[rng.integers(0, 4, 30)] * 0.97 + 0.03 / 50
    assert may_win(few.max(0)).tolist() == [0, 1, 2, 3]
    assert may_win(np.ones(1)).tolist() == [0] and may_win(np.full(3, 0.5)).tolist() == [0, 1, 2]


def test_label_maps_are_the_best_of_the_sharpened_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    image = np.kron(rng.integers(0, 256, (5, 7, 3)), np.ones((6, 6, 1))).astype(np.uint8)
    patches, prototypes = rng.normal(size=(4, 5, 6)).astype(np.float32), np.eye(6, dtype=np.float32)
    word_class, temperature = (0, 0, 1, 2, 3, 3), 0.5
    best = np.maximum.reduceat(patches, [0, 2, 3, 4], axis=-1).astype(np.float64) / temperature
    probabilities = (np.exp(best) / np.exp(best).sum(-1, keepdims=True)).transpose(2, 0, 1).astype(np.float32)
    maps = sharpened(label_maps.to_pixels(probabilities, (30, 42)), image)
    found = sharpened_classes(patches, prototypes, word_class, image, temperature)
    assert found.dtype == np.uint16 and np.array_equal(found, maps.argmax(0)) and len(np.unique(found)) > 2
    below = sharpened_classes(patches, prototypes, word_class, image, temperature, threshold=0.5)
    assert np.array_equal(below, np.where(maps.max(0) < 0.5, 4, maps.argmax(0)))
    monkeypatch.setattr(label_maps, "SHARPEN_PX", 21)  # the photo is made smaller, the mask is not
    smaller = sharpened_classes(patches, prototypes, word_class, image, temperature)
    assert smaller.shape == found.shape and 0.6 < (smaller == found).mean() < 1


def write(code: str) -> None:
    import torch

    rng = np.random.default_rng(0)
    image, maps = rng.integers(0, 256, (37, 61, 3), np.uint8), rng.random((3, 37, 61), np.float32)
    pamr = runpy.run_path(code)["PAMR"](10, [1, 2, 4, 8, 12, 24])
    with torch.inference_mode():
        photo = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
        found = pamr(photo, torch.from_numpy(maps)[None])[0].numpy()
    np.savez_compressed(FILE, image=image, maps=maps, sharpened=found)


if __name__ == "__main__":
    write(sys.argv[1])
