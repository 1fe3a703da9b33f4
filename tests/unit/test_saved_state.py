"""Saved states: of single environments, of many at once, and in files."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldstream.environments import VectorEnvironment, WorkerConfig, make_environment, resolve
from worldstream.environments import state as environment_state
from worldstream.runs.archive import join, split


class Nameless(gym.Env):
    """Has spaces and no way to give its state."""

    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Discrete(2)


def test_restarts_after_a_resume_use_the_seeds_they_would_have_used() -> None:
    with VectorEnvironment(resolve("clock"), 2, 5) as ours, VectorEnvironment(resolve("clock"), 2, 5) as theirs:
        ours.reset()
        ours.step(np.zeros((2, 1)))
        theirs.load_state_dict(ours.state_dict())
        assert [ours._next_seed(i) for i in range(2)] == [theirs._next_seed(i) for i in range(2)]


@pytest.mark.parametrize(
    "name", ["clock", "keys", "cameras", "CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0"]
)
def test_an_environment_goes_on_from_its_state(name: str) -> None:
    ours, theirs = make_environment(name), make_environment(name)
    ours.reset(seed=3)
    theirs.reset(seed=99)
    rng = np.random.default_rng(0)
    actions = rng.integers(0, ours.action_spec.sizes, size=(600, ours.action_spec.num_tokens))
    for action in actions[:4]:
        ours.step(action)
    saved, arrays = split(ours.saved_state)
    theirs.saved_state = join(json.loads(json.dumps(saved)), arrays)
    for action in actions:
        (a, *others_a), (b, *others_b) = ours.step(action), theirs.step(action)
        assert others_a[:3] == others_b[:3]
        assert all(np.array_equal(a[key], b[key]) for key in a)
        if others_a[1] or others_a[2]:
            a, b = ours.reset()[0], theirs.reset()[0]
            assert all(np.array_equal(a[key], b[key]) for key in a)


def test_unknown_wrappers_and_environments_have_no_state() -> None:
    assert environment_state.save(gym.wrappers.ClipReward(gym.make("CartPole-v1"), 0, 1)) is None
    assert make_environment(Nameless).saved_state is None


@pytest.mark.parametrize("backend", ["sync", "process"])
def test_many_environments_go_on(backend: str) -> None:
    factory, workers = resolve("clock"), WorkerConfig(backend=backend)
    with VectorEnvironment(factory, 2, 5, workers) as ours, VectorEnvironment(factory, 2, 5, workers) as theirs:
        ours.reset(), theirs.reset()
        for i in range(4):
            ours.step(np.full((2, 1), i % 3))
        assert theirs.load_state_dict(ours.state_dict()).all()
        assert all(np.array_equal(ours.latest[key], theirs.latest[key]) for key in ours.latest)
        a, b = ours.step(np.zeros((2, 1))), theirs.step(np.zeros((2, 1)))
        assert np.array_equal(a.observations["step"], b.observations["step"]) and (a.observations["step"] == 5).all()


# Nested state.

LEAVES: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=3)
)
ARRAYS: Callable[[int], Any] = lambda n: np.arange(n, dtype=np.int16).reshape(-1, 1)  # noqa: E731
NAMES = st.text(st.characters(codec="ascii", exclude_characters="$/"), max_size=3)
STATES = st.recursive(
    st.one_of(LEAVES, st.integers(0, 3).map(ARRAYS)),
    lambda child: st.one_of(st.lists(child, max_size=3), st.dictionaries(NAMES, child, max_size=3)),
    max_leaves=8,
)


@given(state=st.dictionaries(NAMES, STATES, max_size=3))
def test_nested_state_survives(state: dict[str, Any]) -> None:
    plain, arrays = split(state)
    again = join(json.loads(json.dumps(plain)), arrays)
    np.testing.assert_equal(again, state)


def test_what_no_file_holds_is_refused() -> None:
    for state in ({"a": {1: 2}}, {"a": object()}, {"$array": 1}):
        with pytest.raises(TypeError, match="state at"):
            split(state)
