"""Patch embeddings to pixels: against an independent bilinear reference, by hand, in bands and chunks."""

from dataclasses import replace

import numpy as np
import pytest

from fmbseg_jax.inference import label_maps
from fmbseg_jax.inference.label_maps import Background, pixel_classes, refined
from labelgen.data import rle
from labelgen.data.rle import MaskSet
from tests.worlds.reference import pixel_logits


@pytest.mark.parametrize("size", [(1, 1), (23, 37), (5, 4), (40, 9)])
def test_equals_the_float64_pixel_logits(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    patches, prototypes = rng.normal(size=(4, 5, 6)), rng.normal(size=(7, 6))
    word_class = (0, 0, 1, 2, 2, 2, 3)
    got = pixel_classes(patches.astype(np.float32), prototypes.astype(np.float32), word_class, size)
    assert got.shape == size
    assert np.array_equal(got, pixel_logits(patches, prototypes, word_class, size).argmax(0))


def test_rows_are_y_and_columns_are_x() -> None:
    patches = np.zeros((2, 3, 2), np.float32)
    patches[..., 0] = 1
    patches[1, 2] = (0, 5)  # lower right
    got = pixel_classes(patches, np.eye(2, dtype=np.float32), (0, 1), (20, 30))
    assert got[15:, 25:].all() and not got[:5].any() and not got[:, :10].any()


def test_only_present_classes_are_named() -> None:
    rng = np.random.default_rng(1)
    patches, prototypes = rng.normal(size=(6, 6, 8)), rng.normal(size=(5, 8))
    word_class, present = (0, 1, 2, 2, 3), np.array([False, True, False, True])
    logits = pixel_logits(patches, prototypes, word_class, (18, 18))
    got = pixel_classes(patches.astype(np.float32), prototypes.astype(np.float32), word_class, (18, 18), present)
    assert np.array_equal(got, np.array([1, 3])[logits[[1, 3]].argmax(0)])


def test_chunks_and_bands_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    patches = rng.normal(size=(5, 7, 4)).astype(np.float32)
    prototypes, word_class = rng.normal(size=(40, 4)).astype(np.float32), tuple(i // 2 for i in range(40))
    whole = pixel_classes(patches, prototypes, word_class, (50, 61))
    monkeypatch.setattr(label_maps, "CHUNK_BYTES", 4 * 61 * 50 * 3)
    assert np.array_equal(pixel_classes(patches, prototypes, word_class, (50, 61)), whole)
    assert len(np.unique(whole)) > 10


@pytest.mark.parametrize("present", [None, np.array([True, True, False, True])])
def test_below_the_threshold_is_background(monkeypatch: pytest.MonkeyPatch, present: np.ndarray | None) -> None:
    rng = np.random.default_rng(3)
    patches, prototypes = rng.normal(size=(6, 7, 8)), rng.normal(size=(5, 8))
    patches, prototypes = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (patches, prototypes))
    word_class = (0, 1, 2, 2, 3)
    monkeypatch.setattr(label_maps, "CHUNK_BYTES", 4 * 30 * 20 * 2)  # the softmax spans chunks of classes and bands
    logits = pixel_logits(patches, prototypes, word_class, (20, 30))
    if present is not None:
        logits[~present] = -np.inf
    probability = np.exp(logits / 0.2) / np.exp(logits / 0.2).sum(0)
    expected = np.where(probability.max(0) < 0.5, 4, logits.argmax(0))
    arrays = patches.astype(np.float32), prototypes.astype(np.float32)
    got = pixel_classes(*arrays, word_class, (20, 30), present, Background(0.5, 0.2))
    assert np.array_equal(got, expected) and set(np.unique(got)) >= {0, 1, 3, 4}


def test_a_sharp_temperature_does_not_vanish() -> None:
    patches = np.full((2, 2, 3), -1 / np.sqrt(3), np.float32)  # cosines far below one
    eye = np.eye(3, dtype=np.float32)
    assert (pixel_classes(patches, eye, (0, 1, 2), (4, 4), None, Background(0.5, 0.005)) == 3).all()
    patches[..., 1] += 0.05
    assert (pixel_classes(patches, eye, (0, 1, 2), (4, 4), None, Background(0.5, 0.005)) == 1).all()


def test_ties_go_to_the_lower_class() -> None:
    assert not pixel_classes(np.ones((2, 2, 3), np.float32), np.ones((4, 3), np.float32), (0, 1, 2, 3), (9, 9)).any()


def masks_of(bitmaps: np.ndarray, iou: list[float]) -> MaskSet:
    runs = [rle.encode_mask(bitmap) for bitmap in bitmaps]
    offsets = np.cumsum([0, *map(len, runs)])
    empty = MaskSet.empty(bitmaps.shape[1:])
    return replace(empty, runs=np.concatenate(runs), offsets=offsets, iou=np.array(iou, np.float32))


def test_majority_votes_small_masks_over_large_ones() -> None:
    label_map = np.zeros((6, 8), np.uint16)
    label_map[2:4, 2:6] = 1
    label_map[2, 3] = 2
    large, small = np.ones((6, 8), bool), np.zeros((6, 8), bool)
    small[2:4, 2:5] = True
    for bitmaps in (np.stack([large, small]), np.stack([small, large])):
        got = refined(label_map, masks_of(bitmaps, [0.9, 0.9]), 0.8)
        assert np.array_equal(got, small.astype(np.uint16))


def test_poor_masks_do_not_vote() -> None:
    label_map = np.arange(12, dtype=np.uint16).reshape(3, 4) // 8
    everywhere = np.ones((1, 3, 4), bool)
    assert np.array_equal(refined(label_map, masks_of(everywhere, [0.79]), 0.8), label_map)
    assert not refined(label_map, masks_of(everywhere, [0.81]), 0.8).any()
