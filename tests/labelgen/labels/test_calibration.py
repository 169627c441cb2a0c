"""Calibration by hand: what each class's cosines are over patches, and what little is believed of few photos."""

from dataclasses import replace

import numpy as np
import pytest

from labelgen.labels.free_labels import label_stages
from labelgen.labels.presence import ENOUGH_PHOTOS, Calibration, measure, sample
from tests.worlds.labelling import ONTOLOGY, PROTOTYPES, SETTINGS, evidence, truth


def test_mean_and_spread_over_patches() -> None:
    rows = [evidence()] * 72  # grass on 44 of 48 patches, ball on 4, box nowhere
    found = measure(rows, "naclip", PROTOTYPES, ONTOLOGY)
    mean = np.array([44 / 48, 4 / 48, 0])
    belief = 72 / (72 + ENOUGH_PHOTOS)
    np.testing.assert_allclose(found.mean, mean.mean() + belief * (mean - mean.mean()), atol=1e-6)
    spread = np.sqrt(np.maximum(mean * (1 - mean), 1e-8))
    spread = np.maximum(spread, spread.mean() / 4)
    np.testing.assert_allclose(found.spread, spread.mean() + belief * (spread - spread.mean()), atol=1e-6)


def test_one_scale_for_all_classes() -> None:
    scale = Calibration(np.array([0.5, 0.1], np.float32), np.array([0.3, 0.1], np.float32))
    np.testing.assert_allclose(scale.apply(np.array([[0.8, 0.2]], np.float32)), [[0.2, 0.2]], atol=1e-6)
    cosines = np.array([[0.3, -0.2]], np.float32)
    np.testing.assert_array_equal(Calibration.none(2).apply(cosines), cosines)


def test_few_photos_change_little() -> None:
    one = measure([evidence()], "naclip", PROTOTYPES, ONTOLOGY)
    many = measure([evidence()] * 500, "naclip", PROTOTYPES, ONTOLOGY)
    assert np.ptp(one.mean) < 0.15 * np.ptp(many.mean)
    np.testing.assert_array_equal(measure([], "naclip", PROTOTYPES, ONTOLOGY).spread, [1, 1, 1])


def test_a_word_that_fires_everywhere_is_put_in_its_place() -> None:
    """Every patch looks a good deal like grass: uncalibrated the ball is lost, calibrated it is found."""
    row = evidence()
    dense = row.dense["naclip"].copy()
    dense[..., 1] = 0.6 + 0.1 * dense[..., 1]
    dense[..., 2] *= 0.5
    row = replace(row, dense={"naclip": dense})
    settings = replace(SETTINGS, presence=replace(SETTINGS.presence, gate=0.0))
    scale = measure([row] * 100, "naclip", PROTOTYPES, ONTOLOGY)
    lost = label_stages(row, settings, ONTOLOGY, PROTOTYPES, Calibration.none(3)).full
    found = label_stages(row, settings, ONTOLOGY, PROTOTYPES, scale).full
    assert (lost == 1).sum() == 0
    assert (found[truth() == 1] == 1).mean() > 0.9


@pytest.mark.parametrize(
    ("photos", "most", "expected"), [(3, 5, [0, 1, 2]), (10, 4, [0, 2, 5, 7]), (4, 0, []), (0, 3, [])]
)
def test_sample_is_spread_evenly(photos: int, most: int, expected: list[int]) -> None:
    assert sample(photos, most) == expected
