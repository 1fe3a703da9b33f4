"""What every sampler promises."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from small_replay import anchors_of, make_store
from worldstream.replay import SAMPLERS
from worldstream.replay.samplers import Sampler
from worldstream.replay.segments import AnchorRule
from worldstream.replay.store import ReplayStore

RULES = {"start": AnchorRule.first(3), "end": AnchorRule.last(2), "any": AnchorRule.first(0)}


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


@pytest.fixture(params=sorted(RULES))
def rule(request: pytest.FixtureRequest) -> AnchorRule:
    return RULES[request.param]


def make(name: str, store: ReplayStore, rule: AnchorRule, seed: int = 0) -> Sampler:
    return SAMPLERS[name]().build(store, np.random.default_rng(seed), rule)


def test_batches_hold_distinct_anchors_under_eviction(name: str, rule: AnchorRule) -> None:
    store = make_store(3, 90)
    sampler = make(name, store, rule)
    for step in range(40):
        extend(store, 5, seed=step)
        anchors = anchors_of(store, rule)
        assert sampler.num_anchors == len(anchors)
        if len(anchors) >= 8:
            batch = sampler.sample(8)
            assert batch.shape == (8,) and batch.dtype == np.int64
            assert len(set(batch.tolist())) == 8
            assert np.isin(batch, anchors).all()
            sampler.update(batch, np.random.default_rng(step).normal(size=8))
    whole = sampler.sample(sampler.num_anchors)
    np.testing.assert_array_equal(np.sort(whole), anchors_of(store, rule))


def test_every_anchor_is_drawn_sometime(name: str, rule: AnchorRule) -> None:
    store = make_store(3, 90)
    extend(store, 60, seed=0)
    sampler = make(name, store, rule)
    drawn = {anchor for _ in range(200) for anchor in sampler.sample(8).tolist()}
    assert drawn == set(anchors_of(store, rule).tolist())


def test_few_rows_repeat_and_none_is_an_error(name: str, rule: AnchorRule) -> None:
    store = make_store(3, 90)
    sampler = make(name, store, rule)
    with pytest.raises(LookupError, match="no segment"):
        sampler.sample(4)
    while not sampler.num_anchors:
        extend(store, 1 + store.total_steps, seed=0)
    anchors = anchors_of(store, rule)
    batch = sampler.sample(len(anchors) + 20)
    assert batch.shape == (len(anchors) + 20,)
    assert np.isin(batch, anchors).all()


def test_same_generator_same_samples(name: str, rule: AnchorRule) -> None:
    store = make_store(3, 90)
    extend(store, 60, seed=0)
    first, second = make(name, store, rule), make(name, store, rule)
    for _ in range(5):
        np.testing.assert_array_equal(first.sample(8), second.sample(8))


def test_late_and_refused_reports(name: str, rule: AnchorRule) -> None:
    store = make_store(3, 90)
    extend(store, 60, seed=0)
    sampler = make(name, store, rule)
    anchors = sampler.sample(8)
    for bad in (np.full(8, np.nan), np.full(8, np.inf)):
        with pytest.raises(ValueError, match="finite"):
            sampler.update(anchors, bad)
    with pytest.raises(ValueError, match="anchors"):
        sampler.update(anchors, np.zeros(7))
    extend(store, 200, seed=1)  # everything drawn is evicted
    sampler.update(anchors, np.full(8, 1e3))
    assert not np.isin(sampler.sample(8), anchors).any()


@pytest.mark.parametrize("steps", [20, 70])
def test_resumed_sampler_continues_identically(name: str, rule: AnchorRule, steps: int) -> None:
    store = make_store(3, 90)
    sampler = make(name, store, rule)
    extend(store, steps, seed=0)
    for step in range(20):
        sampler.update(batch := sampler.sample(8), 30 * np.random.default_rng(step).normal(size=len(batch)))
    saved = copy.deepcopy((store.state_dict(), store.rows_since(), sampler.state_dict()))
    twin_store = make_store(3, 90)
    twin = make(name, twin_store, rule, seed=9)
    twin_store.load_state_dict(saved[0], [saved[1]])
    twin.load_state_dict(saved[2])
    for step in range(20):
        batch = sampler.sample(8)
        np.testing.assert_array_equal(twin.sample(8), batch)
        for a, b in ((sampler, store), (twin, twin_store)):
            a.update(batch, 30 * np.random.default_rng(100 + step).normal(size=8))
            extend(b, 6, seed=step)
