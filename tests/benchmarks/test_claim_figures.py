"""The arithmetic of single claims against hand-made photos and figures."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from experiments import stages, zero_shot
from experiments.alignment import average_precision, mean_precision, patch_classes
from experiments.dealt import Photo
from experiments.encoders import untrained
from experiments.labels import presence_row
from experiments.little_data import reached, sizes
from labelgen.core.ontology import parse_words
from labelgen.labels.free_labels import label_stages
from labelgen.labels.scores import confusion
from tests.worlds.labelling import NEUTRAL, ONTOLOGY, PROTOTYPES, SETTINGS, evidence, truth


def test_average_precision_is_the_mean_precision_at_the_positives() -> None:
    scores, positive = np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])
    assert average_precision(scores, positive) == pytest.approx((1 + 2 / 3) / 2)
    assert np.isnan(average_precision(scores, np.zeros(4, bool)))
    both = np.stack([scores, -scores], 1)
    # Patch 1 is not annotated: of class 0 are patches 0 and 2, which come first; patch 3 is first of class 1.
    assert mean_precision(both, np.array([0, -1, 0, 1])) == 1.0


def test_a_patch_has_the_class_of_half_of_it_or_none() -> None:
    label_map = np.zeros((4, 8), np.int64)
    label_map[:, 4:] = 1
    label_map[1:, 6:] = -1
    label_map[0, :2], label_map[1, :2] = 2, 3
    assert patch_classes(label_map, (1, 2)).tolist() == [[0, 1]]
    assert patch_classes(label_map, (2, 4)).tolist() == [
        [-1 if s < 128 else c for c, s in ((2, 127), (0, 255))] + [1, -1],
        [0, 0, 1, -1],
    ]


def test_objects_are_connected_parts_with_their_size_and_number() -> None:
    label_map = np.zeros((96, 128), np.int64)
    label_map[10:14, 10:18] = 1  # 32 of 12,288 px: below 1/300
    label_map[40:50, 40:60] = 1  # 200 px
    label_map[90, 100] = 1  # a pixel alone is more than 16 of 640 x 480 px: 16 / 25
    found = [(o.class_index, o.size, o.instances, int(o.mask.sum())) for o in stages.objects(label_map)]
    assert found == [(0, "large", 1, 96 * 128 - 233), (1, "small", 3, 32), (1, "medium", 3, 200), (1, "small", 3, 1)]
    assert [o.class_index for o in stages.objects(label_map, frozenset({0}))] == [1, 1, 1]
    large = np.zeros((480, 640), np.int64) - 1
    large[:3, :5] = 0  # 15 px
    assert list(stages.objects(large)) == []


def test_recall_and_iou_of_an_object() -> None:
    ball = next(o for o in stages.objects(truth()) if o.class_index == 1)
    found = np.full(truth().shape, -1, np.int64)
    found[8:24, 40:48] = 1  # half of it
    found[8:24, 36:40] = 1  # and 64 px beside it
    found[40:48, 0:8] = 1  # elsewhere
    assert stages.recall(found, ball) == 0.5
    assert stages.object_iou(found, ball) == pytest.approx(128 / (256 + 64))
    assert stages.object_iou(np.zeros_like(found), ball) == 0.0


def test_a_pass_adds_up_objects_pixels_and_query_points_part_by_part() -> None:
    known = label_stages(evidence(), SETTINGS, ONTOLOGY, PROTOTYPES, NEUTRAL)
    fixed = replace(known, stage11=np.where(truth() == 1, 0, truth()), stage12=truth(), full=truth())
    found = stages.Pass(2, 3)
    found.add(Photo(1, evidence(), truth(), fixed), frozenset({0}))
    assert found.objects["large", "stage 1.1", "recall"] == [[], [0.0]]
    assert found.objects["1 of a class", "stage 1.2", "IoU"] == [[], [1.0]]
    assert found.missed.tolist() == [[[0, 0], [0, 0]], [[256, 256], [0, 0]]], "1.2 has all that 1.1 has not"
    assert found.by_points[0].sum() == 0 and (found.by_points[1].sum((1, 2)) == truth().size).all()
    four = stages.POINTS.index(4)
    assert found.by_points[1, four].tolist() == confusion(truth(), known.stage11, 3).tolist(), "SETTINGS has four"


def test_seen_unseen_and_their_harmonic_mean() -> None:
    counts = np.array([[8, 2, 0, 0], [0, 5, 5, 0], [0, 0, 10, 0]])
    found = zero_shot.by_seen(counts, [1])
    assert found["seen"] == pytest.approx((8 / 10 + 10 / 15) / 2)
    assert found["unseen"] == pytest.approx(5 / 12)
    assert found["harmonic mean"] == pytest.approx(2 / (1 / found["seen"] + 1 / found["unseen"]))
    assert zero_shot.harmonic(0.5, 0.0) == 0.0


def test_a_draw_leaves_out_one_class_in_four_and_never_the_background() -> None:
    words = parse_words(["background: sky", *"abcdefgh"], "w")
    draws = [zero_shot.drawn(words, seed) for seed in range(40)]
    assert {len(set(d)) for d in draws} == {2} and set(chain.from_iterable(draws)) == set(range(1, 9))
    assert zero_shot.drawn(words, 3) == draws[3]
    assert len(zero_shot.drawn(ONTOLOGY, 0)) == 1


def test_little_data_reaches_its_end_where_it_stays_there() -> None:
    assert sizes(300) == [4, 8, 16, 32, 64, 128, 256, 300] and sizes(3) == [3] and sizes(4) == [4]
    assert reached([4, 8, 16, 32], [0.96, 0.5, 0.97, 1.0]) == 16
    assert reached([4, 8], [0.1, 1.0]) == 8


def test_presence_counts_pairs_part_by_part() -> None:
    row = presence_row(np.array([[3, 4, 6], [0, 0, 2]]))
    assert row.figures == {"precision": [0.75, 0.0], "recall": [0.5, 0.0]}


def test_an_untrained_encoder_has_the_shapes_of_the_trained_one() -> None:
    known = {
        "w": np.full((40, 50), 7.0, np.float32),
        "n.bias": np.ones(3, np.float32),
        "n.weight": np.zeros(3, np.float32),
    }
    made = untrained(known)
    assert made["w"].shape == (40, 50) and made["w"].dtype == np.float32 and abs(made["w"].std() - 0.02) < 1e-3
    assert made["n.bias"].tolist() == [0, 0, 0] and made["n.weight"].tolist() == [1, 1, 1]
