"""Who does which shard: none is lost with its worker, none waits for a slow one, none is blamed for little."""

import pytest

from labelgen.core.errors import UserError
from labelgen.stages import cluster
from labelgen.stages.cluster import Board


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_shard_once_in_order() -> None:
    board = Board(3)
    assert [board.give(worker) for worker in (7, 8)] == [0, 1]
    assert board.idle([7, 8, 9]) == [9] and board.at(8) == 1
    assert board.finished(8) == 1 and board.give(8) == 2 and board.left == 2
    assert board.give(9) is None


def test_a_lost_workers_shard_comes_next() -> None:
    board = Board(4)
    for worker in (1, 2):
        board.give(worker)
    board.lost(1)
    board.lost(3)  # had none
    assert [board.give(3), board.give(4), board.left] == [0, 2, 4]


def test_a_straggler_is_given_to_one_idle_worker_more() -> None:
    clock = Clock()
    board = Board(3, clock)
    for worker in (1, 2, 3):
        board.give(worker)
    clock.now = 10.0
    board.finished(1)
    clock.now = 10.0 * cluster.SLOW
    assert board.give(1) is None  # not later than three times the median, yet
    clock.now += 1
    assert (board.give(1), board.give(4), board.give(5)) == (1, 2, None)
    assert board.finished(1) == 1 and board.left == 1
    assert board.finished(2) == 1 and board.left == 1  # the slow one, later: it counts for nothing
    board.lost(3)
    assert board.give(6) is None  # the second worker still has it
    board.lost(4)
    assert board.give(6) == 2


def test_short_shards_are_not_done_twice() -> None:
    clock = Clock()
    board = Board(2, clock)
    board.give(1), board.give(2)
    clock.now = 0.5
    board.finished(1)
    clock.now = cluster.LEAST_S
    assert board.give(1) is None


def test_a_shard_that_kills_its_workers_is_named() -> None:
    board = Board(1)
    for worker in range(cluster.DEATHS - 1):
        assert board.give(worker) == 0
        board.lost(worker)
    board.give(99)
    with pytest.raises(UserError, match=f"{cluster.DEATHS} workers died, one after the other, at one shard"):
        board.lost(99)
