"""Samplers: frequencies, and priorities that land on the right rows however late they come back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldstream.replay.eligibility import Role
from worldstream.replay.prioritized import PrioritizedSampler
from worldstream.replay.samplers import UniformSampler
from worldstream.replay.store import ReplayStore

START = Role.segment_start(1)


def make_store(num_streams: int = 1, max_steps: int = 1000) -> ReplayStore:
    return ReplayStore({"x": ((), np.int64)}, 1, np.uint8, num_streams, max_steps)


def extend(store: ReplayStore, num_steps: int, episode: int = 10) -> None:
    """Steps in all streams; an episode ends after ``episode`` of them."""
    num_streams = store.num_streams
    observations = {"x": np.arange(num_streams)}
    no = np.zeros(num_streams, np.bool_)
    for step in range(num_steps):
        if step % episode == 0:
            store.start(observations)
        actions = np.zeros((num_streams, 1), np.int64)
        store.append(actions, np.zeros(num_streams), no | (step % episode == episode - 1), no, observations)


def prioritized(store: ReplayStore, role: Role = START, seed: int = 0, **options: float) -> PrioritizedSampler:
    return PrioritizedSampler(store, np.random.default_rng(seed), role, **options)


def eligible_ids(store: ReplayStore, role: Role = START) -> np.ndarray:
    ids = store.ids_of_all()
    return ids[role.accepts(store, ids)]


def assert_frequencies(draws: np.ndarray, ids: np.ndarray, probabilities: np.ndarray) -> None:
    """Chi-square over ids (n,), more than five standard deviations allowed."""
    counts = (draws[:, None] == ids).sum(0)
    expected = len(draws) * probabilities
    assert counts.sum() == len(draws)
    degrees = len(ids) - 1
    assert ((counts - expected) ** 2 / expected).sum() < degrees + 5 * np.sqrt(2 * degrees)


def test_uniform_frequencies() -> None:
    store = make_store(3)
    extend(store, 25)
    ids = eligible_ids(store)
    sampler = UniformSampler(store, np.random.default_rng(0), START)
    draws = np.concatenate([sampler.sample(10) for _ in range(2000)])
    # Without replacement inside a batch the counts vary less than independent ones, so the test is on the safe side.
    assert_frequencies(draws, ids, np.full(len(ids), 1 / len(ids)))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_prioritized_frequencies_follow_the_softmax(temperature: float) -> None:
    store = make_store(2)
    extend(store, 12)
    ids = eligible_ids(store)
    priorities = np.random.default_rng(1).normal(5, 1, len(ids))
    sampler = prioritized(store, uniform_fraction=0.0, temperature=temperature)
    sampler.update(ids, priorities)
    draws = np.concatenate([sampler.sample(1) for _ in range(6_000)])
    weights = np.exp(priorities / temperature)
    assert_frequencies(draws, ids, weights / weights.sum())


def test_uniform_share_is_uniform_over_the_remaining() -> None:
    """One row is always drawn by priority; the others must be equally frequent."""
    store = make_store()
    extend(store, 15)
    ids = eligible_ids(store)
    sampler = prioritized(store, uniform_fraction=0.75)
    sampler.update(ids, np.where(ids == 4, 50.0, 0.0))
    batches = np.array([sampler.sample(4) for _ in range(2500)])
    assert (batches == 4).any(1).all()
    others = ids[ids != 4]
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
        ids = sampler.sample(10)
        seen |= set(ids.tolist())
        sampler.update(ids, np.full(10, -20.0))
    assert seen == set(eligible_ids(store).tolist())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_streams=st.integers(1, 3),
    rows=st.integers(8, 40),
    delay=st.integers(0, 6),
    end=st.booleans(),
)
def test_late_priorities_land_on_their_rows(seed: int, num_streams: int, rows: int, delay: int, end: bool) -> None:
    """Batches are drawn ahead, rows are added and evicted meanwhile; priorities must equal a dictionary by id."""
    rng = np.random.default_rng(seed)
    store = make_store(num_streams, rows * num_streams)
    role = Role.segment_end(2) if end else Role.segment_start(2)
    sampler = prioritized(store, role, seed)
    extend(store, 8)
    expected: dict[int, float] = {}
    waiting: list[np.ndarray] = []
    for _ in range(25):
        extend(store, int(rng.integers(0, 6)), episode=int(rng.integers(1, 8)))
        if sampler.num_eligible:
            waiting.append(sampler.sample(6))
        if len(waiting) > delay:
            ids = waiting.pop(0)
            losses = rng.normal(5, 3, len(ids))
            sampler.update(ids, losses)
            expected.update(zip(ids.tolist(), losses.tolist(), strict=True))
        ids = eligible_ids(store, role)
        wanted = [expected.get(i, 10.0) for i in ids.tolist()]
        np.testing.assert_allclose(sampler.priorities(ids), wanted)
        assert sampler.num_eligible == len(ids)
        # The tree behind: the right weight at each eligible row, nothing elsewhere.
        leaves = np.zeros(max(store.num_allocated_rows, sampler._tree.capacity))
        leaves[store.ring.rows(ids)] = np.exp(np.array(wanted) - sampler._offset)
        present = np.arange(sampler._tree.capacity)  # the tree grows with the first eligible row
        np.testing.assert_allclose(sampler._tree.get(present), leaves[present])
        assert not leaves[len(present) :].any()


def test_evicted_and_unknown_ids_are_ignored() -> None:
    store = make_store(1, 16)
    extend(store, 10)
    sampler = prioritized(store)
    old = sampler.sample(4)
    extend(store, 40)
    before = sampler.priorities(eligible_ids(store))
    sampler.update(old, np.full(4, 99.0))
    sampler.update(np.array([-3, 10**7]), np.full(2, 99.0))
    np.testing.assert_array_equal(sampler.priorities(eligible_ids(store)), before)
    assert np.isnan(sampler.priorities(old)).all()


def test_priorities_of_any_range_are_followed() -> None:
    store = make_store()
    extend(store, 40)
    ids = eligible_ids(store)
    sampler = prioritized(store, uniform_fraction=0.0)
    for base in (0.0, 300.0, -5000.0, 1e6, 0.0):
        sampler.update(ids, np.full(len(ids), base))
        sampler.update(ids[:3], np.full(3, base + 30.0))
        assert set(sampler.sample(3).tolist()) == set(ids[:3].tolist())
        assert len(set(sampler.sample(len(ids)).tolist())) == len(ids)
    sampler.update(ids[:1], np.array([1e8]))  # one outlier cuts all the others off, yet they can be drawn
    assert ids[0] in sampler.sample(1)
    assert len(set(sampler.sample(len(ids)).tolist())) == len(ids)


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
    ids = eligible_ids(store)
    sampler, twin = prioritized(store), prioritized(store)
    sampler.update(ids[:1], np.array([100.0]))  # moves the offset
    sampler.update(ids, np.random.default_rng(0).normal(50, 1, len(ids)))
    twin.load_state_dict(sampler.state_dict())
    assert twin._tree.total == sampler._tree.total
    np.testing.assert_array_equal(twin._tree.get(ids), sampler._tree.get(ids))


def test_rows_beyond_the_first_allocation() -> None:
    store = make_store(2, 20_000)
    sampler = prioritized(store, uniform_fraction=0.5)
    for _ in range(4):
        extend(store, 700)
        ids = sampler.sample(64)
        assert START.accepts(store, ids).all()
        sampler.update(ids, np.zeros(64))
    assert sampler.num_eligible == len(eligible_ids(store)) == 2 * 2800
