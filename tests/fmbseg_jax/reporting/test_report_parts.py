"""Parts of the report by hand: which photos, many classes, large photos, and the counts that evaluation keeps."""

from pathlib import Path

import numpy as np
import pytest

from fmbseg_jax.report import choose, embedded, page
from fmbseg_jax.reporting.evaluation import Tallied, Tally, read_tally
from fmbseg_jax.reporting.figures import MATRIX, confusion_view, figure_text
from fmbseg_jax.reporting.photo_view import SHOWN_PX, Look, map_bytes, payload, shown_size, similarity_classes
from fmbseg_jax.reporting.readings import HEAD, Reading, dense_clip
from labelgen.core.errors import UserError

OTHER = dense_clip("naclip").within_present


def test_the_worst_the_best_and_some_between_are_shown() -> None:
    miou = np.array([0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6, 0.0], np.float32)
    assert choose(miou, 10, 5) == [1, 2, 5, 6, 9]  # .0 .1 | .2 | .8 .9
    assert choose(miou, 10, 100) == list(range(10))
    assert choose(None, 10, 5) == [0, 2, 4, 6, 8] and choose(None, 3, 5) == [0, 1, 2]


def test_photos_without_a_score_are_neither_best_nor_worst() -> None:
    miou = np.array([np.nan, 0.5, 0.1, np.nan, 0.9, 0.2], np.float32)
    assert {2, 4} <= set(choose(miou, 6, 3))
    assert choose(miou, 6, 6) == list(range(6))
    assert choose(np.full(4, np.nan, np.float32), 4, 2) == [0, 2]


def test_the_matrix_of_many_classes_shows_those_missed_most() -> None:
    classes = 40
    counts = np.zeros((classes, classes + 1), np.int64)
    for c in range(classes - 1):  # the last class is not in the truth
        counts[c, c] = 100 - c
        counts[c, (c + 1) % classes] = c
    view = confusion_view(Tallied(tuple(map(str, range(classes))), counts, (), np.zeros(0, np.float32)))
    kept = list(range(classes - 1 - MATRIX, classes - 1))
    assert view["classes"] == kept and not view["all"]
    rows = np.array(view["rows"])
    assert rows.shape == (MATRIX, MATRIX + 2) and np.allclose(rows.sum(1), 1, atol=1e-3)
    assert rows[0, 0] == pytest.approx(1 - kept[0] / 100) and rows[0, 1] == pytest.approx(kept[0] / 100)
    assert rows[-1, MATRIX] == pytest.approx(0.38)  # taken for the class that is not shown
    assert view["pairs"][0] == (38, 39, 0.38)


def test_pixels_of_no_class_have_a_column_of_their_own() -> None:
    counts = np.array([[8, 0, 2], [1, 9, 0]])
    view = confusion_view(Tallied(("a", "b"), counts, (), np.zeros(0, np.float32)))
    assert view["rows"] == [[0.8, 0.0, 0.0, 0.2], [0.1, 0.9, 0.0, 0.0]] and view["all"]
    assert view["pairs"] == [(0, 2, 0.2), (1, 0, 0.1)]


def test_maps_of_many_classes_have_two_planes() -> None:
    label_map = np.array([[0, 254, 255], [300, -1, 3]])
    raw = np.frombuffer(map_bytes(label_map, 400), np.uint8).reshape(2, 2, 3)
    low, high = np.cumsum(raw, 1, np.uint8).astype(int)
    assert np.array_equal(low + 256 * high, [[0, 254, 255], [300, 65535, 3]])
    assert len(map_bytes(label_map, 254)) == 6


def look(size_hw: tuple[int, int], classes: int = 3) -> Look:
    rows, columns = np.indices(size_hw)
    label_map = (rows * 2 // size_hw[0] + columns * 2 // size_hw[1]) % classes
    cosines = np.zeros((4, 4, classes), np.float32)
    return Look("big", size_hw, {"head": label_map}, [(1, 0.5)], cosines, cosines, None)


def test_large_photos_are_shown_small() -> None:
    assert shown_size((3000, 4000)) == (384, SHOWN_PX) and shown_size((375, 500)) == (375, 500)
    assert shown_size((5, 9000)) == (1, SHOWN_PX)
    fields = payload(look((600, 1024)), 3)
    assert fields["size"] == [300, 512] and fields["masks"] == 0 and fields["points"] == []


def test_similarity_maps_are_of_few_classes() -> None:
    many = look((40, 40), 30)
    assert similarity_classes(many) == [0, 1, 2]
    assert similarity_classes(look((40, 40), 2)) == [0, 1]


def test_json_cannot_leave_its_element() -> None:
    text = embedded({"name": "</script><script>alert(1)</script>&<!--"})
    assert not set("<>&") & set(text)
    with pytest.raises(ValueError, match="Out of range float"):
        embedded({"bad": float("nan")})


def test_the_page_needs_no_network() -> None:
    html = page({"name": "{{SCRIPT}}{{STYLE}}"})
    assert html.count("{{SCRIPT}}{{STYLE}}") == 1, "figures are put in last and looked into no more"
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "<script src" not in html and '<link rel="stylesheet' not in html


def test_shares_are_written_without_the_zero() -> None:
    assert [figure_text(v) for v in (0.7559, 1.0, 0.0)] == [".756", "1.000", ".000"]


def test_counts_are_read_back(tmp_path: Path) -> None:
    tally = Tally(2)
    truth = np.array([[0, 0, 1, -1]])
    tally.add(1, "second", truth, {HEAD: np.array([[0, 1, 1, 0]]), OTHER: np.array([[0, 0, 1, 1]])})
    tally.add(0, "first", np.full((1, 4), -1), {HEAD: np.zeros((1, 4), int), OTHER: np.zeros((1, 4), int)})
    both = tally.of_all_hosts()
    both.write(tmp_path / "eval.npz", ("a", "b"))
    found = read_tally(tmp_path / "eval.npz", HEAD)
    assert found and found.names == ("a", "b") and found.photos == ("first", "second")
    assert np.array_equal(found.counts, [[1, 1, 0], [0, 1, 0]])
    assert np.isnan(found.miou[0]) and found.miou[1] == pytest.approx(0.5)
    assert read_tally(tmp_path / "none.npz", HEAD) is None
    with pytest.raises(UserError, match="cannot be read; write it anew with fmbseg_jax.evaluate"):
        read_tally(tmp_path / "eval.npz", Reading("nobody"))
