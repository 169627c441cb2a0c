"""A shard of the encode stage resumed from whatever a kill can leave of its files."""

import json
import random
from pathlib import Path

import pytest

from labelgen.core.files import digest, writer_names
from labelgen.data.manifest import claim, digest_of_list
from labelgen.data.shards import EncodeShard, failures_path, is_done, owned, plan
from labelgen.data.tfrecord import ShardReader
from tests.worlds.shard_writing import FAMILIES, PHOTOS, SHARD, contents, folders, go_on, rows


def paths(data: Path) -> list[Path]:
    return [data / family / SHARD.name for family in FAMILIES] + [failures_path(data, SHARD)]


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    data = folders(tmp_path / "whole")
    assert go_on(data) == 0 and is_done(data, SHARD, FAMILIES)
    return contents(data)


@pytest.mark.parametrize("seed", range(40))
def test_cut_anywhere(tmp_path: Path, whole: dict[str, bytes], seed: int) -> None:
    rng = random.Random(seed)
    data = folders(tmp_path / "cut")
    writer = next(writer_names()) if seed % 2 else "another-machine"
    for path in paths(data):
        raw = whole[str(path.relative_to(data))]
        if rng.random() < 0.3:  # finished before the kill
            path.write_bytes(raw)
        else:
            partial = path.with_name(path.name + ".partial") / writer
            partial.parent.mkdir()
            partial.write_bytes(raw[: rng.randrange(len(raw) + 1)])
    assert not is_done(data, SHARD, FAMILIES)
    go_on(data)
    assert contents(data) == whole


def test_goes_on_at_the_photo_it_was_at(tmp_path: Path, whole: dict[str, bytes]) -> None:
    data = folders(tmp_path / "cut")
    with EncodeShard(data, SHARD, FAMILIES, PHOTOS) as writing:
        writing.fail({"photo": "a", "reason": "bad"})
        writing.add(rows("b"))
        writing.fail({"photo": "c", "reason": "bad"})
    assert go_on(data) == 3
    assert contents(data) == whole


@pytest.mark.parametrize("at", ["b", "e", ""])
def test_a_line_on_a_photo_goes_with_its_row(tmp_path: Path, at: str) -> None:
    data = folders(tmp_path / "d")

    def write(stop: str) -> None:
        with EncodeShard(data, SHARD, FAMILIES, PHOTOS) as writing:
            for photo_id in PHOTOS[writing.next :]:
                line = {"photo": photo_id, "reason": "by its first page", "used": True}
                if photo_id == stop:  # killed between the line and the row
                    writing.add({}, [line])
                writing.add(rows(photo_id), [line])
            writing.finish()

    if at:
        with pytest.raises(KeyError):
            write(at)
    write("")
    lines = [json.loads(line) for line in failures_path(data, SHARD).read_bytes().splitlines()]
    assert [line["photo"] for line in lines] == PHOTOS
    assert len(ShardReader(data / "features" / SHARD.name)) == len(PHOTOS)


def test_finished_shard_loses_nothing_when_reopened(tmp_path: Path, whole: dict[str, bytes]) -> None:
    data = tmp_path / "whole"
    assert go_on(data) == 5 and contents(data) == whole


def test_failure_of_a_photo_that_works_by_now_is_dropped_with_what_follows(tmp_path: Path) -> None:
    data = folders(tmp_path / "d")
    with EncodeShard(data, SHARD, FAMILIES, PHOTOS) as writing:
        writing.add(rows("b"))
    assert go_on(data) == 0  # nothing is known of "a", so its row must come first
    assert len(ShardReader(data / "features" / SHARD.name)) == 2


def test_plan_covers_each_photo_once() -> None:
    shards = plan({"b": 5, "a": 4}, 2)
    assert [(s.split, s.start, s.stop) for s in shards] == [
        ("a", 0, 2),
        ("a", 2, 4),
        ("b", 0, 2),
        ("b", 2, 4),
        ("b", 4, 5),
    ]
    assert shards[4].name == "b-00002-of-00003.tfrecord"
    shares = [owned(shards, worker, 3) for worker in range(3)]
    assert sorted(map(len, shares)) == [1, 2, 2] and set().union(*shares) == set(shards)


def test_digest_of_a_long_list_is_that_of_the_whole() -> None:
    for names in ([], ["a"], ["a/b", "\u00e4", '"']):
        assert digest_of_list(names) == digest(names)


def test_claim_names_the_first_difference(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    fields = {"a": {"b": (1, 2)}, "c": "x"}
    assert claim(path, fields, "D", "fix") == claim(path, fields, "D", "fix") == {"a": {"b": [1, 2]}, "c": "x"}
    for other, message in (
        ({"a": {"b": (1, 3)}, "c": "x"}, r"D was made with a.b = \[1, 2\], but now it is \[1, 3\]; fix"),
        ({"a": {"b": (1, 2)}}, r"D was made with c = \"x\", but now it is nothing; fix"),
        ({**fields, "d": None, "e": 1}, "D was made with e = nothing, but now it is 1"),
    ):
        with pytest.raises(ValueError, match=message):
            claim(path, other, "D", "fix")
