"""The label stage on a photo whose labels are known by hand, each stage by itself and the row that is written."""

from dataclasses import replace

import numpy as np
import pytest

from labelgen.data.rle import MaskSet
from labelgen.labels import free_labels
from labelgen.labels.free_labels import label_photo, label_stages, merge, patch_targets, query_points
from labelgen.labels.presence import detect
from tests.worlds.labelling import GRID, NEUTRAL, ONTOLOGY, PROTOTYPES, SETTINGS, SIZE, evidence, truth


def test_every_stage_finds_the_truth() -> None:
    stages = label_stages(evidence(), SETTINGS, ONTOLOGY, PROTOTYPES, NEUTRAL)
    for name in ("stage11", "stage12", "full", "merged"):
        np.testing.assert_array_equal(getattr(stages, name), truth(), err_msg=name)


@pytest.mark.parametrize("word", [0, 1])
def test_any_word_of_a_class_names_it(word: int) -> None:
    np.testing.assert_array_equal(label_stages(evidence(word), SETTINGS, ONTOLOGY, PROTOTYPES, NEUTRAL).merged, truth())


def test_presence_names_what_crops_show_and_the_gate_says_where() -> None:
    presence = detect(evidence(), PROTOTYPES, ONTOLOGY, SETTINGS.presence)
    np.testing.assert_array_equal(presence.present, [True, True, False])
    assert presence.gate[0, 7, 1] > presence.gate[0, 0, 1] + 1, "the ball's crop covers the upper right alone"
    assert presence.gate[5, 7, 1] == pytest.approx(presence.gate[0, 0, 1])


def test_an_absent_class_is_never_labelled() -> None:
    given = np.array([True, False, True])
    stages = label_stages(evidence(), SETTINGS, ONTOLOGY, PROTOTYPES, NEUTRAL, given)
    assert 1 not in np.unique(stages.full)


def test_no_masks_leaves_the_dense_vote() -> None:
    stages = label_stages(replace(evidence(), masks=MaskSet.empty(SIZE)), SETTINGS, ONTOLOGY, PROTOTYPES, NEUTRAL)
    assert (stages.stage11 == -1).all() and (stages.stage12 == -1).all()
    assert (stages.full == truth()).mean() > 0.95
    assert (stages.merged == -1).all(), "one vote of three is not enough confidence"


def test_automatic_masks_alone_name_stage_12() -> None:
    e = evidence()
    masks = replace(e.masks, automatic=np.array([True, False, False]))
    stage12 = label_stages(replace(e, masks=masks), SETTINGS, ONTOLOGY, PROTOTYPES, NEUTRAL).stage12
    np.testing.assert_array_equal(stage12, np.where(truth() == 0, 0, -1))


def test_query_points_are_the_most_similar_and_spread() -> None:
    similarity = np.zeros((6, 8), np.float32)
    similarity[1, 5] = 1.0
    similarity[1, 6] = 0.9
    similarity[4, 1] = 0.8
    similarity[5, 7] = 0.3
    np.testing.assert_array_equal(query_points(similarity, 8), [[1, 5], [4, 1]])


def test_merge_ignores_what_the_stages_dispute() -> None:
    probabilities = np.zeros((1, 2, 2), np.float32)
    probabilities[..., 0] = 1
    agreed, disputed = np.array([[0, 0]]), np.array([[0, 1]])
    ones = np.ones((1, 2), np.float32)
    full, merged, confidence = merge(probabilities, np.array([0, 1]), [(agreed, ones), (disputed, ones)], 0.7)
    np.testing.assert_array_equal(full, [[0, 0]])
    np.testing.assert_array_equal(merged, [[0, -1]])
    np.testing.assert_allclose(confidence, [[1, 2 / 3]], atol=1e-6)


def test_patch_targets_are_area_shares_of_the_valid_grid() -> None:
    label_map = np.zeros((4, 6), np.int64)
    label_map[:, 3:] = 2
    label_map[0, 0] = -1
    classes, shares = patch_targets(label_map, (2, 2), (3, 3))
    np.testing.assert_array_equal(classes[0, 0], [0, 0, 0])
    np.testing.assert_array_equal(shares[0, 0], [255 * 5 // 6, 0, 0])
    np.testing.assert_array_equal(classes[1, 1], [2, 0, 0])
    np.testing.assert_array_equal(shares[1], [[255, 0, 0], [255, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(shares[2], np.zeros((3, 3)))


def test_patch_targets_keep_the_largest_classes() -> None:
    label_map = np.repeat(np.arange(5), [1, 2, 3, 4, 6])[None].repeat(4, 0)
    classes, shares = patch_targets(label_map, (1, 1), (1, 1))
    np.testing.assert_array_equal(classes[0, 0], [4, 3, 2])
    np.testing.assert_array_equal(shares[0, 0], [95, 63, 47])


def test_row_is_what_the_stages_say() -> None:
    row = label_photo(evidence(), SETTINGS, ONTOLOGY, PROTOTYPES, NEUTRAL, (8, 8))
    np.testing.assert_array_equal(row.label_map, truth())
    np.testing.assert_array_equal(row.classes, [0, 1])
    assert row.target_shares.shape == (8, 8, 3) and row.photo_id == "a/b"
    expected = truth()[4::8, 4::8]
    np.testing.assert_array_equal(row.target_classes[: GRID[0], :, 0], expected)
    assert (row.target_shares[: GRID[0], :, 0] == 255).all() and (row.target_shares[GRID[0] :] == 0).all()


def test_a_large_photo_is_labelled_smaller_and_written_at_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_labels, "WORKING_PX", 32)
    row = label_photo(evidence(), SETTINGS, ONTOLOGY, PROTOTYPES, NEUTRAL, (8, 8))
    assert row.label_map.shape == row.confidence.shape == SIZE
    np.testing.assert_array_equal(row.label_map, truth())
    np.testing.assert_array_equal(row.target_classes[: GRID[0], :, 0], truth()[4::8, 4::8])


def test_a_stage_that_names_an_absent_class_has_no_vote() -> None:
    probabilities = np.full((1, 2, 3), 0.5, np.float32)
    stage = np.array([[1, 2]]), np.ones((1, 2), np.float32)  # class 1 is not present
    full, merged, confidence = merge(probabilities, np.array([0, 2]), [stage], 0.5)
    assert full.tolist() == [[0, 2]] and confidence.tolist() == [[0.25, 0.75]] and merged.tolist() == [[-1, 2]]


@pytest.mark.parametrize(("longest", "size"), [(64, (48, 64)), (63, (47, 63)), (32, (24, 32)), (1, (1, 1))])
def test_evidence_of_the_photo_made_smaller(longest: int, size: tuple[int, int]) -> None:
    smaller = free_labels.at_most(evidence(), longest)
    assert smaller.size_hw == size == smaller.masks.size_hw
