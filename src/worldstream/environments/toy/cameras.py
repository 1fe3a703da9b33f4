"""TwoCameras: a small environment of our own with pictures. Each part of the reward needs one key of its own.

observation                                             action
  left      RGB picture, a green square in a quarter  --> left   Discrete(4), must equal the quarter
  right     grey picture, a square in a quarter       --> right  Discrete(4), must equal the quarter
  aim       (cos a, sin a)                            --> dial   Box(1), must be near cos a
  category  0..3                                      --> color  Discrete(4), must equal the category

reward = mean of [left is right], [right is right], closeness of the dial, [color is right]
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from worldstream.environments.toy.base import EveryPartCounts, ToySuite, Values, on_circle

SIDE = 32
QUARTERS = 4
_SQUARE = 10
"""Side of the squares, in pixels; they lie in the middle of their quarter."""


class TwoCameras(EveryPartCounts):
    """Dict observation of two pictures, a vector and a category; Dict action of three choices and a dial.

    The left square moves on by one quarter at each step, the right one goes back by one, and the vector rotates.
    """

    changing = ("_left", "_right", "_category", "_aim")
    dead_zone = 0.11  # a bit more than half of the distance between two of 11 levels on [-1, 1]

    def __init__(self, episode_length: int = 12, tolerance: float = 0.4, render_mode: str | None = None) -> None:
        super().__init__(episode_length, tolerance, render_mode)
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
        self._left = self._right = 0

    @staticmethod
    def best_action(observation: Values) -> Values:
        return {
            "left": np.int64(_quarter_of(observation["left"][..., 1])),
            "right": np.int64(_quarter_of(observation["right"][0])),
            "dial": np.array([observation["aim"][0]], np.float32),
            "color": np.int64(observation["category"]),
        }

    def _begin(self) -> None:
        self._left, self._right, self._category = (int(number) for number in self.np_random.integers(QUARTERS, size=3))
        self._aim = float(self.np_random.uniform(0, 2 * np.pi))

    def _move(self) -> None:
        self._left = (self._left + 1) % QUARTERS
        self._right = (self._right - 1) % QUARTERS

    def render(self) -> np.ndarray:
        """Both pictures side by side."""
        seen = self._observe()
        right = np.repeat(np.moveaxis(seen["right"], 0, -1), 3, axis=-1)
        return np.concatenate([seen["left"], right], axis=1).repeat(4, axis=0).repeat(4, axis=1)

    def _observe(self) -> Values:
        left = np.full((SIDE, SIDE, 3), 30, np.uint8)
        left[..., 2] = np.linspace(0, 200, SIDE, dtype=np.uint8)  # a still background
        left[*_square(self._left)] = (40, 220, 60)
        right = np.full((1, SIDE, SIDE), 90, np.uint8)
        right[0, *_square(self._right)] = 240
        return {"left": left, "right": right, "aim": on_circle(self._aim), "category": np.int64(self._category)}


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


SUITE = ToySuite(example="cameras", environment=TwoCameras, preset="cameras")
