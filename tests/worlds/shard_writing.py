"""A shard of five photos, three of them bad, to be written and left at any moment."""

from pathlib import Path

from labelgen.data.shards import EncodeShard, Shard
from tests.worlds.rows import evidence_row, feature_row, truth_row

PHOTOS = ["a", "b", "c", "d", "e"]
BAD = {"a", "c", "d"}
SHARD = Shard("train", 0, 1, 0, 5)
FAMILIES = ("features", "evidence", "truth")


def rows(photo_id: str) -> dict[str, bytes]:
    made = feature_row(photo_id), evidence_row(photo_id), truth_row(photo_id)
    return {family: row.encode() for family, row in zip(FAMILIES, made, strict=True)}


def go_on(data: Path) -> int:
    """Does the photos that are left; returns how many were done before."""
    with EncodeShard(data, SHARD, FAMILIES, PHOTOS) as writing:
        for photo_id in PHOTOS[writing.next :]:
            if photo_id in BAD:
                writing.fail({"photo": photo_id, "reason": "bad"})
            else:
                writing.add(rows(photo_id))
        writing.finish()
        return writing.next


def folders(data: Path) -> Path:
    for family in FAMILIES:
        (data / family).mkdir(parents=True)
    return data


def contents(data: Path) -> dict[str, bytes]:
    return {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*") if path.is_file()}
