"""A list of words as CLIP's text tower sees it, before anyone spends an hour on it.

    python -m labelgen.words --config=configs/my_photos.py
    python -m labelgen.words --config=configs/my_photos.py --data=DATA    # and how often each class is found there

For each class its words and the classes nearest to it, by the cosine of their nearest words. Then what may go wrong:
words of two classes so alike that they will be confused, words nearer to another class than to their own, one word
written in two ways, words that the text tower cuts off or has to spell. Text cosines are all high, so likeness is
measured against this very list: from three robust standard deviations (1.4826 times the median absolute deviation)
above the median of the cosines between words of different classes. Two words also count as alike when even a patch that
is exactly the one gives the other odds less than e times smaller, at presence.temperature.

--data takes photos that labelgen.run has encoded, and says in how many of them each class is found and how surely. No
photo is encoded again, so that other words are tried in seconds. Nothing is written.

With other templates than those of configs/default.py (--config.labels.templates=imagenet: the 80 of CLIP's authors) it
also says what they change.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from labelgen.core.command import columns, command, command_line, config_flags, parser, whole
from labelgen.core.config import load_config
from labelgen.core.errors import UserError
from labelgen.core.ontology import Ontology, read_words
from labelgen.core.progress import Progress
from labelgen.data.dataset import Dataset, read_prototypes
from labelgen.data.records import EvidenceRow
from labelgen.data.staging import open_data
from labelgen.labels import vocabulary
from labelgen.labels.free_labels import LabelSettings
from labelgen.labels.presence import detect, sample
from labelgen.labels.vocabulary import Array, Pair, Spread, Tokenizer

NEAREST, SHOWN, WORDS_WIDTH = 2, 12, 40
PHOTOS = 256
EVERYWHERE = 0.9
"""A class in so many of the photos says little about any of them, unless it is really there."""

_MARKS = re.compile(r"^([-*\u2022]|\d+[.)])\s|^[\"'\[{(]|[\"'\]}]$|[|]|\w{4,}\.\s+\w|\.$")
"""- cat, 1. cat, "cat", cat | dog, cat. dog."""


class Finding(NamedTuple):
    """Something to look at: what it is and what to do about it, and the words that it is about."""

    what: str
    about: list[str]


class Found(NamedTuple):
    """share: float [C] of photos that each class is found in; score: its median there, nan where there is none."""

    share: Array
    score: Array
    photos: int


def main(args: argparse.Namespace) -> int:
    """Prints the table and the findings."""
    config = load_config(args.config, args.overrides)
    if not config.ontology:
        raise UserError("ontology is not set; set it to your file of words: --config.ontology=FILE")
    words = read_words(config.ontology)
    data = open_data(args.data, config.data_cache) if args.data else None
    prototypes, tokenizer, usual_prototypes = embed(config, words, data)
    cosines = vocabulary.cosines(prototypes)
    usual = vocabulary.spread(cosines, words.word_class, config.presence.temperature)
    occurrence = presence(data, config, words, prototypes, args.limit) if data else None
    print(describe(words, cosines, usual, occurrence))
    if usual_prototypes is not None:
        print(f"\n{changes(words, prototypes, usual_prototypes, config)}")
    findings = [*of_text(words, cosines, usual), *of_marks(words)]
    findings += of_tokens(words, *tokenizer) if tokenizer else []
    findings += of_photos(words, occurrence) if occurrence else []
    findings = [finding for finding in findings if finding.about]
    print("".join(f"\n{report(finding)}\n" for finding in findings))
    told = f"{sum(len(finding.about) for finding in findings)} things to look at" if findings else "nothing stands out"
    print(f"{config.ontology}: {told}. next: {next_command(args, bool(findings))}")
    return 0


class Embedded(NamedTuple):
    """float32 [K, E] unit rows by the text tower, or labels.text_embeddings; its tokenizer with the templates written
    out, where it is known; and the rows by the templates of configs/default.py, where the config has others."""

    prototypes: NDArray[np.float32]
    tokenizer: tuple[Tokenizer, list[str]] | None
    usual: NDArray[np.float32] | None


def embed(config: ConfigDict, words: Ontology, data: Dataset | None) -> Embedded:
    """The words in text space. UserError when DATA was encoded by another CLIP."""
    ready = config.labels.text_embeddings
    if ready:
        rows = read_prototypes(ready, len(words.words), data.text_width if data else None)
        return Embedded(rows / np.linalg.norm(rows, axis=1, keepdims=True), None, None)
    from labelgen.models.clip import TEXT_DTYPE, load_clip, written_out  # torch: only where words are embedded here

    clip = load_clip(config.clip, config.weights_dir, config.device, TEXT_DTYPE)
    if data and clip.identity()["sha256"] != data.info["encoders"]["clip"]["sha256"]:
        raise UserError(
            f"{config.weights_dir}/{clip.identity()['weights']}: is not the CLIP that encoded {data.path}; name the "
            "config that DATA was encoded with, or leave out --data"
        )
    tokenizer: Any = clip.source.tokenizer
    patterns, usual = written_out(config.labels.templates), list(load_config("default").labels.templates)
    known = (tokenizer, patterns) if hasattr(tokenizer, "encode") else None  # those of other libraries
    rows = clip.text(words.words, patterns)
    return Embedded(rows, known, clip.text(words.words, usual) if patterns != usual else None)


def changes(words: Ontology, prototypes: Array, usual: Array, config: ConfigDict) -> str:
    """What the config's templates make other than those of configs/default.py, rows [K, E] each."""
    own = np.einsum("ke,ke->k", prototypes, usual)
    least = int(own.argmin())
    lines = [
        f"By labels.templates = {', '.join(config.labels.templates)!r} for those of configs/default.py a word moves to "
        f"a cosine of {_short(float(np.median(own)))} (median) with itself, least {words.words[least]!r} "
        f"{_short(own[least])}."
    ]
    seen = [vocabulary.cosines(rows) for rows in (usual, prototypes)]
    spreads = [vocabulary.spread(each, words.word_class, config.presence.temperature) for each in seen]
    pairs = [len(vocabulary.alike(each, words.word_class, by.alike)) for each, by in zip(seen, spreads, strict=True)]
    was, now = spreads
    lines.append(
        f"Between words of different classes: median {_short(was.median)} -> {_short(now.median)}, spread "
        f"{_short(was.scale)} -> {_short(now.scale)}, alike from {_short(was.alike)} -> {_short(now.alike)}; pairs so "
        f"alike: {pairs[0]} -> {pairs[1]}."
    )
    before, after = (vocabulary.class_cosines(each, words.word_class) for each in seen)
    nearest = [
        (vocabulary.neighbours(before, c, 1), vocabulary.neighbours(after, c, 1)) for c in range(len(words.names))
    ]
    moved = [
        f"{words.names[c]} ({words.names[old[0]]} -> {words.names[new[0]]})"
        for c, (old, new) in enumerate(nearest)
        if old != new
    ]
    lines.append(f"Nearest to another class: {', '.join(moved) if moved else 'none'}.")
    return "\n".join(lines)


