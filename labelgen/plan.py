"""Which photos lie in which shard, which shard is whose, and whose the folder is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labelgen.tfrecord import shard_name


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


def owned(shards: Sequence[Shard], worker: int, workers: int) -> list[Shard]:
    """Worker w of W has the shards whose place in the plan is w modulo W."""
    return list(shards[worker::workers])
