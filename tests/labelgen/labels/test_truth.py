"""Truth in the classes of the words: matched by name, ruled by eval.truth, refused where a class has no place."""

from pathlib import Path

import numpy as np
import pytest

from labelgen.core.errors import UserError
from labelgen.data.dataset import Dataset
from labelgen.data.records import TruthRow
from labelgen.data.tfrecord import ShardWriter, shard_name
from labelgen.labels.scores import TruthReader, lookup

VOC = ("background", "cat", "dog")


def reader(folder: Path, classes, names, rules=None) -> TruthReader:
    label_map = np.array([[0, 1, 2, 255]], np.uint8)
    (folder / "truth").mkdir()
    with ShardWriter(folder / "truth" / shard_name("val", 0, 1)) as writer:
        writer.append(TruthRow("a", label_map).encode())
        writer.finish()
    info = {"splits": {"val": {"rows": [1], "truth": True, "truth_classes": classes}}}
    return TruthReader(Dataset(folder, info), "val", names, rules or {})


def test_classes_are_matched_by_name_whatever_the_order(tmp_path: Path) -> None:
    truth = reader(tmp_path, VOC, ("dog", "bird", "background", "cat"))
    assert len(truth) == 1
    assert truth[0].photo_id == "a" and truth[0].label_map.tolist() == [[2, 3, 0, -1]]


def test_a_class_can_be_left_out(tmp_path: Path) -> None:
    assert reader(tmp_path, VOC, ("cat", "dog"), {"background": "ignore"})[0].label_map.tolist() == [[-1, 0, 1, -1]]


def test_all_others_can_be_one_class(tmp_path: Path) -> None:
    truth = reader(tmp_path, VOC, ("animal", "rest"), {"dog": "animal", "*": "rest"})
    assert truth[0].label_map.tolist() == [[1, 1, 0, -1]]


def test_truth_of_the_words_own_classes_stays(tmp_path: Path) -> None:
    assert reader(tmp_path, None, ("a", "b"))[0].label_map.tolist() == [[0, 1, -1, -1]]


def test_a_rule_comes_before_the_name() -> None:
    assert lookup(VOC, ("background", "cat", "dog"), {"dog": "cat"}).tolist() == [0, 1, 1, -1]


@pytest.mark.parametrize(
    ("names", "rules", "message"),
    [
        (("cat",), {}, "the truth has classes that the words lack: background, dog; add them"),
        (("cat",), {"*": "ignore", "cow": "cat"}, "eval.truth has 'cow'; the truth's classes are background, cat, dog"),
        (("cat",), {"*": "bird"}, r"eval.truth.\* = 'bird' is neither 'ignore' nor one of cat"),
    ],
)
def test_what_has_no_place_is_refused(names, rules, message) -> None:
    with pytest.raises(UserError, match=message):
        lookup(VOC, names, rules)


def test_a_class_that_data_does_not_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="truth of a: has class 2, but DATA names 2; encode into a new DATA"):
        reader(tmp_path, ("cat", "dog"), ("cat", "dog"))[0]


def test_what_is_matched_by_number_is_said_with_the_pixels_beyond(tmp_path: Path) -> None:
    truth = reader(tmp_path, None, ("a", "b"))
    plain = "DATA is from before it kept the names of truth's classes: taken for lines of these words"
    assert truth.said() == plain
    assert truth[0].label_map.tolist() == [[0, 1, -1, -1]] and truth.beyond == {0: 1}
    assert truth.said() == f"{plain}; 1 pixels of classes beyond them left out"
    assert truth.said(0) == plain and truth.said(7) == f"{plain}; 7 pixels of classes beyond them left out"


def test_named_classes_need_no_words(tmp_path: Path) -> None:
    assert reader(tmp_path, VOC, VOC).said() == ""
