"""The feed: batches as a function of (seed, step), whole passes, restored anywhere, families that must agree."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fmbseg_jax.runs.settings import FeedConfig
from fmbseg_jax.training.feed import (
    Examples,
    Feed,
    Order,
    check_whole_shards,
    class_mass,
    free_labels,
    held_out_batches,
    oracle_truth,
    split_rows,
    training_rows,
)
from labelgen.core.errors import UserError
from labelgen.data.dataset import Dataset
from labelgen.data.records import FeatureRow, LabelRow
from tests.worlds.synthetic import CLASSES, GRID, WIDTH, write_data

CONFIG = FeedConfig("train", "labels", 8, 4, 0.1, 0, 0.5)
ALL = np.arange(8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.open(write_data(tmp_path_factory.mktemp("data") / "data"))


def examples(data: Dataset) -> Examples:
    return Examples(data, "train", free_labels(data, "default", "train"))


def places(rows: np.ndarray, config: FeedConfig, steps: int) -> np.ndarray:
    order = Order(rows, config, steps)
    return np.array([order[i] for i in range(len(order))]).reshape(steps, config.batch_size)


def test_place_j_belongs_to_virtual_shard_j_over_two_and_each_pass_has_every_row_once() -> None:
    rows = np.arange(40)
    batches = places(rows, CONFIG, 10)
    assert (batches % 4 == np.repeat(np.arange(4), 2)).all()
    assert sorted(batches[:5].ravel()) == sorted(batches[5:].ravel()) == list(range(40))
    assert (batches[:5] != batches[5:]).any()


def test_the_order_depends_on_the_seed_and_on_nothing_else() -> None:
    rows = np.arange(23)
    assert (places(rows, CONFIG, 9) == places(rows, CONFIG, 9)).all()
    assert (places(rows, CONFIG, 9)[:5] == places(rows, CONFIG, 5)).all()
    assert (places(rows, CONFIG, 9) != places(rows, dataclasses.replace(CONFIG, seed=1), 9)).any()


def test_a_virtual_shard_reads_its_own_rows_only_whatever_the_batch() -> None:
    rows = np.arange(24)
    one, two = (places(rows, dataclasses.replace(CONFIG, batch_size=size), 6) for size in (4, 8))
    for shard in range(4):
        assert list(two[:3, 2 * shard : 2 * shard + 2].ravel()) == list(one[:, shard])


def test_fewer_rows_than_virtual_shards_serve_several() -> None:
    counts = Counter(places(np.array([1, 6]), CONFIG, 3).ravel().tolist())
    assert set(counts) == {1, 6}


def test_held_out_rows_are_never_trained_on() -> None:
    for count, share, held in ((40, 0.1, 4), (2, 0.1, 1), (1, 0.5, 0), (10, 0.0, 0), (3, 0.9, 2)):
        train, held_out = split_rows(count, share)
        assert len(held_out) == held and sorted([*train, *held_out]) == list(range(count))


def test_fewer_photos_are_among_more_and_the_rows_held_out_stay() -> None:
    def drawn(photos: int, seed: int = 0) -> tuple[list[int], list[int]]:
        rows, held_out = training_rows(40, dataclasses.replace(CONFIG, photos=photos, seed=seed))
        return rows.tolist(), held_out.tolist()

    every, held_out = (part.tolist() for part in split_rows(40, CONFIG.holdout))
    assert drawn(0) == (every, held_out) == drawn(1000)
    few, more = drawn(4), drawn(8)
    assert len(few[0]) == 4 and len(more[0]) == 8 and set(few[0]) < set(more[0]) < set(every)
    assert few[1] == more[1] == held_out and few[0] == sorted(few[0])
    assert drawn(4, seed=1)[0] != few[0] == drawn(4)[0]


def test_batches_hold_the_rows_of_the_order(data: Dataset) -> None:
    rows, _ = split_rows(data.count("train"), 0.1)
    order, feed = places(rows, CONFIG, 3), Feed(examples(data), rows, CONFIG, 3, ALL)
    for step in range(3):
        batch = next(feed)
        for place, row in enumerate(order[step]):
            view = FeatureRow.decode(data.reader("features", "train")[row])
            label = LabelRow.decode(data.label_reader("default", "train")[row])
            np.testing.assert_array_equal(batch["features"][place], view.features)
            assert tuple(batch["grid_hw"][place]) == view.grid_hw
            np.testing.assert_array_equal(batch["classes"][place], label.target_classes)
            np.testing.assert_array_equal(batch["shares"][place], label.target_shares)
    assert all(value.ctypes.data % 64 == 0 for value in batch.values()), "jax takes it over without a copy"
    assert batch["features"].shape == (8, *GRID, WIDTH) and batch["features"].dtype.name == "bfloat16"
    with pytest.raises(StopIteration):
        next(feed)


def test_restored_at_every_step_the_rest_is_the_same(data: Dataset) -> None:
    rows, _ = split_rows(data.count("train"), 0.1)
    whole = Feed(examples(data), rows, CONFIG, 7, ALL)
    expected, positions = [], [whole.position]
    for _ in range(7):
        expected.append(next(whole))
        positions.append(whole.position)
    for at in range(7):
        rest = Feed(examples(data), rows, CONFIG, 7, ALL, positions[at]["next_index"])
        for batch in expected[at:]:
            got = next(rest)
            assert all((got[name] == batch[name]).all() for name in batch)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_hosts_read_their_own_rows_of_the_same_batches(data: Dataset, count: int) -> None:
    rows, held_out = split_rows(data.count("train"), 0.2)
    parts = np.split(ALL, count)
    feeds = [Feed(examples(data), rows, CONFIG, 4, part, 1) for part in parts]
    whole = Feed(examples(data), rows, CONFIG, 4, ALL, 1)
    seen: list[set[int]] = [set() for _ in parts]
    for _ in range(3):
        batches, expected = [next(feed) for feed in feeds], next(whole)
        for name in expected:
            np.testing.assert_array_equal(np.concatenate([batch[name] for batch in batches]), expected[name])
        for own, batch in zip(seen, batches, strict=True):
            own |= set(batch["row"].tolist())
    assert sum(map(len, seen)) == len(set.union(*seen)), "no row is read by two hosts"
    assert [feed.position for feed in feeds] == [whole.position] * count
    held = [list(held_out_batches(examples(data), held_out, 8, part)) for part in parts]
    (padded,) = held_out_batches(examples(data), held_out, 8, ALL)
    np.testing.assert_array_equal(np.concatenate([b["shares"] for (b,) in held]), padded["shares"])


def test_virtual_shards_are_not_divided_over_hosts() -> None:
    for part in np.split(ALL, 4):
        check_whole_shards(part, CONFIG)
    with pytest.raises(UserError, match=r"virtual_shards=2 cannot be divided over the hosts, which hold 2 of .*=8 pl"):
        check_whole_shards(np.arange(2), dataclasses.replace(CONFIG, virtual_shards=2))


def test_held_out_batches_are_padded_with_rows_that_count_for_nothing(data: Dataset) -> None:
    rows = np.array([3, 5, 9])
    batches = list(held_out_batches(examples(data), rows, 2, np.arange(2)))
    assert [batch["shares"].any(axis=(1, 2, 3)).tolist() for batch in batches] == [[True, True], [True, False]]
    np.testing.assert_array_equal(batches[1]["features"][0], examples(data)[9]["features"])


def test_class_mass_counts_labelled_patches_of_the_given_rows_only(data: Dataset) -> None:
    rows = np.array([0, 7])
    expected = np.zeros(CLASSES)
    for row in rows:
        label = LabelRow.decode(data.label_reader("default", "train")[int(row)])
        for c, share in zip(label.target_classes.ravel(), label.target_shares.ravel(), strict=True):
            expected[c] += share / 255
    np.testing.assert_allclose(class_mass(free_labels(data, "default", "train"), rows, CLASSES), expected)


def test_the_oracle_reads_whole_patches_from_truth(data: Dataset) -> None:
    truth = oracle_truth(data, "train", [str(i) for i in range(CLASSES)], {})
    photo_id, classes, shares = truth(4)
    label = LabelRow.decode(data.label_reader("default", "train")[4])
    h, w = FeatureRow.decode(data.reader("features", "train")[4]).grid_hw
    assert photo_id == label.photo_id
    np.testing.assert_array_equal(classes[:h, :w, 0], label.target_classes[:h, :w, 0])
    assert (shares[:h, :w, 0] >= 254).all() and not shares[h:].any() and not shares[:, w:].any()
    few = oracle_truth(data, "train", ["0"], {})(4)
    assert few[2].sum() < shares.sum(), "a value that is no class is not annotated"


def test_families_of_different_photos_are_refused(data: Dataset) -> None:
    labels = free_labels(data, "default", "train")
    mixed = Examples(data, "train", lambda row: labels(row + 1))
    with pytest.raises(UserError, match=r"row 3 of split 'train' is another photo in each family \(00003, 00004\)"):
        mixed[3]


def test_features_of_another_shape_are_refused(data: Dataset) -> None:
    other = Dataset(data.path, {**data.info, "feature_width": WIDTH + 1})
    message = rf"row 2 of split 'train' has features \[6, 5, {WIDTH}\].*dataset\.json says \[6, 5, {WIDTH + 1}\]"
    with pytest.raises(UserError, match=message):
        examples(other)[2]


def test_a_damaged_record_reaches_the_trainer_as_the_error_it_is(tmp_path: Path) -> None:
    path = write_data(tmp_path / "data", photos=6)
    shard = path / "features/train-00000-of-00001.tfrecord"
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 1
    shard.write_bytes(raw)
    feed = Feed(examples(Dataset.open(path)), np.arange(6), CONFIG, 20, ALL)
    with pytest.raises(UserError, match=r"features/train-00000-of-00001\.tfrecord: record \d is damaged"):
        for _ in range(20):
            next(feed)
