"""Wrappers around raw environments, inside of FlatEnvironment."""

from __future__ import annotations

import contextlib
import io
from typing import Any, SupportsFloat

import gymnasium
from gymnasium.wrappers import TimeLimit

from worldstream.environments.config import EnvironmentConfig


class ActionRepeat(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Repeats each action for a number of frames, adds up their rewards, and stops when the episode ends."""

    def __init__(self, environment: gymnasium.Env[Any, Any], num_frames: int) -> None:
        super().__init__(environment)
        self._num_frames = num_frames

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        total: Any = result[1] if isinstance(result, tuple) and len(result) == 5 else 0.0
        for _ in range(self._num_frames - 1):
            # What breaks the protocol is passed on unchanged: FlatEnvironment explains it.
            if not isinstance(result, tuple) or len(result) != 5 or result[2] or result[3]:
                return result
            result = self.env.step(action)
            if len(result) == 5:
                total = total + result[1]
                result = (result[0], total, *result[2:])
        return result


class QuietReset(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Swallows what a reset prints."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with contextlib.redirect_stdout(io.StringIO()):
            return self.env.reset(seed=seed, options=options)


def wrap(environment: Any, config: EnvironmentConfig, time_limit: bool = True) -> Any:
    """Apply the options of ``config`` that are wrappers. A thing that is no environment is returned as it is.

    Args:
        environment: raw environment.
        config: options.
        time_limit: False when the episode length has been limited already.
    """
    if not isinstance(environment, gymnasium.Env):
        return environment
    if time_limit and config.max_episode_steps is not None:
        environment = TimeLimit(environment, config.max_episode_steps)
    num_frames = config.action_repeat or 1
    if num_frames > 1:
        environment = ActionRepeat(environment, num_frames)
    return environment
