"""EveryKey: a small environment of our own for learning tests. Each part of the reward needs one key of its own.

observation                                    action
  category 0..3                            -->   color    Discrete(4), must equal the category
  grid     3 x 4 cells, a marker in one    -->   column   Discrete(4), must equal the marker's column
  aim      (cos a, sin a)                  -->   dial[0]  must be near cos a
  gauge    (cos b, sin b)                  -->   dial[1]  must be near sin b

reward = mean of [color is right], [column is right], closeness of dial[0], closeness of dial[1]
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldstream.environments.suite import gym
from worldstream.environments.suites import Suite

ROWS, COLUMNS = 3, 4
NUM_COLORS = 4
DEAD_ZONE = 0.05
"""Dial errors up to this cost nothing: half of the distance between two of 21 levels on [-1, 1]."""
_AIM_STEP = 2 * np.pi / 16
_GAUGE_STEP = 2 * np.pi / 8


class EveryKey(gymnasium.Env[dict[str, Any], dict[str, Any]]):
    """Dict observation of two vectors, a category and a grid; Dict action of two choices and two dials.

    Everything but the beginning of an episode is deterministic. The marker moves on by one cell in reading order, both
    vectors rotate by a fixed angle, and the category moves on by 1 + color: the only thing that actions change. No key
    can be guessed from the others.

    Whatever is done, a step earns at most 1, and ``best_action`` earns it: ``best_return`` is ``episode_length``.
    The best agent that is blind to one key stays below 88 % of that.

    Args:
        episode_length: steps of every episode, which then is truncated.
        tolerance: dial error, beyond the dead zone, from which on a dial earns nothing.
        render_mode: None or "rgb_array".
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(self, episode_length: int = 12, tolerance: float = 0.5, render_mode: str | None = None) -> None:
        self.episode_length = episode_length
        self.tolerance = tolerance
        self.render_mode = render_mode
        self.observation_space = spaces.Dict(
            {
                "aim": spaces.Box(-1, 1, (2,), np.float32),
                "gauge": spaces.Box(-1, 1, (2,), np.float32),
                "category": spaces.Discrete(NUM_COLORS),
                "grid": spaces.Box(0, 1, (ROWS, COLUMNS), np.int64),
            }
        )
        self.action_space = spaces.Dict(
            {
                "color": spaces.Discrete(NUM_COLORS),
                "column": spaces.Discrete(COLUMNS),
                "dial": spaces.Box(-1, 1, (2,), np.float32),
            }
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
        return {
            "color": np.int64(observation["category"]),
            "column": np.int64(int(np.argmax(observation["grid"])) % COLUMNS),
            "dial": np.array([observation["aim"][0], observation["gauge"][1]], np.float32),
        }

    def reward(self, observation: dict[str, Any], action: dict[str, Any]) -> float:
        """Reward in [0, 1] of an action at an observation."""
        best = self.best_action(observation)
        errors = np.maximum(np.abs(np.asarray(action["dial"]) - best["dial"]) - DEAD_ZONE, 0.0)
        closeness = np.maximum(1 - errors / self.tolerance, 0.0)
        right = int(action["color"] == best["color"]) + int(action["column"] == best["column"])
        return float(right + closeness.sum()) / 4

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        self._cell = int(self.np_random.integers(ROWS * COLUMNS))
        self._category = int(self.np_random.integers(NUM_COLORS))
        self._aim, self._gauge = self.np_random.uniform(0, 2 * np.pi, 2)
        return self._observe(), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        reward = self.reward(self._observe(), action)
        self._step += 1
        self._cell = (self._cell + 1) % (ROWS * COLUMNS)
        self._category = (self._category + 1 + int(action["color"])) % NUM_COLORS
        self._aim += _AIM_STEP
        self._gauge += _GAUGE_STEP
        return self._observe(), reward, False, self._step >= self.episode_length, {}

    def state_dict(self) -> dict[str, Any]:
        """What changes in the course of a run (see ``worldstream.environments.state``)."""
        return {
            "step": self._step,
            "cell": self._cell,
            "category": self._category,
            "angles": [float(self._aim), float(self._gauge)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self._step, self._cell, self._category = state["step"], state["cell"], state["category"]
        self._aim, self._gauge = state["angles"]

    def render(self) -> Any:
        """The grid; its marker has one of four colours for the category."""
        picture = np.full((ROWS, COLUMNS, 3), 40, np.uint8)
        palette = ((230, 80, 80), (80, 230, 80), (80, 80, 230), (230, 230, 80))
        picture[divmod(self._cell, COLUMNS)] = palette[self._category]
        return picture.repeat(32, axis=0).repeat(32, axis=1)

    def _observe(self) -> dict[str, Any]:
        grid = np.zeros((ROWS, COLUMNS), np.int64)
        grid[divmod(self._cell, COLUMNS)] = 1
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
    preset="keys",
)
