"""An environment that fails with set probabilities, and counts how often it did, for tests of what a run survives."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from worldstream.environments.toy.clock import Clock


class Faulty(gym.Wrapper):
    """The clock, with faults in ``step``.

    Args:
        log: file that receives one line with the kind of each fault, before it happens.
        probabilities: kind -> probability of it in one step: "raise", "nan", "shape", "hang" or "die".
        in_reset: fail there instead.
    """

    def __init__(self, log: str, probabilities: dict[str, float], in_reset: bool = False) -> None:
        super().__init__(Clock())
        self._log, self._probabilities, self._in_reset = Path(log), probabilities, in_reset
        self._rng = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        result = super().reset(seed=seed, options=options)
        return (self._fail(result[0]), result[1]) if self._in_reset else result

    def step(self, action: Any) -> Any:
        observation, *others = super().step(action)
        return (observation if self._in_reset else self._fail(observation), *others)

    def _fail(self, observation: dict[str, Any]) -> dict[str, Any]:
        draw = self._rng.random()
        for kind, probability in self._probabilities.items():
            draw -= probability
            if draw < 0:
                with open(self._log, "a") as file:
                    file.write(kind + "\n")
                return self._now(kind, observation)
        return observation

    @staticmethod
    def _now(kind: str, observation: dict[str, Any]) -> dict[str, Any]:
        if kind == "raise":
            raise RuntimeError("the motor is stuck")
        if kind == "hang":
            time.sleep(1000)
        if kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        wrong = np.full(1, np.nan, np.float32) if kind == "nan" else np.zeros(3, np.float32)
        return {**observation, "step": wrong}


def make(**kwargs: Any) -> Faulty:
    """For ``--env faulty:make``."""
    return Faulty(**kwargs)
