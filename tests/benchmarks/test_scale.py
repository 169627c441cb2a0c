"""A DATA of a million tiny rows: what opening and reading it costs in files opened and in memory, not in seconds."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scale import cost, openings, write_data
from fmbseg_jax.runs.settings import FeedConfig
from fmbseg_jax.training.feed import Examples, Order, free_labels, split_rows
from labelgen.data.dataset import Dataset
from labelgen.data.shards import Finished, plan

ROWS, PER_SHARD = 1_000_000, 64
SHARDS = -(-ROWS // PER_SHARD)


@pytest.fixture(scope="module", name="data")
def data_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("large") / "data"
    write_data(folder, ROWS, ("features", "labels/tiny"))
    return folder


def test_the_trainers_reader_opens_what_it_reads_and_nothing_else(data: Path) -> None:
    opened, first = cost(lambda: Dataset.open(data))
    assert opened.count("train") == ROWS and first["opened"] <= 2
    examples, start = cost(lambda: Examples(opened, "train", free_labels(opened, "tiny", "train")))
    assert len(examples) == ROWS
    assert start["opened"] <= 2, "labels.json; no shard and no index"
    assert start["mb"] < 20
    rows = np.random.default_rng(0).choice(ROWS, 500, replace=False)
    with openings() as count:
        for row in rows.tolist():
            assert int(examples[row]["row"]) == row
        reached = len(np.unique(rows // PER_SHARD))
        assert count() <= 4 * 500 and count() >= 2 * reached  # a shard and its index, of both families


def test_reading_on_costs_memory_by_the_shards_reached_not_by_the_rows_read(data: Path) -> None:
    reader = Dataset.open(data).reader("features", "train")
    firsts = range(0, PER_SHARD * 2000, PER_SHARD)

    def read(place: int) -> None:
        for first in firsts:
            reader[first + place]

    _, once = cost(lambda: read(0))
    assert once["opened"] == 2 * 2000 and once["mb"] < 8, "each shard and its index"
    _, again = cost(lambda: read(1))
    assert again["opened"] <= 2000 and again["mb"] < 1, "no index twice"


def test_the_order_of_the_rows_is_some_bytes_a_row() -> None:
    train, held_out = split_rows(ROWS, 0.05)
    assert train.nbytes + held_out.nbytes == 8 * ROWS
    config = FeedConfig("train", "labels", 32, 16, 0.05, 0, 0.5)
    order, made = cost(lambda: Order(train, config, steps=1000))
    assert made["mb"] < 40 and 0 <= order[0] < ROWS


def test_what_is_finished_is_known_by_two_listings(data: Path) -> None:
    shards = plan({"train": ROWS}, PER_SHARD)
    assert len(shards) == SHARDS
    families = ["features", "labels/tiny"]
    finished, listing = cost(lambda: Finished(data, families))
    assert listing["opened"] == 0 and listing["mb"] < 40
    _, asked = cost(lambda: [shard for shard in shards if not finished.has(shard, families)])
    assert asked["opened"] == 0