def presence(data: Dataset, config: ConfigDict, words: Ontology, prototypes: NDArray[np.float32], limit: int) -> Found:
    """What the labeller will find present, in photos taken evenly from labels.splits of DATA."""
    settings = LabelSettings.from_config(config).presence
    splits = [split for split in config.labels.splits if split in data.splits]
    if not splits:
        raise UserError(f"{data.path}: has none of labels.splits = {', '.join(config.labels.splits)}; fix that field")
    places = [(split, row) for split in splits for row in range(data.count(split))]
    chosen = [places[i] for i in sample(len(places), limit)]
    scores, present = [], []
    progress = Progress(len(chosen), "photos", "presence")
    for split in splits:
        rows = [row for at, row in chosen if at == split]
        data.stage(split, ("evidence",), rows)
        reader = data.reader("evidence", split)
        for row in rows:
            seen = detect(EvidenceRow.decode(reader[row]), prototypes, words, settings)
            scores.append(seen.scores)
            present.append(seen.present)
            progress.add()
    progress.close()
    return _found(np.array(scores), np.array(present), len(words.names))


def _found(scores: Array, present: NDArray[np.bool_], classes: int) -> Found:
    """Of scores and presence [photos, C]."""
    medians = [np.median(scores[present[:, c], c]) if present[:, c].any() else np.nan for c in range(classes)]
    return Found(present.mean(0), np.array(medians), len(present))


def describe(words: Ontology, cosines: Array, usual: Spread, occurrence: Found | None) -> str:
    """A line a class, under a line that says what to hold its cosines against."""
    nearest = vocabulary.class_cosines(cosines, words.word_class)
    rows = []
    for index, name in enumerate(words.names):
        class_words = [word for word, owner in zip(words.words, words.word_class, strict=True) if owner == index]
        near = vocabulary.neighbours(nearest, index, NEAREST)
        about = [f"{words.names[other]} {_short(nearest[index, other])}" for other in near]
        seen = [f"{occurrence.share[index]:.0%}", _short(occurrence.score[index])] if occurrence else []
        rows.append([name, str(len(class_words)), shorten(class_words), ", ".join(about), *seen])
    heads = ["class", "words", "", "nearest classes", *(["photos", "score"] if occurrence else [])]
    title = f"{len(words.names)} classes, {len(words.words)} words. Cosines between words of different classes: median "
    title += f"{_short(usual.median)}, spread {_short(usual.scale)}; alike from {_short(usual.alike)}."
    if occurrence:
        title += f"\nFound in {occurrence.photos} photos: share of the photos, median score there."
    return f"{title}\n\n{columns(heads, rows, ('words', 'photos', 'score'))}"


