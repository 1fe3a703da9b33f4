"""EveryKey: a small environment of our own for learning tests. Nobody does well in it who ignores an observation key.

observation                                        action
  grid     3 x 3 cells, a marker in one     --+--> choice = (marker's column + category) mod 3
  category 0..2                             --+
  aim      (cos a, sin a)                   --+--> dial   = cos a, mirrored where cos b < 0
  gauge    (cos b, sin b)                   --+

reward = 0.5 [choice is right] + 0.5 max(0, 1 - distance of the dial / tolerance)
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldstream.environments import gym
from worldstream.environments.suites import Suite

SIDE = 3
NUM_CHOICES = 3
DEAD_ZONE = 0.02
"""Dial errors up to this cost nothing: half of the distance between two of 51 levels on [-1, 1]."""
_AIM_STEP = 2 * np.pi / 16
_GAUGE_STEP = 2 * np.pi / 8


class EveryKey(gymnasium.Env[dict[str, Any], dict[str, Any]]):
    """Dict observation of two vectors, a category and a grid; Dict action of a choice and a dial.

    Everything but the beginning of an episode is deterministic. The marker moves on by one cell in reading order, both
    vectors rotate by a fixed angle, and the category moves on by 1 + choice: the only thing that actions change. No
    key can be guessed from the others or from the past of an agent that does not read it.

    Whatever is done, a step earns at most 1, and ``best_action`` earns it: ``best_return`` is ``episode_length``.
    The best agent that is blind to one key stays below 80 % of that.

    Args:
        episode_length: steps of every episode, which then is truncated.
        tolerance: dial error, beyond the dead zone, from which on the dial earns nothing.
        render_mode: None or "rgb_array".
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(self, episode_length: int = 12, tolerance: float = 0.25, render_mode: str | None = None) -> None:
        self.episode_length = episode_length
        self.tolerance = tolerance
        self.render_mode = render_mode
        self.observation_space = spaces.Dict(
            {
                "aim": spaces.Box(-1, 1, (2,), np.float32),
                "gauge": spaces.Box(-1, 1, (2,), np.float32),
                "category": spaces.Discrete(NUM_CHOICES),
                "grid": spaces.Box(0, 1, (SIDE, SIDE), np.int64),
            }
        )
        self.action_space = spaces.Dict(
            {"choice": spaces.Discrete(NUM_CHOICES), "dial": spaces.Box(-1, 1, (1,), np.float32)}
        )
        self._step = self._cell = self._category = 0
        self._aim = self._gauge = 0.0

    @property
    def best_return(self) -> float:
        """Return of ``best_action`` in every step of an episode."""
        return float(self.episode_length)

    @staticmethod
    def best_action(observation: dict[str, Any]) -> dict[str, Any]:
        """The action that earns 1, computed from all four keys."""
        column = int(np.argmax(observation["grid"])) % SIDE
        side = 1.0 if observation["gauge"][0] >= 0 else -1.0
        dial = np.array([side * observation["aim"][0]], np.float32)
        return {"choice": np.int64((column + int(observation["category"])) % NUM_CHOICES), "dial": dial}

    def reward(self, observation: dict[str, Any], action: dict[str, Any]) -> float:
        """Reward in [0, 1] of an action at an observation."""
        best = self.best_action(observation)
        error = max(0.0, abs(float(action["dial"][0]) - float(best["dial"][0])) - DEAD_ZONE)
        return 0.5 * float(action["choice"] == best["choice"]) + 0.5 * max(0.0, 1 - error / self.tolerance)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        self._cell = int(self.np_random.integers(SIDE * SIDE))
        self._category = int(self.np_random.integers(NUM_CHOICES))
        self._aim = float(self.np_random.uniform(0, 2 * np.pi))
        # Odd multiples of an eighth of a half turn, give or take: the gauge never comes near the line where it flips.
        eighth = int(self.np_random.integers(8))
        self._gauge = (eighth + 0.5) * _GAUGE_STEP + float(self.np_random.uniform(-0.15, 0.15))
        return self._observe(), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        reward = self.reward(self._observe(), action)
        self._step += 1
        self._cell = (self._cell + 1) % (SIDE * SIDE)
        self._category = (self._category + 1 + int(action["choice"])) % NUM_CHOICES
        self._aim += _AIM_STEP
        self._gauge += _GAUGE_STEP
        return self._observe(), reward, False, self._step >= self.episode_length, {}

    def render(self) -> Any:
        """The grid; its marker has one of three colours for the category."""
        picture = np.full((SIDE, SIDE, 3), 40, np.uint8)
        picture[divmod(self._cell, SIDE)] = np.roll((230, 80, 80), self._category)
        return picture.repeat(32, axis=0).repeat(32, axis=1)

    def _observe(self) -> dict[str, Any]:
        grid = np.zeros((SIDE, SIDE), np.int64)
        grid[divmod(self._cell, SIDE)] = 1
        return {
            "aim": np.array([np.cos(self._aim), np.sin(self._aim)], np.float32),
            "gauge": np.array([np.cos(self._gauge), np.sin(self._gauge)], np.float32),
            "category": np.int64(self._category),
            "grid": grid,
        }


SUITE = Suite(
    claims=lambda name: name == "keys",
    make=lambda name, config, render_mode: gym.make_from(str(name), EveryKey, config, render_mode),
    example="keys",
)
