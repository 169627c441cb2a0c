"""What a list of words looks like in text space: neighbours, words that will be confused, words on the wrong side.

Data flow: ontology + prototypes -> lines that a person reads before encoding anything (labelgen.words). numpy alone.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from labelgen.core.ontology import BACKGROUND, Ontology, class_scores

Array = NDArray[np.floating[Any]]
SCALES = 3.0
"""Robust standard deviations above the median at which two words count as alike."""

PIECES = 3
"""What the vocabulary makes of so many pieces was too rare for a token of its own where the tower learnt."""


class Spread(NamedTuple):
    """The cosines between words of different classes: text cosines are all high, how high differs between towers."""

    median: float
    scale: float
    """Robust standard deviation: 1.4826 times the median distance from the median."""
    alike: float
    """From this cosine on two words will be confused."""


class Pair(NamedTuple):
    """A word, one of another class, and their cosine."""

    word: int
    other: int
    cosine: float


def cosines(prototypes: Array) -> NDArray[np.float64]:
    """float64 [K, K] of unit rows [K, E]."""
    p = np.asarray(prototypes, np.float64)
    return np.asarray(p @ p.T)


def class_cosines(words: Array, word_class: Sequence[int]) -> Array:
    """[C, C] of the words' [K, K]: two classes are as near as their nearest words."""
    return class_scores(class_scores(words, word_class).T, word_class)


def spread(words: Array, word_class: Sequence[int], temperature: float) -> Spread:
    """Median, scale and the cosine of likeness of a list of words, from its own cosines [K, K].

    A pair is alike when it stands out of this list (SCALES robust deviations above its median), or when even a patch
    that is exactly the one word gives the other less than e times smaller odds: (1 - cosine) / temperature < 1, with
    presence.temperature. The lower of the two cosines counts.
    """
    owner = np.asarray(word_class)
    between = words[owner[:, None] < owner[None, :]]
    if not between.size:
        return Spread(0.0, 0.0, 1 - temperature)
    median = float(np.median(between))
    scale = 1.4826 * float(np.median(np.abs(between - median)))
    # A list of one pair, or of equal cosines, has no spread to stand out of.
    outlier = median + SCALES * scale if scale > 1e-3 else 1.0
    return Spread(median, scale, min(outlier, 1 - temperature))


def alike(words: Array, word_class: Sequence[int], threshold: float) -> list[Pair]:
    """Pairs of words of different classes whose cosine is `threshold` or more, the most alike first."""
    owner = np.asarray(word_class)
    first, second = np.nonzero((owner[:, None] < owner[None, :]) & (words >= threshold))
    pairs = [Pair(int(a), int(b), float(words[a, b])) for a, b in zip(first, second, strict=True)]
    return sorted(pairs, key=lambda pair: -pair.cosine)


def misplaced(words: Array, word_class: Sequence[int]) -> Iterator[tuple[Pair, Pair]]:
    """Words nearer to another class than to every other word of their own: (the other class' word, the own one)."""
    owner = np.asarray(word_class)
    for word in range(len(owner)):
        own = (owner == owner[word]) & (np.arange(len(owner)) != word)
        elsewhere = owner != owner[word]
        if own.any() and elsewhere.any():
            near, far = (int(np.where(mask, words[word], -np.inf).argmax()) for mask in (own, elsewhere))
            if words[word, far] > words[word, near]:
                yield Pair(word, far, float(words[word, far])), Pair(word, near, float(words[word, near]))


def neighbours(classes: Array, index: int, count: int) -> list[int]:
    """The `count` classes nearest to class `index`, of cosines [C, C], nearest first."""
    order = np.argsort(-classes[index], kind="stable")
    return [int(other) for other in order if other != index][:count]


def is_background(ontology: Ontology, word: int) -> bool:
    """Whether the word is one of the background's."""
    return ontology.roles[ontology.word_class[word]] == BACKGROUND


def duplicates(ontology: Ontology) -> list[tuple[int, int]]:
    """Pairs of words that differ in case, accents, spaces and punctuation only."""
    seen: dict[str, int] = {}
    pairs = []
    for word, text in enumerate(ontology.words):
        first = seen.setdefault(bare(text), word)
        if first != word:
            pairs.append((first, word))
    return pairs


def bare(word: str) -> str:
    """The word without case, accents, spaces and punctuation: Wind-Screen and windscreen are the same."""
    return "".join(c for c in unicodedata.normalize("NFKD", word.casefold()) if c.isalnum()) or word


class Tokenizer(Protocol):
    """What open_clip's SimpleTokenizer is to this module."""

    context_length: int

    def encode(self, text: str) -> list[int]:
        """Ids, without those of start and end."""


def cut_off(tokenizer: Tokenizer, words: Sequence[str], templates: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(word, most tokens in a template) of words that do not fit the tower's context with its start and end."""
    for word, text in enumerate(words):
        most = max(len(tokenizer.encode(template.replace("{}", text))) + 2 for template in templates)
        if most > tokenizer.context_length:
            yield word, most


def spelled(tokenizer: Tokenizer, words: Sequence[str]) -> Iterator[tuple[int, str, int]]:
    """(word, the part of it, pieces) of words with a part that the vocabulary makes of PIECES pieces or more."""
    for word, text in enumerate(words):
        pieces = [(len(tokenizer.encode(part)), part) for part in text.split()]
        count, part = max(pieces, key=lambda pair: pair[0])
        if count >= PIECES:
            yield word, part, count
