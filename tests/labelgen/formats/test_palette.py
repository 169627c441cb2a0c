"""Colours of classes: stable, distinct, and the overlay puts them where the label map says."""

import numpy as np

from labelgen.formats.palette import _EYES, _lab, overlay, palette


def test_a_longer_palette_starts_with_the_shorter() -> None:
    assert np.array_equal(palette(256)[:7], palette(7))
    assert palette(256).shape == (256, 3)


def test_colours_are_apart_for_every_eye() -> None:
    colours = palette(12).astype(np.float64)
    for eye in _EYES:
        lab = _lab(colours, eye)
        distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
        assert distances[~np.eye(12, dtype=bool)].min() > 10  # a difference of 2.3 is just noticeable
    assert len(np.unique(palette(256), axis=0)) == 256


def test_the_classes_of_voc_are_apart_for_eyes_without_green_or_red_cones() -> None:
    colours = palette(21).astype(np.float64)
    for eye in _EYES[1:]:
        lab = _lab(colours, eye)
        distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
        assert distances[~np.eye(21, dtype=bool)].min() > 9  # four times what is just noticeable


def test_lab_of_known_colours() -> None:
    lab = _lab(np.array([[255, 255, 255], [255, 0, 0], [0, 0, 0]], float), _EYES[0])
    assert np.allclose(lab, [[100, 0, 0], [53.24, 80.09, 67.2], [0, 0, 0]], atol=0.05)


def test_overlay_tints_each_region_and_draws_its_border() -> None:
    image = np.full((6, 8, 3), 100, np.uint8)
    label_map = np.zeros((6, 8), np.uint8)
    label_map[:, 4:] = 1
    colours = np.array([[200, 0, 0], [0, 200, 0]], np.uint8)
    got = overlay(image, label_map, colours)
    assert got.dtype == np.uint8 and got.shape == image.shape
    assert np.array_equal(got[2, 1], [155, 45, 45]) and np.array_equal(got[2, 6], [45, 155, 45])
    assert got[2, 4].max() < 60
