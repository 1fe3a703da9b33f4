"""Clock: an environment that checks the rest of the library. It observes its own step counter, so that whatever is
replayed must count up by one, and its reward tells which action was taken at which step.
"""

from __future__ import annotations

import numpy as np
from gymnasium import spaces

from worldstream.environments.toy.base import Toy, ToySuite, Values

NUM_PHASES = 4
NUM_ACTIONS = 3


class Clock(Toy[np.int64]):
    """Counts steps. Episodes end alternately by termination (the first, third, ...) and by truncation.

    Observation: ``step``, a vector (1,) with the number of steps taken in this episode; ``phase``, the step plus an
    offset drawn with the seed for each episode, modulo ``NUM_PHASES``. Any action is fine.
    """

    changing = ("_episodes", "_offset")

    def __init__(self, episode_length: int = 10, render_mode: str | None = None) -> None:
        super().__init__(episode_length, render_mode)
        self.observation_space = spaces.Dict(
            {"step": spaces.Box(0, np.inf, (1,), np.float32), "phase": spaces.Discrete(NUM_PHASES)}
        )
        self.action_space = spaces.Discrete(NUM_ACTIONS)
        self._episodes = self._offset = 0

    @staticmethod
    def reward(step: int, action: int) -> float:
        """Reward of ``action`` chosen when the counter shows ``step``; both can be read back from it."""
        return step + action / 10

    def reset(self, *, seed: int | None = None, options: Values | None = None) -> tuple[Values, Values]:
        super().reset(seed=seed)
        self._episodes += 1
        self._step = 0
        self._offset = int(self.np_random.integers(NUM_PHASES))
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[Values, float, bool, bool, Values]:
        reward = self.reward(self._step, int(action))
        self._step += 1
        ended = self._step >= self.episode_length
        terminates = self._episodes % 2 == 1
        return self._observe(), reward, ended and terminates, ended and not terminates, {}

    def render(self) -> np.ndarray:
        """A bar that fills up in the course of the episode."""
        picture = np.zeros((16, 64, 3), np.uint8)
        picture[:, : 64 * self._step // self.episode_length] = (88, 166, 255)
        return picture

    def _observe(self) -> Values:
        phase = (self._step + self._offset) % NUM_PHASES
        return {"step": np.array([self._step], np.float32), "phase": np.int64(phase)}


SUITE = ToySuite(example="clock", environment=Clock)
