"""Cadences follow the clock, however its steps arrive."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldstream.training.cadence import Doubling, Every, Ratio

CLOCKS = st.lists(st.integers(0, 60), min_size=1, max_size=40).map(
    lambda gaps: [sum(gaps[: i + 1]) for i in range(len(gaps))]
)
RATIOS = st.one_of(st.sampled_from([0.0, 0.1, 0.2, 0.25, 1.0, 3.0]), st.floats(0, 4))


@given(clocks=CLOCKS, per_step=RATIOS, start=st.integers(0, 500))
def test_ratio_totals_are_exact_at_any_time(clocks: list[int], per_step: float, start: int) -> None:
    ratio, total = Ratio(per_step, start), 0
    for clock in clocks:
        due = list(ratio.due(clock))
        assert all(start <= turn < clock for turn in due)
        total += len(due)
        assert total == max(0, math.floor((clock - start) * per_step))


@given(clocks=CLOCKS, per_step=RATIOS, start=st.integers(0, 500))
def test_ratio_does_not_depend_on_how_steps_arrive(clocks: list[int], per_step: float, start: int) -> None:
    at_once, one_by_one = Ratio(per_step, start), Ratio(per_step, start)
    steadily = [turn for clock in range(clocks[-1] + 1) for turn in one_by_one.due(clock)]
    assert list(at_once.due(clocks[-1])) == steadily


def test_ratio_below_one_is_spread_evenly() -> None:
    ratio = Ratio(0.25, 10)
    assert [clock for clock in range(31) for _ in ratio.due(clock)] == [14, 18, 22, 26, 30]
    assert list(Ratio(0.25, 10).due(30)) == [10, 14, 18, 22, 26]


@given(clocks=CLOCKS, period=st.integers(1, 70))
def test_every_is_due_when_a_multiple_was_reached(clocks: list[int], period: int) -> None:
    every, before = Every(period), 0
    for clock in clocks:
        crossed = any(clock >= multiple > before for multiple in range(period, clock + 1, period))
        assert every.due(clock) == crossed
        before = clock
    assert not every.due(clocks[-1])


@pytest.mark.parametrize("period", [0, -1])
def test_every_without_a_period_is_never_due(period: int) -> None:
    every = Every(period)
    assert not any(every.due(clock) for clock in range(100))


def test_doubling() -> None:
    doubling = Doubling(50, 900)
    assert [clock for clock in range(2000) if doubling.due(clock)] == [50, 100, 200, 400, 800]
    doubling = Doubling(50, 800)
    assert [clock for clock in range(2000) if doubling.due(clock)] == [50, 100, 200, 400, 800]


@given(clocks=CLOCKS, first=st.integers(0, 100))
def test_doubling_is_due_once_for_the_marks_passed(clocks: list[int], first: int) -> None:
    doubling, before = Doubling(first, 10_000), 0
    marks = [max(first, 1) * 2**i for i in range(20)]
    for clock in clocks:
        assert doubling.due(clock) == any(before < mark <= clock for mark in marks)
        before = clock


def test_doubling_is_due_at_first_however_late_that_is() -> None:
    """Defect 18: data-fitted tokenizers were never fitted in runs shorter than twice their start."""
    doubling = Doubling(50, 0)
    assert [clock for clock in range(500) if doubling.due(clock)] == [50]


@given(
    per_step=st.floats(0, 3),
    start=st.integers(0, 50),
    every=st.integers(1, 40),
    stop=st.integers(1, 200),
    stride=st.integers(1, 5),
)
def test_ratio_in_bursts_does_the_same_number_until_it_stops(per_step, start, every, stop, stride) -> None:
    steadily, bursts = Ratio(per_step, start), Ratio(per_step, start, every, stop)
    total = expected = 0
    for steps in range(stride, 300, stride):
        due, ahead = len(list(bursts.due(steps))), len(list(steadily.due(min(steps, stop))))
        assert not due or steps // every > (steps - stride) // every
        total, expected = total + due, expected + ahead
    assert expected - total <= int(per_step * (every + 1)) + 1
    if stop + every < 295:
        assert total == expected


@given(taken=st.integers(0, 40))
def test_repetitions_that_were_not_taken_are_still_due(taken: int) -> None:
    expected = list(Ratio(0.7, 5, every_steps=30).due(65))
    left, resumed = Ratio(0.7, 5, every_steps=30), Ratio(0.7, 5, every_steps=30)
    begun = list(itertools.islice(left.due(65), taken))
    resumed.load_state_dict(left.state_dict())
    assert begun + list(resumed.due(65)) == expected