def shorten(words: Sequence[str]) -> str:
    """As many of the words as are readable in a column."""
    kept = 1
    while kept < len(words) and len(", ".join(words[: kept + 1])) <= WORDS_WIDTH:
        kept += 1
    return ", ".join(words[:kept]) + (f" + {len(words) - kept}" if kept < len(words) else "")


def of_text(words: Ontology, cosines: Array, usual: Spread) -> list[Finding]:
    """What the cosines and the spelling of the words say."""

    def name(word: int) -> str:
        return f"{words.words[word]!r} ({words.names[words.word_class[word]]})"

    def misplaced(pair: tuple[Pair, Pair]) -> str:
        far, near = pair
        return f"{name(far.word)}: {name(far.other)} {_short(far.cosine)}, {name(near.other)} {_short(near.cosine)}"

    pairs = vocabulary.alike(cosines, words.word_class, usual.alike)
    lost = list(vocabulary.misplaced(cosines, words.word_class))
    of_background = [pair for pair in lost if vocabulary.is_background(words, pair[0].word)]
    return [
        Finding(
            "so alike that they will be confused: join the classes, name what tells them apart (`river bank`, not "
            "`bank`), or drop the word that is not needed",
            [f"{name(pair.word)} and {name(pair.other)} {_short(pair.cosine)}" for pair in pairs],
        ),
        Finding(
            "nearer to another class than to the other words of their own: move the word, or drop it",
            [misplaced(pair) for pair in lost if pair not in of_background],
        ),
        Finding(
            "background words nearer to a class than to the background: right where they mark that class off, else "
            "they take its pixels: drop them, or name the class more closely",
            [misplaced(pair) for pair in of_background],
        ),
        Finding(
            "the same but for spelling: one of the two is enough",
            [f"{name(a)} and {name(b)}" for a, b in vocabulary.duplicates(words)],
        ),
        Finding(
            "the only class, so that every pixel is it: name what else there is, or `background: word, word`",
            [repr(words.names[0])] if len(words.names) == 1 else [],
        ),
    ]


def of_marks(words: Ontology) -> list[Finding]:
    """Words that look like lines of another kind of list."""
    marked = [(text, words.names[words.word_class[word]]) for word, text in enumerate(words.words)]
    what = "with the marks of another kind of list, which count as part of the word: write one class a line, bare"
    return [Finding(what, [f"{text!r} ({name})" for text, name in marked if _MARKS.search(text)])]


def of_tokens(words: Ontology, tokenizer: Tokenizer, templates: Iterable[str]) -> list[Finding]:
    """What the tokenizer says of the words."""
    cut = vocabulary.cut_off(tokenizer, words.words, list(templates))
    spelled = vocabulary.spelled(tokenizer, words.words)
    return [
        Finding(
            f"longer than the text tower reads ({tokenizer.context_length} tokens, start and end included), so that "
            "the end is cut off: say it in fewer words",
            [f"{words.words[word]!r}: {tokens} tokens" for word, tokens in cut],
        ),
        Finding(
            "no words of the tower's vocabulary, put together from pieces: mind the spelling, write parts apart "
            "(`tv monitor`), or take a commoner word",
            [f"{words.words[word]!r}: {part!r} is {pieces} pieces" for word, part, pieces in spelled],
        ),
    ]


def of_photos(words: Ontology, occurrence: Found) -> list[Finding]:
    """What presence in the photos says."""
    shares = list(zip(words.names, occurrence.share, strict=True))
    return [
        Finding(
            "found in no photo: another word for it, a lower presence.threshold, or it is not in them",
            [name for name, share in shares if share == 0],
        ),
        Finding(
            f"found in {EVERYWHERE:.0%} of the photos or more: right for a sky, else the word is too general, or "
            "what it is taken for has no word: add that to the background",
            [f"{name} {share:.0%}" for name, share in shares if share >= EVERYWHERE],
        ),
    ]


def report(finding: Finding) -> str:
    """A finding as lines, the most telling first."""
    lines = [f"  {line}" for line in finding.about[:SHOWN]]
    more = len(finding.about) - SHOWN
    return "\n".join([f"{finding.what}:", *lines, *([f"  and {more} more"] if more > 0 else [])])


def _short(value: float) -> str:
    """.76, or - for nan."""
    return "-" if np.isnan(value) else f"{value:.2f}".replace("0.", ".", 1)


def next_command(args: argparse.Namespace, fix: bool) -> str:
    """What to run next."""
    if args.data:
        flags = [*config_flags(args, "labels.name"), f"--out={args.data}", "--stage=label", "--config.labels.name=NEW"]
    else:
        flags = [*config_flags(args), "--out=DATA", "--limit=20"]
    start = command_line("labelgen.run", *flags)
    return f"edit the words and look again, then {start}" if fix else start


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m labelgen.words`."""
    flags = parser(__doc__ or "")
    flags.add_argument("--data", metavar="DATA", help="folder or url that labelgen.run wrote")
    flags.add_argument(
        "--limit", type=whole(1), default=PHOTOS, metavar="N", help=f"photos of DATA (default: {PHOTOS})"
    )
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
