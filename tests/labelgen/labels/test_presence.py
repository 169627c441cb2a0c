"""Dense maps as labels read them: one variant, or the mean of two."""

from dataclasses import replace

import numpy as np
import pytest

from labelgen.data.records import EvidenceRow
from labelgen.labels import presence
from labelgen.labels.free_labels import label_stages
from labelgen.labels.presence import dense_logits, dense_map
from tests.worlds.labelling import NEUTRAL, ONTOLOGY, PROTOTYPES, SETTINGS, evidence


def two_variants() -> EvidenceRow:
    """naclip is sure of grass in the first patch, proxyclip of a ball; naclip's windows disagree in the second."""
    first, second = np.zeros((6, 8, 5), np.float16), np.zeros((6, 8, 5), np.float16)
    first[0, 0, 0], second[0, 0, 2] = 1, 1
    first[0, 1, 2], second[0, 1, 2] = 0.5, 1
    return replace(evidence(), dense={"naclip": first, "proxyclip": second})


def test_the_mean_of_two_variants_is_the_mean_of_their_maps() -> None:
    row = two_variants()
    mean = dense_map(row, "naclip+proxyclip")
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean[0, :2], [[0.5, 0, 0.5, 0, 0], [0, 0, 0.75, 0, 0]])
    np.testing.assert_array_equal(dense_map(row, "naclip")[0, :2], [[1, 0, 0, 0, 0], [0, 0, 0.5, 0, 0]])


def test_a_class_scores_by_its_best_word_in_the_mean_and_not_by_the_mean_of_its_best() -> None:
    row = two_variants()
    row.dense["proxyclip"][0, 0] = [0, 1, 0, 0, 0]  # "lawn", where naclip says "grass": one class, two words
    logits = dense_logits(row, "naclip+proxyclip", PROTOTYPES, ONTOLOGY)
    np.testing.assert_array_equal(logits[0, :2], [[0.5, 0, 0], [0, 0.75, 0]])


def test_calibration_and_labels_read_the_mean() -> None:
    row = two_variants()
    measured = presence.measure([row], "naclip+proxyclip", PROTOTYPES, ONTOLOGY)
    alone = presence.measure([row], "naclip", PROTOTYPES, ONTOLOGY)
    assert measured.mean[1] - measured.mean[2] == pytest.approx(1.25 / 48 / 9)  # of one photo a ninth is believed
    assert alone.mean[1] - alone.mean[2] == pytest.approx(0.5 / 48 / 9)
    settings = replace(SETTINGS, variant="naclip+proxyclip", presence=replace(SETTINGS.presence, gate=0.0))
    both = label_stages(row, settings, ONTOLOGY, PROTOTYPES, NEUTRAL).probabilities[0, 0]
    assert both[0] == pytest.approx(both[1]), "grass and ball are even where each variant names one"


def crops(*boxes: tuple[float, float, float, float]) -> EvidenceRow:
    """A crop a box: the first sees grass, the second a ball, each as far as `PRESENCE` says."""
    seen = np.zeros((len(boxes), 5), np.float16)
    seen[np.arange(len(boxes)), [0, 2][: len(boxes)]] = 1
    return replace(evidence(), crops=seen, crop_boxes=np.array(boxes, np.float32))


PRESENCE = replace(SETTINGS.presence, temperature=0.5, threshold=0.7)
SURE, OTHER = np.exp([2, 0]) / (np.exp(2) + 2)  # of three classes, one with cosine 1, at temperature 1/2


def test_the_gate_is_the_mean_of_the_crops_over_a_patch_by_their_inverse_squared_area() -> None:
    found = presence.detect(crops((0, 0, 1, 1), (0, 0, 0.5, 1)), PROTOTYPES, ONTOLOGY, PRESENCE)
    assert found.scores.tolist() == pytest.approx([SURE, SURE, OTHER]) and found.present.tolist() == [True, True, False]
    left = np.array([SURE + 4 * OTHER, OTHER + 4 * SURE, 5 * OTHER]) / 5
    np.testing.assert_allclose(found.gate[:, :4], np.broadcast_to(np.log(left + 1e-4), (6, 4, 3)), rtol=1e-5)
    right = np.log(np.array([SURE, OTHER, OTHER]) + 1e-4)
    np.testing.assert_allclose(found.gate[:, 4:], np.broadcast_to(right, (6, 4, 3)), rtol=1e-5)


def test_boxes_cover_the_patches_whose_centres_they_have_and_none_twice() -> None:
    upper, lower = (0, 0, 1, 0.25), (0, 0.25, 1, 1)  # 0.25 is the centre of the second of six rows
    found = presence.detect(crops(upper, lower), PROTOTYPES, ONTOLOGY, PRESENCE)
    assert found.gate[:, 0, 0].argmax() == 0 and (found.gate[1:, :, 1] > found.gate[1:, :, 0]).all()
    assert (found.gate[0, :, 0] > found.gate[0, :, 1]).all()
    beside, across = (0, 0, 0.1875, 1), (0.1875, 0, 1, 1)  # and that of the second of eight columns
    found = presence.detect(crops(beside, across), PROTOTYPES, ONTOLOGY, PRESENCE)
    assert (found.gate[:, 1:, 1] > found.gate[:, 1:, 0]).all() and (found.gate[:, 0, 0] > found.gate[:, 0, 1]).all()


def test_where_no_crop_lies_the_gate_knows_nothing() -> None:
    found = presence.detect(crops((0, 0, 0.5, 1)), PROTOTYPES, ONTOLOGY, PRESENCE)
    np.testing.assert_allclose(found.gate[:, 4:], np.full((6, 4, 3), np.log(1e-4)), rtol=1e-5)


def test_a_class_is_present_from_the_threshold_on_and_the_best_one_always() -> None:
    row = crops((0, 0, 1, 1), (0, 0, 1, 1))
    grass, _, box = presence.detect(row, PROTOTYPES, ONTOLOGY, PRESENCE).scores.tolist()
    for threshold, present in ((grass, [True, True, False]), (box, [True] * 3), (2.0, [True, True, False])):
        found = presence.detect(row, PROTOTYPES, ONTOLOGY, replace(PRESENCE, threshold=threshold))
        assert found.present.tolist() == present, threshold


def test_probabilities_are_those_of_the_present_classes_and_sum_to_one() -> None:
    logits = np.broadcast_to(np.array([0.1, 0.9, 0.2], np.float32), (6, 8, 3))
    gate = np.broadcast_to(np.log(np.array([0.5, 1, 0.25], np.float32)), (6, 8, 3))
    settings = replace(PRESENCE, dense_temperature=0.1, gate=2.0)
    found = presence.Presence(np.ones(3, np.float32), np.array([True, False, True]), gate)
    odds = np.array([0.25 * np.exp(1), 0, 0.0625 * np.exp(2)])
    given = presence.patch_probabilities(logits, found, settings)
    np.testing.assert_allclose(given, np.broadcast_to(odds / odds.sum(), (6, 8, 3)), rtol=1e-5)


def test_softmax() -> None:
    logits = np.array([[0, np.log(3), -np.inf], [1000, 1000, 1000]], np.float32)
    np.testing.assert_allclose(presence.softmax(logits), [[0.25, 0.75, 0], [1 / 3] * 3], rtol=1e-6)
