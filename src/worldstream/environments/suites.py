"""The suites by name. A suite says which environment names are its own and how to make them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium

from worldstream.environments.config import EnvironmentConfig
from worldstream.environments.flat import FlatEnvironment
from worldstream.registry import Registry

EnvironmentName = str | Callable[..., gymnasium.Env[Any, Any]]
"""A name, or from Python a function that returns a Gymnasium environment."""


@dataclass(frozen=True, kw_only=True)
class Suite(ABC):
    """A family of environments that are made in the same way."""

    example: str
    """A small environment of the suite, for tests and documentation."""
    package: str | None = None
    """Package that must be installed; None when the core suffices."""
    extra: str | None = None
    """Extra of this library that installs the package; None: it is installed by itself."""
    action_repeat: int = 1
    """Frames for which an action is repeated where ``EnvironmentConfig`` does not say it."""
    preset: str = "demo"
    """Configuration that suits its environments, for who names none; ``make demo`` runs that of the others."""

    @abstractmethod
    def claims(self, name: EnvironmentName) -> bool:
        """Whether a name belongs to this suite."""

    @abstractmethod
    def make(self, name: EnvironmentName, config: EnvironmentConfig, render_mode: str | None) -> FlatEnvironment:
        """Make an environment that the suite claims, with options that ``resolve`` has completed.

        Raises EnvironmentFault, which says what to install or to change, and SpaceError for an unsupported space.
        """

    def identity(self, name: str) -> str:
        """The same for every spelling of the name of one environment."""
        return name

    @property
    def installation(self) -> str:
        """Command that installs the package."""
        return f"pip install {f'worldstream[{self.extra}]' if self.extra else self.package}"


# Asked in this order; the last one claims whatever the others do not.
ENVIRONMENTS = Registry(
    "environment suite",
    {
        "clock": "worldstream.environments.toy.clock:SUITE",
        "keys": "worldstream.environments.toy.keys:SUITE",
        "cameras": "worldstream.environments.toy.cameras:SUITE",
        "minigrid": "worldstream.environments.suite.minigrid:SUITE",
        "atari": "worldstream.environments.suite.atari:SUITE",
        "gym": "worldstream.environments.suite.gym:SUITE",
    },
)


def suite_of(source: EnvironmentName) -> tuple[str, Suite]:
    """The suite of an environment, with its name."""
    return next((name, suite) for name, suite in ENVIRONMENTS.items() if suite.claims(source))


def same_environment(one: str, other: str) -> bool:
    """Whether two names of environments are spellings of the same."""
    (name, suite), (other_name, _) = suite_of(one), suite_of(other)
    return name == other_name and suite.identity(one) == suite.identity(other)
