"""TwoCameras: a small environment of our own with pictures. Each part of the reward needs one key of its own.

observation                                             action
  left      RGB picture, a green square in a quarter  --> left   Discrete(4), must equal the quarter
  right     grey picture, a square in a quarter       --> right  Discrete(4), must equal the quarter
  aim       (cos a, sin a)                            --> dial   Box(1), must be near cos a
  category  0..3                                      --> color  Discrete(4), must equal the category

reward = mean of [left is right], [right is right], closeness of the dial, [color is right]
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from worldstream.environments.suite import gym
from worldstream.environments.suites import Suite

SIDE = 32
QUARTERS = 4
_SQUARE = 10
"""Side of the squares, in pixels; they lie in the middle of their quarter."""
_AIM_STEP = 2 * np.pi / 16
_DEAD_ZONE = 0.11
"""Dial errors up to this cost nothing: a bit more than half of the distance between two of 11 levels on [-1, 1]."""


class TwoCameras(gymnasium.Env[dict[str, Any], dict[str, Any]]):
    """Dict observation of two pictures, a vector and a category; Dict action of three choices and a dial.

    Everything but the beginning of an episode is deterministic. The left square moves on by one quarter at each step,
    the right one goes back by one, the vector rotates, and the category moves on by 1 + color: the only thing that
    actions change. No key can be guessed from the others.

    Whatever is done, a step earns at most 1, and ``best_action`` earns it: ``best_return`` is ``episode_length``.
    The best agent that is blind to one key stays below 88 % of that.

    Args:
        episode_length: steps of every episode, which then is truncated.
        tolerance: dial error, beyond the dead zone, from which on the dial earns nothing.
        render_mode: None or "rgb_array".
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}

    def __init__(self, episode_length: int = 12, tolerance: float = 0.4, render_mode: str | None = None) -> None:
        self.episode_length = episode_length
        self.tolerance = tolerance
        self.render_mode = render_mode
        self.observation_space = spaces.Dict(
            {
                "left": spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8),
                "right": spaces.Box(0, 255, (1, SIDE, SIDE), np.uint8),
                "aim": spaces.Box(-1, 1, (2,), np.float32),
                "category": spaces.Discrete(QUARTERS),
            }
        )
        self.action_space = spaces.Dict(
            {
                "left": spaces.Discrete(QUARTERS),
                "right": spaces.Discrete(QUARTERS),
                "dial": spaces.Box(-1, 1, (1,), np.float32),
                "color": spaces.Discrete(QUARTERS),
            }
        )
        self._step = self._left = self._right = self._category = 0
        self._aim = 0.0

    @property
    def best_return(self) -> float:
        """Return of ``best_action`` in every step of an episode."""
        return float(self.episode_length)

    @staticmethod
    def best_action(observation: dict[str, Any]) -> dict[str, Any]:
        """The action that earns 1, computed from all four keys."""
        return {
            "left": np.int64(_quarter_of(observation["left"][..., 1])),
            "right": np.int64(_quarter_of(observation["right"][0])),
            "dial": np.array([observation["aim"][0]], np.float32),
            "color": np.int64(observation["category"]),
        }

    def reward(self, observation: dict[str, Any], action: dict[str, Any]) -> float:
        """Reward in [0, 1] of an action at an observation."""
        best = self.best_action(observation)
        error = max(abs(float(action["dial"][0]) - float(best["dial"][0])) - _DEAD_ZONE, 0.0)
        right = sum(int(action[part] == best[part]) for part in ("left", "right", "color"))
        return (right + max(1 - error / self.tolerance, 0.0)) / 4

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        self._left, self._right, self._category = (int(number) for number in self.np_random.integers(QUARTERS, size=3))
        self._aim = float(self.np_random.uniform(0, 2 * np.pi))
        return self._observe(), {}

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        reward = self.reward(self._observe(), action)
        self._step += 1
        self._left = (self._left + 1) % QUARTERS
        self._right = (self._right - 1) % QUARTERS
        self._category = (self._category + 1 + int(action["color"])) % QUARTERS
        self._aim += _AIM_STEP
        return self._observe(), reward, False, self._step >= self.episode_length, {}

    def state_dict(self) -> dict[str, Any]:
        """What changes in the course of a run (see ``worldstream.environments.state``)."""
        return {
            "step": self._step,
            "left": self._left,
            "right": self._right,
            "category": self._category,
            "aim": self._aim,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self._step, self._category, self._aim = state["step"], state["category"], state["aim"]
        self._left, self._right = state["left"], state["right"]

    def render(self) -> Any:
        """Both pictures side by side."""
        seen = self._observe()
        right = np.repeat(np.moveaxis(seen["right"], 0, -1), 3, axis=-1)
        return np.concatenate([seen["left"], right], axis=1).repeat(4, axis=0).repeat(4, axis=1)

    def _observe(self) -> dict[str, Any]:
        left = np.full((SIDE, SIDE, 3), 30, np.uint8)
        left[..., 2] = np.linspace(0, 200, SIDE, dtype=np.uint8)  # a still background
        left[*_square(self._left)] = (40, 220, 60)
        right = np.full((1, SIDE, SIDE), 90, np.uint8)
        right[0, *_square(self._right)] = 240
        return {
            "left": left,
            "right": right,
            "aim": np.array([np.cos(self._aim), np.sin(self._aim)], np.float32),
            "category": np.int64(self._category),
        }


def _square(quarter: int) -> tuple[slice, slice]:
    """Rows and columns of the square in a quarter of the picture, counted in reading order."""
    first = (SIDE // 2 - _SQUARE) // 2
    corners = (first + SIDE // 2 * half for half in divmod(quarter, 2))
    row, column = (slice(corner, corner + _SQUARE) for corner in corners)
    return row, column


def _quarter_of(picture: np.ndarray) -> int:
    """Quarter of a picture (SIDE, SIDE) that is brightest."""
    half = SIDE // 2
    sums = picture.reshape(2, half, 2, half).sum((1, 3), dtype=np.int64)
    return int(sums.argmax())


SUITE = Suite(
    claims=lambda name: name == "cameras",
    make=lambda name, config, render_mode: gym.make_from(str(name), TwoCameras, config, render_mode),
    example="cameras",
    preset="cameras",
)
