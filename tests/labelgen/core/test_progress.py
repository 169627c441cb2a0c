"""What a progress line says, by a clock of our own."""

import io
import re

import pytest

from labelgen.core.progress import Progress, StageTimes, duration


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_log_gets_a_line_each_ten_seconds() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress(100, "photos", "encode", stream, clock)
    for _ in range(25):
        clock.now += 1
        progress.add(2)
    progress.close()
    assert stream.getvalue().splitlines() == [
        "encode 20/100 photos, 2 photos/s, 0:40 left",
        "encode 40/100 photos, 2 photos/s, 0:30 left",
    ]


def test_terminal_line_moves_and_notes_stand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    clock, stream = Clock(), Terminal()
    progress = Progress(10, "photos", "label", stream, clock)
    clock.now += 1
    progress.add(5)
    progress.note("skipped x.jpg")
    progress.close()
    assert stream.getvalue().count("\n") == 2
    assert "\r[##########..........] label 5/10 photos, 5 photos/s, 0:01 left\033[K" in stream.getvalue()
    assert "skipped x.jpg\n" in stream.getvalue()


def test_what_came_before_the_first_unit_is_no_part_of_the_rate() -> None:
    """A step that was compiled for 100 s, then ten a second."""
    clock, stream = Clock(), io.StringIO()
    progress = Progress(101, "steps", "train", stream, clock)
    clock.now += 100
    progress.add()
    assert progress.line() == "train 1/101 steps, 0.01 steps/s, 2:46:40 left"  # all that is known yet
    clock.now += 1
    progress.add(10)
    assert progress.line() == "train 11/101 steps, 10 steps/s, 0:09 left"


def test_a_bar_is_cut_to_the_terminal_and_a_dumb_one_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    for kind, wanted in (("xterm", "\r[####################] label \033[K\n"), ("dumb", "")):
        monkeypatch.setenv("TERM", kind)
        stream = Terminal()
        progress = Progress(1, "photos", "label", stream, Clock())
        progress.add()
        progress.close()
        assert stream.getvalue() == wanted


@pytest.mark.parametrize("no_colour", ["", "1"])
def test_nothing_is_coloured(no_colour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", no_colour)
    stream = Terminal()
    progress = Progress(1, "photos", "label", stream, Clock())
    progress.note("skipped")
    progress.close()
    assert set(re.findall(r"\033\[[^A-Za-z]*[A-Za-z]", stream.getvalue())) == {"\033[K"}  # clears the line


def test_durations() -> None:
    assert [duration(s) for s in (7, 754, 3723)] == ["0:07", "12:34", "1:02:03"]


def test_stage_times_add_up() -> None:
    clock = Clock()
    times = StageTimes(clock)
    for seconds in (1.0, 0.5):
        with times("encode"):
            clock.now += seconds
    with times("write"):
        clock.now += 0.25
    assert times.summary() == "encode 1.5 s, write 0.2 s"
    parts = StageTimes(clock)
    with parts("clip"):
        clock.now += 1
    times.inside("encode", parts)
    assert times.summary() == "encode 1.5 s (clip 1.0 s), write 0.2 s"
