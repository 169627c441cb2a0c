"""Where the picture of a photo lies, and what tools are to call it."""

from pathlib import Path

from ml_collections import ConfigDict

from labelgen.core.errors import UserError
from labelgen.core.ontology import Ontology
from labelgen.formats.base import ClassInfo
from labelgen.palette import palette
from labelgen.sources.photos import Source
from labelgen.sources.registry import open_source


def split_source(photos: ConfigDict, split: str) -> Source | None:
    """The pictures of a split of config.photos; None where they no longer are, or where it knows no such split."""
    try:
        return open_source(photos, split, truth=False)
    except (UserError, KeyError):
        return None


def locate(root: str, source: Source | None, photo_id: str, name: str) -> tuple[str, Path | None]:
    """(the picture's path from the root of the photos on, where it is); (`name`, None) where that is not known."""
    try:
        file = None if source is None else source.file(photo_id)
    except KeyError:
        file = None
    path = Path(root, file) if file else None
    return (file, path) if file and path and path.is_file() else (name, None)


def class_infos(ontology: Ontology, names: tuple[str, ...]) -> list[ClassInfo]:
    """The classes `names`: those of the words, and what may come after them; class i has colour i of the palette."""
    words: list[list[str]] = [[] for _ in names]
    for word, owner in zip(ontology.words, ontology.word_class, strict=True):
        words[owner].append(word)
    colours = palette(max(256, len(names))).tolist()
    return [ClassInfo(name, (*colours[i],), tuple(words[i])) for i, name in enumerate(names)]
