"""What every sampler promises."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from worldstream.replay import SAMPLERS
from worldstream.replay.eligibility import Role
from worldstream.replay.samplers import Sampler
from worldstream.replay.store import ReplayStore

ROLES = {"start": Role.segment_start(3), "end": Role.segment_end(2), "any": Role.segment_start(0)}


def make_store(num_rows: int = 90) -> ReplayStore:
    return ReplayStore({"x": ((), np.int64)}, 1, np.uint8, 3, num_rows)


def extend(store: ReplayStore, num_steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    observations = {"x": np.arange(3)}
    done = np.ones(3, np.bool_)
    for _ in range(num_steps):
        store.start(observations, done)
        terminated, truncated = rng.random((2, 3)) < 0.1
        store.append(np.zeros((3, 1), np.int64), np.zeros(3), terminated, truncated, observations)
        done = terminated | truncated


@pytest.fixture(params=sorted(SAMPLERS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=sorted(ROLES))
def role(request: pytest.FixtureRequest) -> Role:
    return ROLES[request.param]


def make(name: str, store: ReplayStore, role: Role, seed: int = 0) -> Sampler:
    return SAMPLERS[name](store, np.random.default_rng(seed), role)


def eligible_ids(store: ReplayStore, role: Role) -> np.ndarray:
    ids = store.ids_of_all()
    return ids[role.accepts(store, ids)]


def test_batches_hold_distinct_eligible_rows_under_eviction(name: str, role: Role) -> None:
    store = make_store()
    sampler = make(name, store, role)
    for step in range(40):
        extend(store, 5, seed=step)
        ids = eligible_ids(store, role)
        assert sampler.num_eligible == len(ids)
        if len(ids) >= 8:
            batch = sampler.sample(8)
            assert batch.shape == (8,) and batch.dtype == np.int64
            assert len(set(batch.tolist())) == 8
            assert np.isin(batch, ids).all()
            sampler.update(batch, np.random.default_rng(step).normal(size=8))
    whole = sampler.sample(sampler.num_eligible)
    np.testing.assert_array_equal(np.sort(whole), eligible_ids(store, role))


def test_every_eligible_row_is_drawn_sometime(name: str, role: Role) -> None:
    store = make_store()
    extend(store, 60, seed=0)
    sampler = make(name, store, role)
    drawn = {i for _ in range(200) for i in sampler.sample(8).tolist()}
    assert drawn == set(eligible_ids(store, role).tolist())


def test_few_rows_repeat_and_none_is_an_error(name: str, role: Role) -> None:
    store = make_store()
    sampler = make(name, store, role)
    with pytest.raises(LookupError, match="no eligible row"):
        sampler.sample(4)
    while not sampler.num_eligible:
        extend(store, 1 + store.total_steps, seed=0)
    ids = eligible_ids(store, role)
    batch = sampler.sample(len(ids) + 20)
    assert batch.shape == (len(ids) + 20,)
    assert np.isin(batch, ids).all()


def test_same_generator_same_samples(name: str, role: Role) -> None:
    store = make_store()
    extend(store, 60, seed=0)
    first, second = make(name, store, role), make(name, store, role)
    for _ in range(5):
        np.testing.assert_array_equal(first.sample(8), second.sample(8))


def test_late_and_refused_reports(name: str, role: Role) -> None:
    store = make_store()
    extend(store, 60, seed=0)
    sampler = make(name, store, role)
    ids = sampler.sample(8)
    for bad in (np.full(8, np.nan), np.full(8, np.inf)):
        with pytest.raises(ValueError, match="finite"):
            sampler.update(ids, bad)
    with pytest.raises(ValueError, match="ids"):
        sampler.update(ids, np.zeros(7))
    extend(store, 200, seed=1)  # everything drawn is evicted
    sampler.update(ids, np.full(8, 1e3))
    assert not np.isin(sampler.sample(8), ids).any()


@pytest.mark.parametrize("steps", [20, 70])
def test_resumed_sampler_continues_identically(name: str, role: Role, steps: int) -> None:
    store = make_store()
    sampler = make(name, store, role)
    extend(store, steps, seed=0)
    for step in range(20):
        sampler.update(batch := sampler.sample(8), 30 * np.random.default_rng(step).normal(size=len(batch)))
    saved = copy.deepcopy((store.state_dict(), store.rows_since(), sampler.state_dict()))
    twin_store = make_store()
    twin = make(name, twin_store, role, seed=9)
    twin_store.load_state_dict(saved[0], [saved[1]])
    twin.load_state_dict(saved[2])
    for step in range(20):
        batch = sampler.sample(8)
        np.testing.assert_array_equal(twin.sample(8), batch)
        for a, b in ((sampler, store), (twin, twin_store)):
            a.update(batch, 30 * np.random.default_rng(100 + step).normal(size=8))
            extend(b, 6, seed=step)
