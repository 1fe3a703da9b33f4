"""Sum tree: finds what a cumulative sum finds, and draws with the law of sequential sampling."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldstream.replay.sum_tree import SumTree

weights_lists = st.lists(st.integers(0, 5), min_size=1, max_size=40).filter(any)


@settings(deadline=None)
@given(weights=weights_lists, seed=st.integers(0, 1000))
def test_find_equals_the_cumulative_sum(weights: list[int], seed: int) -> None:
    tree = SumTree(1)
    tree.grow(len(weights))
    order = np.random.default_rng(seed).permutation(len(weights))
    values = np.array(weights, np.float64)
    tree.set(order, values[order])
    assert tree.total == sum(weights)
    np.testing.assert_array_equal(tree.get(np.arange(len(weights))), weights)
    prefixes = np.arange(sum(weights) * 4) / 4
    np.testing.assert_array_equal(tree.find(prefixes), np.searchsorted(np.cumsum(weights), prefixes, side="right"))
    assert values[tree.find(np.array([tree.total]))] > 0  # an upper end that rounding reaches


@settings(deadline=None)
@given(weights=weights_lists, seed=st.integers(0, 1000))
def test_single_writes_and_growth_keep_the_sums(weights: list[int], seed: int) -> None:
    tree = SumTree(2)
    for index, weight in enumerate(weights):
        tree.grow(index + 1)
        tree.set(np.array([index]), np.array([0.1 * weight]))
    whole = SumTree(len(weights))
    whole.set(np.arange(len(weights)), 0.1 * np.array(weights))
    assert tree.total == whole.total  # to the last bit: equal leaves, equal trees


@settings(deadline=None)
@given(weights=weights_lists, seed=st.integers(0, 1000))
def test_distinct_draws_are_distinct_and_leave_the_tree_as_it_was(weights: list[int], seed: int) -> None:
    tree = SumTree(len(weights))
    tree.set(np.arange(len(weights)), np.exp(5.0 * np.array(weights)) * (np.array(weights) > 0))
    before = tree.get(np.arange(len(weights))), tree.total
    positive = sum(weight > 0 for weight in weights)
    rng = np.random.default_rng(seed)
    for count in range(positive + 1):
        drawn = tree.draw_distinct(count, rng)
        assert len(set(drawn.tolist())) == count
        assert all(weights[index] > 0 for index in drawn)
        np.testing.assert_array_equal(tree.get(np.arange(len(weights))), before[0])
        assert tree.total == before[1]
    with pytest.raises(LookupError):
        tree.draw_distinct(positive + 1, rng)
    assert tree.total == before[1]


def test_distinct_draws_follow_sequential_sampling() -> None:
    weights = np.array([8.0, 4.0, 1.0, 1.0])
    tree = SumTree(4)
    tree.set(np.arange(4), weights)
    rng = np.random.default_rng(0)
    num_draws = 10_000
    counts = dict.fromkeys(itertools.permutations(range(4), 2), 0)
    for _ in range(num_draws):
        first, second = tree.draw_distinct(2, rng).tolist()
        counts[first, second] += 1
    for (first, second), count in counts.items():
        probability = weights[first] / 14 * weights[second] / (14 - weights[first])
        deviation = (count - num_draws * probability) / np.sqrt(num_draws * probability * (1 - probability))
        assert abs(deviation) < 4


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_bad_weights_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        SumTree(3).set(np.array([0]), np.array([weight]))
