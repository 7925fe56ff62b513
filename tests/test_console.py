"""Progress where the output is no terminal: lines at regular times, also while nothing is updated."""

from __future__ import annotations

import re
import time

import pytest

from autospike import console
from autospike.console import ProgressLine, printed_lines, progress, several_bars, working

Capsys = pytest.CaptureFixture[str]


def test_lines_are_printed_at_regular_times_and_at_the_end(capsys: Capsys) -> None:
    """Nothing is updated between the lines, as in a long step."""
    printed: list[str] = []
    with printed_lines(ProgressLine(title="train supernet", total=8), every_seconds=0.01) as line:
        line.update(2, "loss 2.30")
        deadline = time.monotonic() + 60
        while len(printed) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
            printed += capsys.readouterr().out.splitlines()
        line.update(8, "loss 1.20")
    printed += capsys.readouterr().out.splitlines()
    assert len(printed) > 3
    assert all(line.startswith("train supernet: 2/8, 0:0") and line.endswith(", loss 2.30") for line in printed[1:-2])
    assert printed[-1].startswith("train supernet: 8/8, 0:0")
    assert printed[-1].endswith(", loss 1.20")


def test_a_bar_of_a_short_work_is_one_line(capsys: Capsys) -> None:
    assert console.LINE_SECONDS <= 30
    with progress("measure", total=3) as bar:
        for i in range(4):
            bar(i, "")
    assert re.fullmatch(r"measure: 3/3, 0:00:\d\d\n", capsys.readouterr().out)


def test_bars_of_two_works_are_a_line_each_when_they_end(capsys: Capsys) -> None:
    with several_bars() as bar:
        with bar("first", total=2) as first:
            with bar("second", total=3) as second:
                first(1, "")
                second(3, "b")
            assert re.fullmatch(r"second: 3/3, 0:00:\d\d, b\n", capsys.readouterr().out)
            first(2, "a")
        assert re.fullmatch(r"first: 2/2, 0:00:\d\d, a\n", capsys.readouterr().out)
    assert capsys.readouterr().out == ""


def test_a_bar_that_is_left_by_an_error_shows_how_far_it_came(capsys: Capsys) -> None:
    with pytest.raises(KeyboardInterrupt), progress("search", total=9) as bar:
        bar(4, "gen 1")
        raise KeyboardInterrupt
    assert re.fullmatch(r"search: 4/9, 0:00:\d\d, gen 1\n", capsys.readouterr().out)


def test_remaining_time_is_estimated_from_the_work_of_this_command() -> None:
    """40 of 100 were done before. 20 more took 90 seconds, so the last 40 take 180 seconds."""
    line = ProgressLine(title="train", total=100, started=time.monotonic() - 90)
    line.update(40, "")
    line.update(60, "loss 1.0")
    assert line.text() == "train: 60/100, 0:01:30, 0:03:00 left, loss 1.0"


def test_work_of_unknown_length(capsys: Capsys) -> None:
    with working("read [all] files"):
        pass
    assert re.fullmatch(r"read \[all\] files, 0:00:\d\d\n", capsys.readouterr().out)
