"""Saved states of environments: of single ones and of many at once."""

from __future__ import annotations

import json
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from worldstream.environments import VectorEnvironment, WorkerConfig, make_environment, resolve
from worldstream.environments import state as environment_state
from worldstream.environments.config import EnvironmentConfig
from worldstream.environments.suite.registered import GymSuite
from worldstream.environments.toy.clock import Clock
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


class Talkative(Clock):
    """Prints when it is reset."""

    def reset(self, **options: Any) -> Any:
        sys.stdout.write("a new episode")
        return super().reset(**options)


def test_an_environment_of_a_quiet_suite_gives_its_state(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setitem(gym.registry, "Talkative-v0", EnvSpec("Talkative-v0", Talkative))
    suite = GymSuite(prefixes=("Talkative",), package="worldstream", example="Talkative-v0", quiet=True)
    ours, theirs = (suite.make("Talkative-v0", EnvironmentConfig(), None) for _ in range(2))
    ours.reset(seed=3), theirs.reset(seed=9), ours.step(np.array([1]))
    assert ours.saved_state is not None
    theirs.saved_state = ours.saved_state
    for a, b in zip(ours.step(np.array([2]))[0].values(), theirs.step(np.array([2]))[0].values(), strict=True):
        assert np.array_equal(a, b)
    assert not capsys.readouterr().out


class Board(gym.Env):
    """Gives its board away and goes on writing into it."""

    observation_space = gym.spaces.Box(0, 9, (2,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.board = np.zeros(2, np.float32)

    def step(self, action: object) -> tuple[object, float, bool, bool, dict[str, object]]:
        self.board += 1
        return self.board.copy(), 0.0, False, False, {}

    def state_dict(self) -> dict[str, object]:
        return {"board": self.board}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.board = state["board"]


def test_a_saved_state_does_not_change_with_its_environment() -> None:
    board = Board()
    saved = environment_state.save(board)
    assert saved is not None
    board.step(0)
    for _ in range(2):
        environment_state.load(board, saved)
        assert board.step(0)[0].tolist() == [1, 1]


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
