"""Photos that came after DATA was begun: which they are, and that none of those before is gone.

What is encoded stays as it is; each time photos came they are a list of their own (labelgen.data.arrivals), after those
before. Photos that are gone are refused: rows cannot be taken out of what is written.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from labelgen.core.errors import UserError
from labelgen.core.progress import say
from labelgen.data import arrivals
from labelgen.data.dataset import photo_ids
from labelgen.data.manifest import FAMILIES, digest_of_list
from labelgen.data.shards import FailureFile, failures_path, is_done, plan
from labelgen.data.tfrecord import files_of
from labelgen.sources.listing import Listing


class Grown(NamedTuple):
    """The photos of a split of DATA."""

    ids: Sequence[str]
    """In the order of the rows: the first list, then what came each time."""
    first: int
    """How many are in the first list."""
    later: list[dict[str, Any]]
    """Of each arrival: count, digest, came (the day)."""


def grown(
    data: Path, split: str, fields: Mapping[str, Any], listed: Sequence[str], limit: int | None, per_shard: int
) -> Grown | None:
    """The photos of a split that was begun: those of DATA, and, as an arrival, what `listed` has besides.

    fields: what config.json says of the split; listed: the ids of now, sorted; limit: not more photos than that. None
    where these are the first list and nothing else, and where which photos DATA has cannot be told: it was begun before
    it kept lists, and is not complete. UserError when a photo of DATA is gone.
    """
    lists = arrivals.lists(data, split)
    now = min(len(listed), limit or len(listed))
    same = now == fields["count"] and digest_of_list(islice(listed, now)) == fields["digest"]
    if same and len(lists) < 2:
        return None
    if not lists:
        _recover(data, split, fields, per_shard)
    while lists := arrivals.lists(data, split):
        found = _compared(heapq.merge(*map(arrivals.read_ids, lists)), listed)
        if found.gone and len(lists) > 1 and not _is_begun(data, split, len(lists) - 1):
            lists[-1].unlink(missing_ok=True)  # taken back before anything was made of it
            continue
        if found.gone:
            raise UserError(
                f"{data}: {found.gone} photos of split {split!r} are not there any more, {found.first!r} is the first; "
                "put them back, or take another --out"
            )
        known = len(listed) - len(found.new)
        if limit and limit < known:
            return None
        new = islice(found.new, None if limit is None else limit - known)
        if not (new_ids := Listing((photo_id, "") for photo_id in new)):
            return _grown(lists)
        if arrivals.add(data, split, len(lists), new_ids):
            say(f"{data}: {len(new_ids)} photos came to split {split}, the {known} before stay as they are")
    return None


def _grown(lists: Sequence[Path]) -> Grown:
    ids = Listing((photo_id, "") for photo_id in chain.from_iterable(map(arrivals.read_ids, lists)))
    counts = [sum(1 for _ in arrivals.read_ids(path)) for path in lists]
    later = [
        {"count": count, "digest": digest_of_list(arrivals.read_ids(path)), "came": arrivals.day(path)}
        for count, path in zip(counts[1:], lists[1:], strict=True)
    ]
    return Grown(ids, counts[0], later)


class _Compared(NamedTuple):
    """The photos of DATA beside those of now."""

    new: Listing
    gone: int
    first: str
    """Of those that are gone."""


def _compared(known: Iterable[str], listed: Iterable[str]) -> _Compared:
    """known, listed: sorted, each id once."""
    gone, first = 0, ""

    def new() -> Iterator[tuple[str, str]]:
        nonlocal gone, first
        both = heapq.merge(((name, False) for name in known), ((name, True) for name in listed))
        for name, group in groupby(both, key=itemgetter(0)):
            there = [now for _, now in group]
            if there == [True]:
                yield name, ""
            elif there == [False]:
                gone, first = gone + 1, first or name

    found = Listing(new())
    return _Compared(found, gone, first)


def _is_begun(data: Path, split: str, arrival: int) -> bool:
    """Whether a photo of an arrival may have been encoded."""
    return any(any((data / family).glob(f"{files_of(split, arrival)}-*")) for family in FAMILIES)


def _recover(data: Path, split: str, fields: Mapping[str, Any], per_shard: int) -> None:
    """Writes the first list of a DATA from before it kept one, by its shards; nothing unless they have every photo."""
    shards = plan({split: fields["count"]}, per_shard)
    families = FAMILIES if fields["truth"] else FAMILIES[:2]
    if not all(is_done(data, shard, families) for shard in shards):
        return
    ids = Listing(
        (photo_id, "")
        for shard in shards
        for photo_id in heapq.merge(
            photo_ids(data / "features" / shard.name),
            (line["photo"] for line in FailureFile.lines(failures_path(data, shard)) if not line.get("used")),
        )
    )
    if digest_of_list(ids) == fields["digest"]:
        arrivals.keep_first(data, split, ids)
