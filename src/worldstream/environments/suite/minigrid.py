"""MiniGrid and BabyAI (extra ``minigrid``): the egocentric image is a grid of (object, colour, state) cells.

MiniGrid declares 0..255 for every channel. What occurs: objects 0..10, colours 0..5, and as state a door's 0..2 or,
with a fully observable view, the agent's direction 0..3.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from typing import Any

import gymnasium

from worldstream.environments.config import EnvironmentConfig
from worldstream.environments.flat import FlatEnvironment
from worldstream.environments.suite import gym
from worldstream.environments.suites import EnvironmentName, Suite
from worldstream.environments.wrappers import wrap
from worldstream.errors import EnvironmentFault

_MODALITY = {"image": "grid:11,6,4", "mission": "ignore"}
_PREFIXES = ("MiniGrid-", "BabyAI-")


class _QuietReset(gymnasium.Wrapper[Any, Any, Any, Any]):
    """BabyAI prints a line for each level that it rejects while it draws one."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with contextlib.redirect_stdout(io.StringIO()):
            return self.env.reset(seed=seed, options=options)


def make(name: EnvironmentName, config: EnvironmentConfig, render_mode: str | None = None) -> FlatEnvironment:
    """Make a MiniGrid or BabyAI environment; overrides in ``config.modality`` win over the suite's own.

    Raises:
        EnvironmentFault: the extra is not installed, or there is no such environment.
    """
    assert isinstance(name, str)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            import minigrid  # noqa: F401  (registers the environments)
    except ImportError as error:
        raise EnvironmentFault(
            f"environment '{name}' needs MiniGrid, which is not installed. Run: pip install worldstream[minigrid]"
        ) from error
    config = dataclasses.replace(config, modality={**_MODALITY, **config.modality})
    environment = _QuietReset(gym.make_registered(name, name, config, render_mode))
    return FlatEnvironment(wrap(environment, config, time_limit=False), config, name)


SUITE = Suite(
    claims=lambda name: isinstance(name, str) and name.startswith(_PREFIXES),
    make=make,
    example="MiniGrid-DoorKey-5x5-v0",
    package="minigrid",
    preset="grid",
)
