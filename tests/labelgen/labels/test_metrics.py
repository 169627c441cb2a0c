"""Metrics against counts by hand."""

import numpy as np
import pytest

from labelgen.core.command import table
from labelgen.core.errors import UserError
from labelgen.labels.scores import check_groups, confusion, scores

TRUTH = np.array([[0, 0, 1], [1, 255, 2]], np.uint8)
PREDICTION = np.array([[0, 1, 1], [-1, 0, 2]])


def test_confusion_by_hand() -> None:
    np.testing.assert_array_equal(confusion(TRUTH, PREDICTION, 3), [[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]])


def test_scores_by_hand() -> None:
    s = scores(confusion(TRUTH, PREDICTION, 4), ["a", "b", "c", "d"], {"ab": ["a", "b"], "cd": ["c", "d"]})
    # a: 1 hit of 2 true, 1 predicted -> 1/2; b: 1 hit, 2 true, 2 predicted -> 1/3; c: 1; d: in neither
    assert s.per_class == {"a": 0.5, "b": pytest.approx(1 / 3), "c": 1.0, "d": None}
    assert s.miou == pytest.approx((1 / 2 + 1 / 3 + 1) / 3)
    assert s.groups == {"ab": pytest.approx((1 / 2 + 1 / 3) / 2), "cd": 1.0}
    assert s.pixel_accuracy == pytest.approx(3 / 5)
    assert s.coverage == pytest.approx(4 / 5)
    assert s.frequency_weighted_iou == pytest.approx((2 * 1 / 2 + 2 * 1 / 3 + 1) / 5)


def test_a_class_predicted_but_not_in_truth_counts_as_zero_over_all_and_not_in_truth() -> None:
    s = scores(confusion(np.zeros((1, 4), int), np.array([[0, 0, 0, 1]]), 2), ["a", "b"])
    assert s.per_class == {"a": 0.75, "b": 0.0}
    assert s.miou == pytest.approx(0.375)
    assert s.miou_in_truth == pytest.approx(0.75)


def test_counts_add_up_over_photos() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 5, (2, 6, 7)), rng.integers(0, 5, (2, 6, 7))
    whole = confusion(truth, prediction, 5)
    np.testing.assert_array_equal(whole, sum(confusion(t, p, 5) for t, p in zip(truth, prediction, strict=True)))
    assert whole.sum() == 84


def test_nothing_to_count_is_not_a_perfect_score() -> None:
    s = scores(confusion(np.full((2, 2), 255), np.zeros((2, 2), int), 2), ["a", "b"])
    assert all(np.isnan([s.miou, s.miou_in_truth, s.pixel_accuracy, s.frequency_weighted_iou, s.coverage]))
    figures = s.to_json()
    assert figures["pixel_accuracy"] is None and figures["coverage"] is None
    assert table("val", {"head": figures}).splitlines()[1].split() == ["head", "-", "-", "-", "-"]


@pytest.mark.parametrize("nothing", [-1, 3, 255])
def test_truth_outside_of_the_classes_counts_in_nothing(nothing: int) -> None:
    truth = np.array([[0, 1, nothing]], np.int64)
    assert confusion(truth, np.array([[0, 0, 0]]), 3).tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("nothing", [-1, 3, 255])
def test_a_prediction_outside_of_the_classes_is_none(nothing: int) -> None:
    assert confusion(np.array([[0, 1]]), np.array([[0, nothing]]), 3).tolist() == [[1, 0, 0, 0], [0, 0, 0, 1], [0] * 4]


def test_a_group_is_of_words_that_are_there() -> None:
    check_groups(("a", "b"), {"both": ("a", "b")})
    fix = r"eval.groups.some: c: not among the words \(a, b\); fix them, or take .*: --config.eval.groups.some=a,b$"
    with pytest.raises(UserError, match=fix):
        check_groups(("a", "b"), {"some": ("a", "c", "b")})
    with pytest.raises(UserError, match=r"--config.eval.groups.none=$"):
        check_groups(("a", "b"), {"none": ("c",)})
