"""What the toys share: how they are named, when their episodes end, how their state is saved, how a task is scored."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import gymnasium
import numpy as np

from worldstream.environments.config import EnvironmentConfig
from worldstream.environments.flat import FlatEnvironment
from worldstream.environments.making import make_from
from worldstream.environments.suites import EnvironmentName, Suite

Action = TypeVar("Action")
Values = dict[str, Any]
NUM_COLORS = 4
ANGLE_STEP = 2 * np.pi / 16


@dataclass(frozen=True, kw_only=True)
class ToySuite(Suite):
    """One environment of our own; ``example`` is its name."""

    environment: Callable[..., gymnasium.Env[Any, Any]]

    def claims(self, name: EnvironmentName) -> bool:
        return name == self.example

    def make(self, name: EnvironmentName, config: EnvironmentConfig, render_mode: str | None) -> FlatEnvironment:
        return make_from(self.example, self.environment, config, render_mode)


class Toy(gymnasium.Env[Values, Action]):
    """An environment whose episodes have ``episode_length`` steps, and whose state is a few attributes."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}
    changing: ClassVar[tuple[str, ...]]
    """Attributes, beside ``_step``, that change in the course of a run: plain numbers."""

    def __init__(self, episode_length: int, render_mode: str | None) -> None:
        self.episode_length = episode_length
        self.render_mode = render_mode
        self._step = 0

    def state_dict(self) -> Values:
        """What changes in the course of a run (see ``worldstream.environments.state``)."""
        return {name: getattr(self, name) for name in ("_step", *self.changing)}

    def load_state_dict(self, state: Values) -> None:
        """Continue from ``state_dict``."""
        for name, value in state.items():
            setattr(self, name, value)


class EveryPartCounts(Toy[Values]):
    """A task for learning tests: the reward is the mean of four parts, each of which needs a key of its own.

    Everything but the beginning of an episode is deterministic, and no key can be guessed from the others. The category
    moves on by 1 + color, the only thing that actions change. Whatever is done, a step earns at most 1, and
    ``best_action`` earns it: ``best_return`` is ``episode_length``. The best agent that is blind to one key stays below
    88 % of that. Episodes are truncated.
    """

    dead_zone: ClassVar[float]
    """Dial errors up to this cost nothing; ``tolerance`` beyond it, a dial earns nothing."""

    def __init__(self, episode_length: int, tolerance: float, render_mode: str | None) -> None:
        super().__init__(episode_length, render_mode)
        self.tolerance = tolerance
        self._category = 0
        self._aim = 0.0

    @property
    def best_return(self) -> float:
        """Return of ``best_action`` in every step of an episode."""
        return float(self.episode_length)

    @staticmethod
    @abstractmethod
    def best_action(observation: Values) -> Values:
        """The action that earns 1, computed from all four keys."""

    @abstractmethod
    def _begin(self) -> None:
        """Draw the beginning of an episode."""

    @abstractmethod
    def _move(self) -> None:
        """Change what actions do not change."""

    @abstractmethod
    def _observe(self) -> Values:
        """The observation."""

    def reward(self, observation: Values, action: Values) -> float:
        """Reward in [0, 1] of an action at an observation."""
        best = self.best_action(observation)
        errors = np.abs(np.asarray(action["dial"]) - best["dial"]) - self.dead_zone
        closeness = np.maximum(1 - np.maximum(errors, 0.0) / self.tolerance, 0.0)
        right = sum(int(action[part] == best[part]) for part in best if part != "dial")
        return float(right + closeness.sum()) / 4

    def reset(self, *, seed: int | None = None, options: Values | None = None) -> tuple[Values, Values]:
        super().reset(seed=seed)
        self._step = 0
        self._begin()
        return self._observe(), {}

    def step(self, action: Values) -> tuple[Values, float, bool, bool, Values]:
        reward = self.reward(self._observe(), action)
        self._step += 1
        self._category = (self._category + 1 + int(action["color"])) % NUM_COLORS
        self._aim += ANGLE_STEP
        self._move()
        return self._observe(), reward, False, self._step >= self.episode_length, {}


def on_circle(angle: float) -> np.ndarray:
    """(cos, sin) of an angle, float32."""
    return np.array([np.cos(angle), np.sin(angle)], np.float32)
