"""Work of several items at a time: order, bounds, errors, and how busy."""

import threading
import time

import pytest

from labelgen.core.threads import SPANS, Busy, Later, in_order


def test_results_come_in_order_though_later_items_are_done_first():
    waits = [0.05, 0.0, 0.02, 0.0]
    done = []

    def work(i):
        time.sleep(waits[i])
        done.append(i)
        return i * 10

    assert list(in_order(range(4), work, threads=4, depth=4)) == [0, 10, 20, 30]
    assert done[0] != 0


def test_never_more_than_depth_items_are_drawn_ahead():
    drawn = []

    def items():
        for i in range(20):
            drawn.append(i)
            yield i

    for taken, _ in enumerate(in_order(items(), lambda i: i, threads=2, depth=3), 1):
        assert len(drawn) <= taken + 2
    assert len(drawn) == 20


def test_an_error_comes_in_its_items_turn_and_ends_the_threads():
    def work(i):
        if i == 2:
            raise ValueError("item 2")
        return i

    results, before = in_order(range(9), work, threads=2, depth=4), threading.active_count()
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="^item 2$"):
        next(results)
    assert threading.active_count() == before


def test_after_a_job_that_failed_no_other_runs():
    done = []

    def job(i):
        time.sleep(0.01)
        if i == 1:
            raise OSError("full")
        done.append(i)

    with pytest.raises(OSError, match="^full$"), Later(8) as later:
        for i in range(5):
            later.do(lambda i=i: job(i))
    assert done == [0]


def test_jobs_are_done_when_the_block_ends_and_wait_when_there_are_too_many():
    done, waiting = [], []

    def job(i):
        time.sleep(0.005)
        done.append(i)

    with Later(2) as later:
        for i in range(6):
            later.do(lambda i=i: job(i))
            waiting.append(i + 1 - len(done))
    assert done == list(range(6)) and max(waiting) <= 3


class Tick:
    """A moment of a clock that the test moves."""

    now = 0.0

    def __init__(self):
        self.at = Tick.now

    def seconds_to(self, later):
        return later.at - self.at


def test_busy_counts_overlapping_blocks_once_and_forgets_none():
    busy = Busy(Tick)
    Tick.now = 5.0
    assert busy.share() is None
    with busy():
        Tick.now = 6.0
        with busy():
            Tick.now = 7.0
    Tick.now = 9.0
    assert busy.share() == pytest.approx(0.5)  # 2 of 4 seconds
    for _ in range(SPANS):
        with busy():
            Tick.now += 0.001
        Tick.now += 0.001
    assert busy.share() == pytest.approx(3 / 6)
