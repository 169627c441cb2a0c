"""Words in text space: small cases by hand, and the tokenizer's limits with one of our own."""

import numpy as np
import pytest

from labelgen.core.ontology import Ontology, parse_words
from labelgen.labels import vocabulary
from labelgen.labels.vocabulary import Pair


def circle(*degrees: float) -> np.ndarray:
    """Unit rows [K, 2] at these angles."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def words(*lines: str) -> Ontology:
    return parse_words(lines, "w")


def test_two_classes_are_as_near_as_their_nearest_words() -> None:
    cosines = vocabulary.cosines(circle(0, 50, 60, 180))
    nearest = vocabulary.class_cosines(cosines, (0, 0, 1, 2))
    np.testing.assert_allclose(nearest[0], [1, np.cos(np.radians(10)), np.cos(np.radians(130))], atol=1e-6)
    np.testing.assert_array_equal(nearest, nearest.T)
    assert vocabulary.neighbours(nearest, 0, 5) == [1, 2]


def test_likeness_is_measured_against_the_list_itself() -> None:
    """Cosines .70, .71 ... .75 of six pairs: median .725, deviations .005 to .025 with median .015."""
    words_of = (0, 1, 2, 3)
    cosines = np.eye(4)
    cosines[np.triu_indices(4, 1)] = [0.70, 0.71, 0.72, 0.73, 0.74, 0.75]
    usual = vocabulary.spread(cosines, words_of, 0.02)
    assert usual.median == pytest.approx(0.725) and usual.scale == pytest.approx(1.4826 * 0.015)
    assert usual.alike == pytest.approx(0.725 + 3 * 1.4826 * 0.015)
    assert vocabulary.alike(cosines, words_of, usual.alike) == []
    cosines[1, 2] = 0.95
    assert vocabulary.alike(cosines, words_of, usual.alike) == [Pair(1, 2, 0.95)]


def test_words_of_one_class_are_never_confused_with_each_other() -> None:
    cosines = vocabulary.cosines(circle(0, 1, 90, 130))
    usual = vocabulary.spread(cosines, (0, 0, 1, 2), 0.02)
    assert vocabulary.alike(cosines, (0, 0, 1, 2), usual.alike) == []


@pytest.mark.parametrize(("cosine", "found"), [(0.97, 0), (0.99, 1)])
def test_a_list_too_short_for_a_spread_is_measured_by_the_temperature(cosine: float, found: int) -> None:
    """(1 - .97) / .02 = 1.5 leaves more than a factor e between the two, (1 - .99) / .02 = .5 does not."""
    cosines = np.array([[1, cosine], [cosine, 1]])
    usual = vocabulary.spread(cosines, (0, 1), 0.02)
    assert len(vocabulary.alike(cosines, (0, 1), usual.alike)) == found


def test_one_class_has_nothing_to_be_confused_with() -> None:
    cosines = vocabulary.cosines(circle(0, 1))
    assert vocabulary.alike(cosines, (0, 0), vocabulary.spread(cosines, (0, 0), 0.02).alike) == []
    assert list(vocabulary.misplaced(cosines, (0, 0))) == []


def test_a_word_astray_is_nearer_to_another_class_than_to_its_own() -> None:
    far, near = next(iter(vocabulary.misplaced(vocabulary.cosines(circle(0, 80, 100)), (0, 0, 1))))
    assert (far.word, far.other, near.other) == (1, 2, 0)
    assert far.cosine == pytest.approx(np.cos(np.radians(20))) and near.cosine == pytest.approx(np.cos(np.radians(80)))
    assert [pair[0].word for pair in vocabulary.misplaced(vocabulary.cosines(circle(0, 40, 100)), (0, 0, 1))] == []


def test_duplicates_differ_in_spelling_only() -> None:
    ontology = words("wind screen: Wind-Screen, windscreen", "cafe: café", "b: cafes, 漢, 字", "c: !!!, ???")
    assert vocabulary.duplicates(ontology) == [(0, 1)]
    assert vocabulary.duplicates(words("cafe", "b: café")) == [(0, 1)]


class Letters:
    """A token a letter, but one for `known`."""

    context_length = 8

    def encode(self, text: str) -> list[int]:
        return [i for part in text.split() for i in range(1 if part == "known" else len(part))]


def test_words_that_are_cut_off_in_the_longest_template() -> None:
    """`a known b` is 3 tokens and 2 of start and end; abcd in `a {} b` fills the context, abcde does not fit."""
    found = list(vocabulary.cut_off(Letters(), ["known", "abcd", "abcde"], ["{}", "a {} b"]))
    assert found == [(2, 9)]


def test_words_that_the_vocabulary_does_not_have() -> None:
    assert list(vocabulary.spelled(Letters(), ["known", "known ab", "known abcd"])) == [(2, "abcd", 4)]
