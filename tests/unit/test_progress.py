"""What a run says about how far it is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from worldstream.runs import progress
from worldstream.runs.progress import ProgressDisplay


def test_the_first_line_says_no_time_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 20.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    printed = io.StringIO()
    display = ProgressDisplay(1500, Console(file=printed, width=200))
    display.update({"steps": 250, "episode/return": 21.0})
    display.update({"steps": 300})
    first, second = printed.getvalue().splitlines()
    assert first == "250/1500 steps  return 21"
    assert second == "300/1500 steps  2.5 steps/s  480 s left  return 21"
