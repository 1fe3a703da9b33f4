"""The suites by name. A suite says which environment names are its own and how to make them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from worldstream.environments.config import EnvironmentConfig
from worldstream.environments.flat import FlatEnvironment
from worldstream.registry import Registry

EnvironmentName = str | Callable[..., Any]
"""A name, or from Python a function that returns a Gymnasium environment."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A family of environments that are made in the same way."""

    claims: Callable[[EnvironmentName], bool]
    """Whether a name belongs to this suite."""
    make: Callable[[EnvironmentName, EnvironmentConfig, str | None], FlatEnvironment]
    """(name, config, render_mode) -> environment. Raises EnvironmentFault or SpaceError."""
    example: str
    """A small environment of the suite, for tests and documentation."""
    package: str | None = None
    """Package that an optional extra must install; None when the core suffices."""
    action_repeat: int = 1
    """Frames for which an action is repeated where ``EnvironmentConfig`` does not say it."""
    preset: str = "demo"
    """Configuration that suits its environments, for who names none; ``make demo`` runs that of the others."""
    identity: Callable[[str], str] = str
    """The same for every spelling of the name of one environment."""


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
