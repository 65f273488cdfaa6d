"""The line for the person who waits, by a clock of our own."""

import pytest

from steps.core import progress


@pytest.fixture
def line(monkeypatch, capsys):
    """What is printed when `done` are done `seconds` after the start."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def printed(made, seconds: float, done: int, **values: float) -> str:
        now[0] = 100.0 + seconds
        made.update(done, **values)
        return capsys.readouterr().out.strip()

    return printed


def test_a_line_says_how_far_how_fast_and_how_long_still(line):
    made = progress.Progress("sft", 3000, "step")
    assert line(made, 10.0, 1000, loss=0.123456) == "sft: step 1,000/3,000  loss 0.1235  100 step/s  0:20 left"
    assert line(made, 20.0, 1001) == "sft: step 1,001/3,000  50 step/s  0:39 left"
    # Begun after those 20 seconds.
    made = progress.Progress("sft", 1290, "step", every=0)
    assert line(made, 20.0, 0) == "sft: step 0/1,290  0 step/s"
    assert line(made, 20.5, 100).endswith("  200 step/s  0:05 left")
    assert line(made, 30.0, 100) == "sft: step 100/1,290  10 step/s  1:59 left"
    assert line(made, 30.0, 5).endswith("  0.5 step/s  42:50 left")
    assert line(made, 63.0, 1290) == "sft: step 1,290/1,290  30 step/s"
    assert line(progress.Progress("read", None, "rows"), 67.0, 8) == "read: rows 8  2 rows/s"


def test_a_line_comes_every_three_seconds_and_at_the_end(line):
    made = progress.Progress("sft", 10, "step")
    assert [bool(line(made, at, done)) for at, done in ((2.9, 1), (3.0, 2), (5.9, 3), (6.0, 4), (6.1, 10))] == [
        False, True, False, True, True,
    ]  # fmt: skip


def test_only_the_first_process_speaks(line, monkeypatch):
    made = progress.Progress("sft", 1, "step")
    monkeypatch.setenv("RANK", "1")
    assert line(made, 9.0, 1) == ""
