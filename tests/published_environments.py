"""Environments whose spaces are those of the golden files, as ``published_environments:NAME``."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Sampled(gymnasium.Env[Any, Any]):
    """Observations are drawn from the space; an episode has ten steps."""

    def __init__(self, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> None:
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps == 10, False, {}


def floats(size: int) -> spaces.Box:
    return spaces.Box(-3, 3, (size,), np.float32)


def dmc() -> Sampled:
    return Sampled(floats(5), spaces.Box(-1, 1, (2,), np.float32))


def dmc_again() -> Sampled:
    """Of the same spaces, but another."""
    return dmc()


def dmc_in_two_keys() -> Sampled:
    """As the suite gives it: several vectors, which the published agent reads one behind the other."""
    observation = spaces.Dict({"a_position": floats(3), "b_velocity": floats(2)})
    return Sampled(observation, spaces.Box(-1, 1, (2,), np.float32))


def craftax() -> Sampled:
    cells = np.broadcast_to([7, 3, 5, 4], (3, 4, 4))
    observation = {"direction": spaces.Discrete(4), "map": spaces.MultiDiscrete(cells), "stats": floats(6)}
    return Sampled(spaces.Dict(observation), spaces.Discrete(9))


def craftax_in_a_matrix() -> Sampled:
    """Cells one below the other, a column for each of their channels."""
    cells = np.broadcast_to([7, 3, 5, 4], (12, 4))
    observation = {"direction": spaces.Discrete(4), "map": spaces.MultiDiscrete(cells), "stats": floats(6)}
    return Sampled(spaces.Dict(observation), spaces.Discrete(9))


def atari() -> Sampled:
    return Sampled(spaces.Box(0, 255, (64, 64, 3), np.uint8), spaces.Discrete(6))


def full_atari() -> Sampled:
    return Sampled(spaces.Box(0, 255, (210, 160, 3), np.uint8), spaces.Discrete(18))


def full_dmc() -> Sampled:
    return Sampled(floats(24), spaces.Box(-1, 1, (6,), np.float32))


def full_craftax() -> Sampled:
    cells = np.broadcast_to([37, 5, 40, 20], (9, 11, 4))
    observation = {"direction": spaces.Discrete(4), "map": spaces.MultiDiscrete(cells), "stats": floats(47)}
    return Sampled(spaces.Dict(observation), spaces.Discrete(43))


def lists() -> Sampled:
    """A list of categories, one of the same beside it, and a vector."""
    observation = {"cards": spaces.MultiDiscrete([5, 5, 5]), "suit": spaces.Discrete(5), "table": floats(3)}
    return Sampled(spaces.Dict(observation), spaces.Discrete(2))


def longer_lists() -> Sampled:
    """Categories of another number of values."""
    observation = {"cards": spaces.MultiDiscrete([6, 5, 5]), "suit": spaces.Discrete(5), "table": floats(3)}
    return Sampled(spaces.Dict(observation), spaces.Discrete(2))


def columns() -> Sampled:
    """A row of categories, and a column."""
    observation = {"column": spaces.MultiDiscrete(np.full((5, 1), 6)), "row": spaces.MultiDiscrete(np.full((1, 3), 4))}
    return Sampled(spaces.Dict(observation), spaces.Discrete(2))
