"""Samplers: frequencies, and priorities that land on the right rows however late they come back."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small_replay import anchors_of, extend, make_store
from worldstream.replay.samplers import PrioritizedConfig, PrioritizedSampler, SumTree, UniformSampler
from worldstream.replay.segments import AnchorRule
from worldstream.replay.store import ReplayStore

START = AnchorRule.first(1)


def prioritized(store: ReplayStore, rule: AnchorRule = START, seed: int = 0, **options: float) -> PrioritizedSampler:
    return PrioritizedSampler(store, np.random.default_rng(seed), rule, PrioritizedConfig(**options))


def assert_frequencies(draws: np.ndarray, anchors: np.ndarray, probabilities: np.ndarray) -> None:
    """Chi-square over anchors (n,), more than five standard deviations allowed."""
    counts = (draws[:, None] == anchors).sum(0)
    expected = len(draws) * probabilities
    assert counts.sum() == len(draws)
    degrees = len(anchors) - 1
    assert ((counts - expected) ** 2 / expected).sum() < degrees + 5 * np.sqrt(2 * degrees)


def test_uniform_frequencies() -> None:
    store = make_store(3)
    extend(store, 25)
    anchors = anchors_of(store, START)
    sampler = UniformSampler(store, np.random.default_rng(0), START)
    draws = np.concatenate([sampler.sample(10) for _ in range(2000)])
    # Without replacement inside a batch the counts vary less than independent ones, so the test is on the safe side.
    assert_frequencies(draws, anchors, np.full(len(anchors), 1 / len(anchors)))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_prioritized_frequencies_follow_the_softmax(temperature: float) -> None:
    store = make_store(2)
    extend(store, 12)
    anchors = anchors_of(store, START)
    priorities = np.random.default_rng(1).normal(5, 1, len(anchors))
    sampler = prioritized(store, uniform_fraction=0.0, temperature=temperature)
    sampler.update(anchors, priorities)
    draws = np.concatenate([sampler.sample(1) for _ in range(6_000)])
    weights = np.exp(priorities / temperature)
    assert_frequencies(draws, anchors, weights / weights.sum())


@pytest.mark.parametrize(("temperature", "every"), [(1.0, 30), (0.1, 30), (0.1, 90), (0.1, 300)])
def test_importance_weights_estimate_the_uniform_mean(temperature: float, every: int) -> None:
    """Defect 15: what is drawn often because it surprises must not be believed to be frequent, few and far as it is."""
    store = make_store(2)
    extend(store, 1000)
    anchors = anchors_of(store, START)
    rare = np.arange(len(anchors)) % every == 3
    sampler = prioritized(store, uniform_fraction=0.5, temperature=temperature)
    losses = np.random.default_rng(1).uniform(2, 3, len(anchors))
    sampler.update(anchors, np.where(rare, losses, 1.2))
    batches = [sampler.sample_weighted(8) for _ in range(6000)]
    surprising = np.isin([drawn for drawn, _ in batches], anchors[rare])
    weights = np.array([weights for _, weights in batches])
    assert surprising.mean() > 2 * rare.mean()
    assert (weights * surprising).sum() / weights.sum() == pytest.approx(rare.mean(), rel=0.15)
    assert (weights <= 2 + 1e-9).all()  # 1 / the uniform share at most


def test_uniform_draws_weigh_alike() -> None:
    store = make_store()
    extend(store, 20)
    for sampler in (UniformSampler(store, np.random.default_rng(0), START), prioritized(store, uniform_fraction=1.0)):
        anchors, weights = sampler.sample_weighted(4)
        assert anchors.shape == (4,) and (weights == 1).all()


def test_starts_are_drawn_in_proportion_to_the_mistake() -> None:
    """Defect 19: of starts of which 2 % were mistaken eight times as much, these got 3 % of the draws."""
    store = make_store(2)
    extend(store, 400)
    anchors = anchors_of(store, START)
    mistaken = np.where(np.arange(len(anchors)) % 50 == 7, 0.8, 0.1)  # mean absolute advantages
    sampler = prioritized(store, uniform_fraction=0.0)
    sampler.update(anchors, np.log(mistaken))  # as ``actor_critic_losses`` reports them
    drawn = np.concatenate([sampler.sample(8) for _ in range(1500)])
    share = np.isin(drawn, anchors[mistaken > 0.5]).mean()
    assert share == pytest.approx(mistaken[mistaken > 0.5].sum() / mistaken.sum(), rel=0.15)
    assert share > 0.1


def test_uniform_share_is_uniform_over_the_remaining() -> None:
    """One row is always drawn by priority; the others must be equally frequent."""
    store = make_store()
    extend(store, 15)
    anchors = anchors_of(store, START)
    sampler = prioritized(store, uniform_fraction=0.75)
    sampler.update(anchors, np.where(anchors == 4, 50.0, 0.0))
    batches = np.array([sampler.sample(4) for _ in range(2500)])
    assert (batches == 4).any(1).all()
    others = anchors[anchors != 4]
    assert_frequencies(batches[batches != 4], others, np.full(len(others), 1 / len(others)))
    assert abs((batches[:, 0] == 4).mean() - 0.25) < 0.03  # shuffled


@pytest.mark.parametrize(("batch_size", "expected"), [(32, 10), (16, 5), (8, 3), (10, 3), (1, 1), (20, 6), (0, 0)])
def test_share_drawn_by_priority(batch_size: int, expected: int) -> None:
    assert prioritized(make_store()).num_prioritized(batch_size) == expected


def test_unseen_rows_are_swept_first() -> None:
    store = make_store()
    extend(store, 60)
    sampler = prioritized(store, uniform_fraction=0.0)
    seen: set[int] = set()
    for _ in range(6):
        anchors = sampler.sample(10)
        seen |= set(anchors.tolist())
        sampler.update(anchors, np.full(10, -20.0))
    assert seen == set(anchors_of(store, START).tolist())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_environments=st.integers(1, 3),
    rows=st.integers(8, 40),
    delay=st.integers(0, 6),
    end=st.booleans(),
)
def test_late_priorities_land_on_their_rows(seed: int, num_environments: int, rows: int, delay: int, end: bool) -> None:
    """Batches are drawn ahead, rows are added and evicted meanwhile; priorities must equal a dictionary by id."""
    rng = np.random.default_rng(seed)
    store = make_store(num_environments, rows * num_environments)
    rule = AnchorRule.last(2) if end else AnchorRule.first(2)
    sampler = prioritized(store, rule, seed)
    extend(store, 8)
    expected: dict[int, float] = {}
    waiting: list[np.ndarray] = []
    for _ in range(25):
        extend(store, int(rng.integers(0, 6)), episode=int(rng.integers(1, 8)))
        if sampler.num_anchors:
            waiting.append(sampler.sample(6))
        if len(waiting) > delay:
            anchors = waiting.pop(0)
            losses = rng.normal(5, 3, len(anchors))
            sampler.update(anchors, losses)
            expected.update(zip(anchors.tolist(), losses.tolist(), strict=True))
        anchors = anchors_of(store, rule)
        wanted = [expected.get(i, 10.0) for i in anchors.tolist()]
        np.testing.assert_allclose(sampler.priorities(anchors), wanted)
        assert sampler.num_anchors == len(anchors)
        # The tree behind: the right weight at each eligible row, nothing elsewhere.
        leaves = np.zeros(sampler._weights.capacity)
        leaves[store.ring.rows_of(anchors)] = np.exp(np.array(wanted) - sampler._offset)
        np.testing.assert_allclose(sampler._weights.get(np.arange(len(leaves))), leaves)


def test_evicted_and_unknown_ids_are_ignored() -> None:
    store = make_store(1, 16)
    extend(store, 10)
    sampler = prioritized(store)
    old = sampler.sample(4)
    extend(store, 40)
    before = sampler.priorities(anchors_of(store, START))
    sampler.update(old, np.full(4, 99.0))
    sampler.update(np.array([-3, 10**7]), np.full(2, 99.0))
    np.testing.assert_array_equal(sampler.priorities(anchors_of(store, START)), before)
    assert np.isnan(sampler.priorities(old)).all()


def test_priorities_of_any_range_are_followed() -> None:
    store = make_store()
    extend(store, 40)
    anchors = anchors_of(store, START)
    sampler = prioritized(store, uniform_fraction=0.0)
    for base in (0.0, 300.0, -5000.0, 1e6, 0.0):
        sampler.update(anchors, np.full(len(anchors), base))
        sampler.update(anchors[:3], np.full(3, base + 30.0))
        assert set(sampler.sample(3).tolist()) == set(anchors[:3].tolist())
        assert len(set(sampler.sample(len(anchors)).tolist())) == len(anchors)
    sampler.update(anchors[:1], np.array([1e8]))  # one outlier cuts all the others off, yet they can be drawn
    assert anchors[0] in sampler.sample(1)
    assert len(set(sampler.sample(len(anchors)).tolist())) == len(anchors)


def test_evicting_the_largest_priority_restores_the_others() -> None:
    store = make_store(1, 12)
    extend(store, 10)  # rows 0 .. 10
    sampler = prioritized(store, uniform_fraction=0.0, initial_priority=0.0)
    sampler.update(np.array([0]), np.array([5000.0]))
    sampler.update(np.array([7, 8]), np.full(2, 30.0))
    store.start({"x": np.zeros(1, np.int64)})
    assert 0 in sampler.sample(1)
    store.start({"x": np.zeros(1, np.int64)})  # evicts row 0 and makes no other row eligible
    assert set(sampler.sample(2).tolist()) == {7, 8}


def test_resumed_weights_are_equal_to_the_last_bit() -> None:
    store = make_store()
    extend(store, 40)
    anchors = anchors_of(store, START)
    sampler, twin = prioritized(store), prioritized(store)
    sampler.update(anchors[:1], np.array([100.0]))  # moves the offset
    sampler.update(anchors, np.random.default_rng(0).normal(50, 1, len(anchors)))
    twin.load_state_dict(sampler.state_dict())
    assert twin._weights.total == sampler._weights.total
    np.testing.assert_array_equal(twin._weights.get(anchors), sampler._weights.get(anchors))


def test_rows_beyond_the_first_allocation() -> None:
    store = make_store(2, 20_000)
    sampler = prioritized(store, uniform_fraction=0.5)
    for _ in range(4):
        extend(store, 700)
        anchors = sampler.sample(64)
        assert START.accepts(store, anchors).all()
        sampler.update(anchors, np.zeros(64))
    assert sampler.num_anchors == len(anchors_of(store, START)) == 2 * 2800


# --- A million rows ---------------------------------------------------------------------------------------------------


class Counted(np.ndarray):
    """An array that counts the elements that are written into it."""

    writes = 0

    def __setitem__(self, place: Any, values: Any) -> None:
        Counted.writes += np.size(values)
        super().__setitem__(place, values)


def test_a_million_rows_are_drawn_by_priority_and_updated_in_few_nodes() -> None:
    rows, chosen, repetitions = 1_000_000, 8, 1500
    store = make_store(1000, rows)
    extend(store, rows // 1000 - 1, episode=rows)
    sampler = prioritized(store, AnchorRule.first(0), uniform_fraction=0.0)
    assert sampler.num_anchors == rows
    serials = store.ring.stored_serials()
    rng = np.random.default_rng(0)
    sampler.update(serials, rng.normal(0, 1, rows))
    anchors = np.sort(rng.choice(serials, chosen, replace=False))
    priorities = 30 + np.linspace(0, 1, chosen)
    Counted.writes, sampler._weights._nodes = 0, sampler._weights._nodes.view(Counted)
    sampler.update(anchors, priorities)
    depth = 20  # 2 ** 20 is the first power of two above a million
    assert Counted.writes == chosen * (1 + depth)
    draws = np.concatenate([sampler.sample(1) for _ in range(repetitions)])
    weights = np.exp(priorities - 30)
    assert_frequencies(draws, anchors, weights / weights.sum())
    Counted.writes = 0
    assert set(sampler.sample(chosen).tolist()) == set(anchors.tolist())  # without replacement
    assert Counted.writes < 40 * chosen * (1 + depth)  # weights are taken out and put back, in a few rounds
    sampler.update(anchors, np.full(chosen, -30.0))
    assert not np.isin(sampler.sample(100), anchors).any()


# --- The tree of sums -------------------------------------------------------------------------------------------------

weights_lists = st.lists(st.integers(0, 5), min_size=1, max_size=40).filter(any)


@settings(deadline=None)
@given(weights=weights_lists, seed=st.integers(0, 1000))
def test_find_equals_the_cumulative_sum(weights: list[int], seed: int) -> None:
    tree = SumTree(len(weights))
    order = np.random.default_rng(seed).permutation(len(weights))
    values = np.array(weights, np.float64)
    tree.set(order, values[order])
    assert tree.total == sum(weights)
    np.testing.assert_array_equal(tree.get(np.arange(len(weights))), weights)
    prefixes = np.arange(sum(weights) * 4) / 4
    np.testing.assert_array_equal(tree.find(prefixes), np.searchsorted(np.cumsum(weights), prefixes, side="right"))
    assert values[tree.find(np.array([tree.total]))] > 0  # an upper end that rounding reaches


@settings(deadline=None)
@given(weights=weights_lists)
def test_single_writes_give_the_same_tree_as_one(weights: list[int]) -> None:
    tree, whole = SumTree(len(weights)), SumTree(len(weights))
    for index, weight in enumerate(weights):
        tree.set(np.array([index]), np.array([0.1 * weight]))
    whole.set(np.arange(len(weights)), 0.1 * np.array(weights))
    assert tree.total == whole.total  # to the last bit


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
