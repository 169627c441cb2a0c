"""The classes of words as other tools want them: a colour, words, and whether each is a thing or stuff."""

from collections.abc import Mapping, Sequence

from labelgen.core.ontology import BACKGROUND, STUFF, THING, Ontology
from labelgen.formats.palette import palette
from labelgen.formats.writers import ClassInfo
from labelgen.sources.folders import read_table


def class_infos(
    ontology: Ontology, names: tuple[str, ...], groups: Mapping[str, Sequence[str]] | None = None
) -> list[ClassInfo]:
    """The classes `names`: those of the words, and what may come after them; class i has colour i of the palette.

    groups: eval.groups, of which `things` and `stuff` say what is a thing, where the ontology does not.
    """
    words: list[list[str]] = [[] for _ in names]
    for word, owner in zip(ontology.words, ontology.word_class, strict=True):
        words[owner].append(word)
    colours = palette(max(256, len(names))).tolist()
    given = (*ontology.roles, BACKGROUND)
    roles = [given[i] or _role(name, words[i], groups or {}) for i, name in enumerate(names)]
    return [
        ClassInfo(name, (*colours[i],), tuple(words[i]), STUFF if roles[i] == BACKGROUND else roles[i])
        for i, name in enumerate(names)
    ]


COCO_THINGS = 91
"""Ids of COCO's things, less one, are below this; those of its stuff are not."""


def _role(name: str, words: Sequence[str], groups: Mapping[str, Sequence[str]]) -> str:
    """Whether a class is a thing or stuff: by groups of that name, else as COCO has it by name or word, else ""."""
    for group, members in groups.items():
        if name in members and (role := group.casefold().removesuffix("s")) in (THING, STUFF):
            return role
    coco = {known: value for value, known in read_table("coco_stuff_ids").items()}
    found = [coco[word.casefold()] for word in (name, *words) if word.casefold() in coco]
    return "" if not found else THING if found[0] < COCO_THINGS else STUFF
