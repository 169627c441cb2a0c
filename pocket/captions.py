"""Captions of the pocket world: what a person would write under a photo, and the vocabulary of those words.

A caption names classes that are visible in the picture it belongs to, by any of their words, and says
nothing of where they are. It is the only supervision of the pocket CLIP.
"""

import string
import zlib
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocket.scenes import CLASSES, THINGS, WORDS

MIN_SHARE = 0.05  # of the picture's area: a stuff class below it is not worth a word
MIN_SHARE_THING = 0.025  # things are smaller and noticed sooner
MAX_NAMED = 4  # nobody lists more
PROMINENCE_OF_THINGS = 4.0  # area of stuff that draws the eye as one area of thing does
COMPLETE = 0.6  # share of the captions that name all that is visible; the others name its main part

IS_THING = np.array([name in THINGS for name in CLASSES])

FRAMES = (
    "{}", "a photo of {}", "a picture of {}", "the photo of {}", "an image of {}", "a close photo of {}",
    "a small photo of {}", "there is {} in the scene", "a scene with {}", "this is {}", "a view of {}", "look, {}",
)  # fmt: skip
JOINTS = ("{} on {}", "{} and {}", "{} with {}", "{} by {}", "{} in front of {}", "{} against {}")


def visible(shares: NDArray[np.float64]) -> tuple[int, ...]:
    """Classes that a caption may name, most prominent first.

    shares: float [C], each class's share of the picture's area.
    """
    seen = shares >= np.where(IS_THING, MIN_SHARE_THING, MIN_SHARE)
    prominence = shares * np.where(IS_THING, PROMINENCE_OF_THINGS, 1.0)
    order = np.argsort(-prominence, kind="stable")
    return tuple(int(c) for c in order if seen[c])


def shares_of(mask: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Each class's share of a mask's area: float64 [C] from class indices uint8 [H, W]."""
    return np.bincount(mask.ravel(), minlength=len(CLASSES)) / mask.size


def choose(rng: np.random.Generator, classes: Sequence[int]) -> tuple[int, ...]:
    """The classes that one caption names: all visible ones, or only the main thing or stuff, perhaps on its ground."""
    if rng.random() < COMPLETE or len(classes) == 1:
        return tuple(classes[:MAX_NAMED])
    grounds = [c for c in classes if not IS_THING[c]]
    main = classes[0]
    if IS_THING[main] and grounds and rng.random() < 0.4:
        return main, grounds[0]
    return (main,)


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def noun(rng: np.random.Generator, index: int) -> str:
    """A word for class `index` with an article: things are counted, stuff mostly is not."""
    word = _pick(rng, WORDS[CLASSES[index]])
    a = "an" if word[0] in "aeiou" else "a"
    articles = (a, a, "the", "one", "") if IS_THING[index] else ("", "", "the", a)
    return f"{_pick(rng, articles)} {word}".strip()


def phrase(rng: np.random.Generator, classes: Sequence[int]) -> str:
    """A sentence that names exactly these `classes` (at least one), things before stuff."""
    groups = [[c for c in classes if IS_THING[c]], [c for c in classes if not IS_THING[c]]]
    parts = [" and ".join(noun(rng, c) for c in rng.permutation(group)) for group in groups if group]
    body = _pick(rng, JOINTS).format(*parts) if len(parts) == 2 else parts[0]
    sentence = _pick(rng, FRAMES).format(body)
    return sentence + "." if rng.random() < 0.5 else sentence


def words_in(text: str) -> list[str]:
    """The lower-case words of `text`, punctuation left out."""
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def vocabulary() -> tuple[str, ...]:
    """Every word that a caption can contain, sorted."""
    texts = [word for words in WORDS.values() for word in words] + list(FRAMES) + list(JOINTS)
    return tuple(sorted({word for text in texts for word in words_in(text)} | {"a", "an", "the", "one"}))


def byte_pair_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until each of `words` is one token."""
    split = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while pairs := Counter(pair for word in split for pair in pairwise(word)):
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        split = [_merged(word, best) for word in split]
    return merges


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def write_vocabulary(path: Path) -> int:
    """Writes the merges for open_clip's SimpleTokenizer; returns the number of tokens. Same words, same bytes.

    Single bytes are tokens too, so any text tokenizes, only in more pieces.
    """
    words = [word for word in vocabulary() if set(word) <= set(string.ascii_lowercase)]
    merges = byte_pair_merges(words)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]  # no newline at the end: it would be an empty merge
    packed = zlib.compress("\n".join(lines).encode(), 9, wbits=zlib.MAX_WBITS | 16)  # as gzip, without time and name
    path.write_bytes(packed[:9] + b"\x03" + packed[10:])  # the system: "Unix", whatever Python and zlib say of theirs
    return 2 * 256 + len(merges) + 2
