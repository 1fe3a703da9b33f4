"""EveryKey: a small environment of our own for learning tests. Each part of the reward needs one key of its own.

observation                                    action
  category 0..3                            -->   color    Discrete(4), must equal the category
  grid     3 x 4 cells, a marker in one    -->   column   Discrete(4), must equal the marker's column
  aim      (cos a, sin a)                  -->   dial[0]  must be near cos a
  gauge    (cos b, sin b)                  -->   dial[1]  must be near sin b

reward = mean of [color is right], [column is right], closeness of dial[0], closeness of dial[1]
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from worldstream.environments.toy.base import ANGLE_STEP, NUM_COLORS, EveryPartCounts, ToySuite, Values, on_circle

ROWS, COLUMNS = 3, 4


class EveryKey(EveryPartCounts):
    """Dict observation of two vectors, a category and a grid; Dict action of two choices and two dials.

    The marker moves on by one cell in reading order, and both vectors rotate by a fixed angle.
    """

    changing = ("_cell", "_category", "_aim", "_gauge")
    dead_zone = 0.05  # half of the distance between two of 21 levels on [-1, 1]

    def __init__(self, episode_length: int = 12, tolerance: float = 0.5, render_mode: str | None = None) -> None:
        super().__init__(episode_length, tolerance, render_mode)
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
        self._cell = 0
        self._gauge = 0.0

    @staticmethod
    def best_action(observation: Values) -> Values:
        return {
            "color": np.int64(observation["category"]),
            "column": np.int64(int(np.argmax(observation["grid"])) % COLUMNS),
            "dial": np.array([observation["aim"][0], observation["gauge"][1]], np.float32),
        }

    def _begin(self) -> None:
        self._cell = int(self.np_random.integers(ROWS * COLUMNS))
        self._category = int(self.np_random.integers(NUM_COLORS))
        self._aim, self._gauge = (float(angle) for angle in self.np_random.uniform(0, 2 * np.pi, 2))

    def _move(self) -> None:
        self._cell = (self._cell + 1) % (ROWS * COLUMNS)
        self._gauge += 2 * ANGLE_STEP

    def render(self) -> np.ndarray:
        """The grid; its marker has one of four colours for the category."""
        picture = np.full((ROWS, COLUMNS, 3), 40, np.uint8)
        palette = ((230, 80, 80), (80, 230, 80), (80, 80, 230), (230, 230, 80))
        picture[divmod(self._cell, COLUMNS)] = palette[self._category]
        return picture.repeat(32, axis=0).repeat(32, axis=1)

    def _observe(self) -> Values:
        grid = np.zeros((ROWS, COLUMNS), np.int64)
        grid[divmod(self._cell, COLUMNS)] = 1
        return {
            "aim": on_circle(self._aim),
            "gauge": on_circle(self._gauge),
            "category": np.int64(self._category),
            "grid": grid,
        }


SUITE = ToySuite(example="keys", environment=EveryKey, preset="keys")
