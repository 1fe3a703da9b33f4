"""symlog, lambda returns, masked means."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldstream.nn.numerics import lambda_returns, masked_mean, symexp, symlog


@given(x=st.floats(-1e30, 1e30))
def test_symexp_inverts_symlog(x: float) -> None:
    value = torch.tensor(x, dtype=torch.float64)
    torch.testing.assert_close(symexp(symlog(value)), value, rtol=1e-10, atol=1e-300)
    assert symlog(-value) == -symlog(value)


@given(x=st.floats(-50, 50))
def test_symlog_inverts_symexp(x: float) -> None:
    value = torch.tensor(x, dtype=torch.float64)
    torch.testing.assert_close(symlog(symexp(value)), value)


def test_symlog_values() -> None:
    values = symlog(torch.tensor([0.0, math.e - 1, 1 - math.e, 1e-6]))
    torch.testing.assert_close(values, torch.tensor([0.0, 1.0, -1.0, 1e-6]))


def returns_of(rewards: list[float], ended: list[bool], values: list[float], discount: float, lambda_: float):
    """One trajectory."""
    arguments = (torch.tensor([x]) for x in (rewards, ended, values))
    return lambda_returns(*arguments, discount, lambda_)[0].tolist()


def test_lambda_returns_golden_example() -> None:
    """Numbers of the published code, whose last entry (40) is the bootstrap, which here is the last value."""
    returns = returns_of([1.0, 2.0, 3.0], [False, False, True], [10.0, 20.0, 30.0, 40.0], 0.99, 0.95)
    assert returns == pytest.approx([7.9213, 6.3065, 3.0], abs=1e-4)
    going_on = returns_of([1.0, 2.0, 3.0], [False] * 3, [10.0, 20.0, 30.0, 40.0], 0.99, 0.95)
    assert going_on[-1] == pytest.approx(3 + 0.99 * 40)


def test_limits_of_lambda() -> None:
    rewards, values = [1.0, 2.0, 3.0], [10.0, 20.0, 30.0, 40.0]
    ended = [False] * 3
    assert returns_of(rewards, ended, values, 0.5, 0.0) == pytest.approx([11, 17, 23])  # one step, then the value
    whole = 1 + 0.5 * 2 + 0.25 * 3 + 0.125 * 40
    assert returns_of(rewards, ended, values, 0.5, 1.0)[0] == pytest.approx(whole)  # rewards to the horizon


NUMBERS = st.floats(-100, 100, width=32)


@given(data=st.data(), horizon=st.integers(1, 8), discount=st.floats(0, 1), lambda_=st.floats(0, 1))
def test_lambda_returns_equal_their_definition(data, horizon: int, discount: float, lambda_: float) -> None:
    rewards = data.draw(st.lists(NUMBERS, min_size=horizon, max_size=horizon))
    ended = data.draw(st.lists(st.booleans(), min_size=horizon, max_size=horizon))
    values = data.draw(st.lists(NUMBERS, min_size=horizon + 1, max_size=horizon + 1))

    def expected(t: int) -> float:
        if t == horizon:
            return values[-1]
        if ended[t]:
            return rewards[t]
        return rewards[t] + discount * ((1 - lambda_) * values[t + 1] + lambda_ * expected(t + 1))

    returns = returns_of(rewards, ended, values, discount, lambda_)
    assert returns == pytest.approx([expected(t) for t in range(horizon)], rel=1e-4, abs=1e-2)


def test_nothing_after_an_end_enters_earlier_returns() -> None:
    ended = [False, True, False]
    first = returns_of([1.0, 2.0, 3.0], ended, [1.0, 2.0, 3.0, 4.0], 0.9, 0.8)
    second = returns_of([1.0, 2.0, 99.0], ended, [7.0, 2.0, 88.0, 77.0], 0.9, 0.8)
    assert second[:2] == first[:2]


def test_lambda_returns_treat_rows_separately() -> None:
    rewards, values = torch.randn(4, 5), torch.randn(4, 6)
    ended = torch.rand(4, 5) < 0.3
    together = lambda_returns(rewards, ended, values, 0.9, 0.7)
    assert together.shape == (4, 5)
    for i in range(4):
        alone = lambda_returns(rewards[i : i + 1], ended[i : i + 1], values[i : i + 1], 0.9, 0.7)
        torch.testing.assert_close(together[i : i + 1], alone)


def test_masked_mean() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, torch.nan]])
    mask = torch.tensor([[True, False], [True, False]])
    assert masked_mean(x, mask) == 2.0
    assert masked_mean(x, torch.zeros_like(mask)) == 0.0


def test_masked_mean_sends_no_gradient_to_what_is_masked() -> None:
    x = torch.tensor([1.0, torch.inf, 3.0], requires_grad=True)
    masked_mean(x, torch.tensor([True, False, True])).backward()
    assert x.grad is not None and x.grad.tolist() == [0.5, 0.0, 0.5]
