"""Vector environments: true final observations, partial resets, seeds, processes that fail."""

from __future__ import annotations

import os
import time

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldstream.environments import EnvironmentConfig, VectorEnvironment, WorkerConfig, resolve
from worldstream.errors import ConfigError, EnvironmentFault

SHORT = EnvironmentConfig(kwargs={"episode_length": 3})


class FailsLate(gymnasium.Env):
    """Works for two steps, then raises, dies, or hangs on close."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, how: str = "raise") -> None:
        self.how, self.steps = how, 0

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        if self.steps == 3:
            if self.how == "die":
                os._exit(7)
            raise RuntimeError("the motor is stuck")
        return np.zeros(1, np.float32), 0.0, False, False, {"odd": [object()] * self.steps}


@pytest.fixture(params=["sync", "process"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def test_true_next_observations_and_partial_resets(backend: str) -> None:
    workers = WorkerConfig(backend=backend)
    with VectorEnvironment(resolve("clock", SHORT), num_envs=2, seed=1, workers=workers) as vector:
        assert vector.num_envs == 2 and vector.action_spec.sizes == (3,)
        observations = vector.reset()
        assert list(observations) == list(vector.observation_specs)
        assert observations["step"].shape == (2, 1) and observations["phase"].dtype == np.uint8
        for step in range(3):
            result = vector.step(np.array([[step], [2]]))
            assert (result.observations["step"] == step + 1).all()
            np.testing.assert_allclose(result.rewards, [step + step / 10, step + 0.2], rtol=1e-6)
        assert result.rewards.dtype == np.float32
        assert result.terminated.tolist() == [True, True] and result.truncated.tolist() == [False, False]
        with pytest.raises(RuntimeError, match=r"environments \[0, 1\] must be reset"):
            vector.step(np.array([[0], [0]]))
        observations = vector.reset_where(np.array([True, False]))
        assert observations["step"].ravel().tolist() == [0, 3]
        with pytest.raises(RuntimeError, match=r"\[1\]"):
            vector.step(np.array([[0], [0]]))
        vector.reset_where(np.array([False, True]))
        assert vector.step(np.array([[0], [0]])).observations["step"].ravel().tolist() == [1, 1]
        with pytest.raises(ValueError, match="shape"):
            vector.step(np.array([0, 0]))
    vector.close()


def phases(seed: int, num_envs: int, backend: str = "sync") -> np.ndarray:
    """Phases at the beginnings of many episodes: they are all that the clock draws."""
    workers = WorkerConfig(backend=backend)
    with VectorEnvironment(resolve("clock", SHORT), num_envs=num_envs, seed=seed, workers=workers) as vector:
        rows = [vector.reset()["phase"], vector.reset()["phase"]]
        rows += [vector.reset_where(np.ones(num_envs, bool))["phase"] for _ in range(20)]
    return np.stack(rows)[..., 0]


def test_seeds() -> None:
    one = phases(0, 3)
    np.testing.assert_array_equal(one, phases(0, 3))
    np.testing.assert_array_equal(one, phases(0, 3, "process"))
    np.testing.assert_array_equal(one[:, :2], phases(0, 2))
    assert (one != phases(1, 3)).any()
    assert (one[:, 0] != one[:, 1]).any()


def test_observations_of_a_step_are_not_overwritten_by_the_next(backend: str) -> None:
    with VectorEnvironment(resolve("clock", SHORT), num_envs=2, workers=WorkerConfig(backend=backend)) as vector:
        vector.reset()
        first = vector.step(np.zeros((2, 1), int)).observations["step"]
        vector.step(np.zeros((2, 1), int))
        assert first.ravel().tolist() == [1, 1]


def test_a_failing_environment_is_reported_once(backend: str) -> None:
    vector = VectorEnvironment(resolve(FailsLate), num_envs=2, workers=WorkerConfig(backend=backend, max_restarts=0))
    vector.reset()
    for _ in range(2):
        vector.step(np.zeros((2, 1), int))
    with pytest.raises(EnvironmentFault, match=r"'FailsLate'.*step\(\) raised RuntimeError: the motor is stuck"):
        vector.step(np.zeros((2, 1), int))
    started = time.monotonic()
    vector.close()
    assert time.monotonic() - started < 1


def test_a_process_that_dies_is_reported() -> None:
    factory = resolve(FailsLate, EnvironmentConfig(kwargs={"how": "die"}))
    vector = VectorEnvironment(factory, num_envs=2, workers=WorkerConfig(backend="process", max_restarts=0))
    vector.reset()
    for _ in range(2):
        vector.step(np.zeros((2, 1), int))
    with pytest.raises(EnvironmentFault, match="its process ended unexpectedly"):
        vector.step(np.zeros((2, 1), int))
    vector.close()


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="collection.backend must be one of sync, process, not threads"):
        VectorEnvironment(resolve("clock"), workers=WorkerConfig(backend="threads"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="num_envs"):
        VectorEnvironment(resolve("clock"), num_envs=0)
    with pytest.raises(EnvironmentFault, match="unknown environment"):
        VectorEnvironment(resolve("Nope-v0"), workers=WorkerConfig(backend="process"))
