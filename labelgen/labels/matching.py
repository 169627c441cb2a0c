"""Names that tools give to a photo, and the photo of DATA that they mean."""

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import PurePosixPath
from typing import Protocol

from labelgen.core.errors import UserError
from labelgen.sources.finding import SUFFIXES

PhotoKey = tuple[str, str]
"""(split, photo id)."""


class Named(Protocol):
    """What has names: labelgen.sources.drawn.Corrections."""

    def names(self) -> Sequence[str]:
        """All there are."""

    def where(self, name: str) -> str:
        """What messages call it."""


def match(corrections: Named, photos: Iterable[PhotoKey]) -> dict[PhotoKey, str]:
    """The name of each photo's label map: SPLIT/ID, ID, or as much of its end as tells it from others, with a suffix or
    without, and whatever folders in front. A name that is an ID, and the end of others that have names of their own, is
    that photo's. UserError for a name of no photo, of several, and for two of one photo.
    """
    by_last: dict[str, list[PhotoKey]] = {}
    for key in photos:
        by_last.setdefault(_composed(PurePosixPath(key[1]).name), []).append(key)
    names: dict[PhotoKey, str] = {}
    later: dict[str, None] = {}
    for name in chain(corrections.names(), _longest_first(later)):
        spelt = next(filter(lambda each: _photos_of(each, by_last), _without_suffix(name)), "")
        keys = _photos_of(spelt, by_last)
        if len(keys) > 1 and name not in later:
            later[name] = None
            continue
        whole = [key for key in keys if _composed(key[1]) == _composed(spelt)]
        if len(whole) == 1 and all(key in names for key in keys if key not in whole):
            keys = whole
        if len(keys) != 1:
            which = (
                f"may be that of {' or '.join('/'.join(key) for key in keys[:3])}" if keys else "belongs to no photo"
            )
            fix = "call it SPLIT/ID as labelgen.export does" + ("" if keys else ", or take it out")
            raise UserError(f"{corrections.where(name)}: {which} of the labelled splits; {fix}")
        if keys[0] in names:
            other = corrections.where(names[keys[0]])
            raise UserError(f"{corrections.where(name)}: is of the same photo as {other}; take one of them out")
        names[keys[0]] = name
    return names


def _longest_first(names: Iterable[str]) -> Iterator[str]:
    """Those of most folders first; as they are when the first of them is asked for."""
    yield from sorted(names, key=lambda name: -name.replace("\\", "/").count("/"))


_LABEL_STUDIO = re.compile(r"[0-9a-f]{8}(-|__)(?=.)")
"""What Label Studio puts before a file's name: of an upload `1a2b3c4d-`, of a link `1a2b3c4d__`."""


def _without_suffix(name: str) -> Iterator[str]:
    """What a name may be without its suffix, likeliest first: IMG.jpg is IMG before it is IMG.jpg (of IMG.jpg.jpg),
    IMG.jpg.png is IMG.jpg before it is IMG. Backslashes are of a name before they are Windows' between folders; last
    without what Label Studio puts in front.
    """
    for spelt in dict.fromkeys([name, name.replace("\\", "/")]):
        stem, suffix = os.path.splitext(spelt)
        known = suffix[1:].lower() in (*SUFFIXES, "json")
        yield from [stem, spelt] if known else [spelt, stem]
        if known and os.path.splitext(stem)[1][1:].lower() in SUFFIXES:
            yield os.path.splitext(stem)[0]
    plain = PurePosixPath(name)
    if found := _LABEL_STUDIO.match(plain.name):
        yield from _without_suffix(str(plain.with_name(plain.name[found.end() :])))


def _composed(name: str) -> str:
    """A letter and its accent as one, where macOS has them as two."""
    return unicodedata.normalize("NFC", name)


def _photos_of(name: str, by_last: Mapping[str, Sequence[PhotoKey]]) -> list[PhotoKey]:
    """Photos whose path ends as the name does, or the name as their path; those of a split that the name has in front,
    where there are such. Of IDs that the name ends with, the longest: train/b/a is b/a, not a.
    """
    parts = PurePosixPath(_composed(name)).parts
    keys = []
    for split, photo_id in by_last.get(parts[-1], ()) if parts else ():
        own = PurePosixPath(_composed(photo_id)).parts
        shared = min(len(own), len(parts))
        if own[-shared:] == parts[-shared:]:
            keys.append((split, photo_id))
    in_split = [key for key in keys if key[0] in parts[: len(parts) - len(PurePosixPath(key[1]).parts)]]
    keys = in_split or keys
    lengths = [len(PurePosixPath(photo_id).parts) for _, photo_id in keys]
    ended = max((length for length in lengths if length <= len(parts)), default=0)
    return [key for key, length in zip(keys, lengths, strict=True) if length >= ended]
