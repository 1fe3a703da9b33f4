"""Wrappers around raw environments, inside of FlatEnvironment."""

from __future__ import annotations

import contextlib
import io
from typing import Any, SupportsFloat

import gymnasium


class ActionRepeat(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Repeats each action for a number of frames, adds up their rewards, and stops when the episode ends."""

    def __init__(self, environment: gymnasium.Env[Any, Any], num_frames: int) -> None:
        super().__init__(environment)
        self._num_frames = num_frames

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        total: Any = 0.0
        for _ in range(self._num_frames):
            result = self.env.step(action)
            if not isinstance(result, tuple) or len(result) != 5:
                return result  # which breaks the protocol: FlatEnvironment explains it
            observation, reward, terminated, truncated, info = result
            total = total + reward
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info


class QuietReset(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Swallows what a reset prints."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with contextlib.redirect_stdout(io.StringIO()):
            return self.env.reset(seed=seed, options=options)
