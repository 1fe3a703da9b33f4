"""An experiment: everything that decides a run, resolved once and passed whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from worldstream.config import Config
from worldstream.environments.factory import EnvironmentFactory, resolve
from worldstream.environments.suites import EnvironmentName
from worldstream.errors import ConfigError


@dataclass(frozen=True)
class Experiment:
    """One agent in one environment."""

    environment: EnvironmentFactory
    config: Config
    """Its ``environment`` is that of the factory: what the suite decides is filled in."""
    seed: int
    """Root of all random numbers."""
    steps: int
    """Environment steps of training; 0 where there is none."""
    device: torch.device
    """Where the networks live."""

    @staticmethod
    def of(
        environment: EnvironmentName,
        config: Config,
        *,
        seed: int = 0,
        steps: int = 0,
        device: torch.device | str = "cpu",
    ) -> Experiment:
        """Resolve the environment with the options of the configuration (see ``resolve``), and relative paths.

        Raises ConfigError for a seed that generators do not take, SpaceError for an unknown environment.
        """
        if not 0 <= seed < 2**31:
            raise ConfigError(f"seed must be between 0 and {2**31 - 1}, not {seed}.")
        factory, replay = resolve(environment, config.environment), config.replay
        if replay.memory_map is not None:  # the environment may change the current directory
            replay = replace(replay, memory_map=str(Path(replay.memory_map).absolute()))
        config = replace(config, environment=factory.config, replay=replay)
        return Experiment(factory, config, seed, steps, torch.device(device))

    @property
    def last_step(self) -> int:
        """What the clock shows at the end of training."""
        return self.config.last_step(self.steps)
