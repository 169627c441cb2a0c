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
