"""What a progress line says, by a clock of our own."""

import io

from labelgen.progress import Progress, StageTimes, duration


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


def test_terminal_line_moves_and_notes_stand_alone() -> None:
    clock, stream = Clock(), Terminal()
    progress = Progress(10, "photos", "label", stream, clock)
    clock.now += 1
    progress.add(5)
    progress.note("skipped x.jpg")
    progress.close()
    assert stream.getvalue().count("\n") == 2
    assert "\r[##########..........] label 5/10 photos, 5 photos/s, 0:01 left\033[K" in stream.getvalue()
    assert "skipped x.jpg\n" in stream.getvalue()


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
