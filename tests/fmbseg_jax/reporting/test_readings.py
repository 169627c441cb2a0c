"""Readings and their titles, and how the head compares with dense CLIP."""

import pytest

from fmbseg_jax.reporting.readings import HEAD, ORACLE, REFINED, Reading, best_dense, by_reading, dense_clip, ratios

TITLES = {
    "dense CLIP, maskclip": dense_clip("maskclip"),
    "dense CLIP, maskclip, present classes": dense_clip("maskclip").within_present,
    "dense CLIP, naclip+maskclip": dense_clip("naclip+maskclip"),
    "head": HEAD,
    "head, present classes": HEAD.within_present,
    "head, refined": REFINED,
    "oracle": ORACLE,
    "oracle, refined, present classes": Reading("oracle", refined=True, present=True),
}


@pytest.mark.parametrize("title", TITLES)
def test_a_title_says_the_reading_and_back(title: str) -> None:
    assert Reading.parse(title) == TITLES[title] and TITLES[title].title == title


def test_files_are_read_by_their_titles() -> None:
    assert by_reading(dict.fromkeys(TITLES, 1)) == dict.fromkeys(TITLES.values(), 1)


MIOU = {
    dense_clip("a"): 0.2,
    dense_clip("b"): 0.25,
    dense_clip("a").within_present: 0.4,
    dense_clip("b").within_present: 0.3,
    HEAD: 0.5,
    HEAD.within_present: 0.9,
    REFINED: 0.6,
}


def test_the_best_dense_clip_is_of_one_kind() -> None:
    assert best_dense(MIOU) == dense_clip("b")
    assert best_dense(MIOU, present=True) == dense_clip("a").within_present
    assert best_dense({**MIOU, dense_clip("a"): 0.25}) == dense_clip("b"), "of equal ones always the same"


def test_the_head_beside_the_best_of_each_kind() -> None:
    assert ratios(MIOU) == pytest.approx(
        {
            "head / best dense CLIP": 2,
            "head / best dense CLIP within present classes": 1.25,
            "refined / head": 1.2,
        }
    )
    assert "refined / head" not in ratios({**MIOU, HEAD: 0.0})


def test_a_mean_of_nothing_is_compared_with_nothing() -> None:
    assert ratios({**MIOU, HEAD: None}) == {}
    nothing = dict.fromkeys(MIOU)
    assert ratios(nothing) == {} and best_dense({**nothing, dense_clip("a"): 0.1}) == dense_clip("a")
