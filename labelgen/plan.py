"""Which photos lie in which shard, which shard is whose, and whose the folder is."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labelgen.dataset import read_json, shard_name, write_json
from labelgen.errors import UserError


@dataclass(frozen=True)
class Shard:
    """Photos start ... stop - 1 of a split's sorted photos."""

    split: str
    index: int
    shards: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """File name, the same in every family."""
        return shard_name(self.split, self.index, self.shards)


def plan(counts: Mapping[str, int], photos_per_shard: int) -> list[Shard]:
    """All shards of splits with so many photos each, splits by name."""
    return [
        Shard(split, i, -(-count // photos_per_shard), start, min(start + photos_per_shard, count))
        for split, count in sorted(counts.items())
        for i, start in enumerate(range(0, count, photos_per_shard))
    ]


def digest_of_list(names: Iterable[str]) -> str:
    """labelgen.config.digest of a list, which may be too long for one text."""
    whole = hashlib.sha256(b"[")
    for i, name in enumerate(names):
        whole.update(("," * bool(i) + json.dumps(name)).encode())
    whole.update(b"]")
    return whole.hexdigest()


def owned(shards: Sequence[Shard], worker: int, workers: int) -> list[Shard]:
    """Worker w of W has the shards whose place in the plan is w modulo W."""
    return list(shards[worker::workers])


def claim(path: Path, fields: Mapping[str, Any], what: str, mend: str, begun: bool = True) -> dict[str, Any]:
    """The fields of the marker at `path`, written now when it is new, or when nothing was begun that it speaks for.

    UserError, naming the first field that differs, when the marker there was written with other fields: `what` (a
    folder) belongs to another config, and `mend` is what to do.
    """
    if not begun or not path.exists():
        write_json(path, fields)
    there = read_json(path, mend)
    check_same(there, fields, what, mend)
    return there


def check_same(there: Mapping[str, Any], fields: Mapping[str, Any], what: str, mend: str) -> None:
    """UserError, naming the first field that differs, unless both have the same fields as JSON."""
    theirs, ours = dict(_flat(there)), dict(_flat(json.loads(json.dumps(fields))))
    for field in sorted(theirs.keys() | ours.keys()):
        if theirs.get(field) != ours.get(field):
            raise UserError(
                f"{what} was made with {field} = {_short(theirs.get(field))}, but now it is {_short(ours.get(field))}; "
                f"{mend}"
            )


def _flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
