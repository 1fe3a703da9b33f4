"""The suites by name. A suite says which environment names are its own and how to make them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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


def resolve(name: EnvironmentName, config: EnvironmentConfig) -> EnvironmentConfig:
    """The same options with what the suite of an environment decides filled in."""
    return config if config.action_repeat is not None else replace(config, action_repeat=_suite(name).action_repeat)


def suited_preset(name: EnvironmentName) -> str:
    """Name of the preset that trains this environment where none is asked for."""
    return _suite(name).preset


def label(name: EnvironmentName) -> str:
    """What messages call an environment."""
    return name if isinstance(name, str) else getattr(name, "__qualname__", repr(name))


def same_environment(one: str, other: str) -> bool:
    """Whether two names of environments are spellings of the same."""
    suite = _suite(one)
    return suite is _suite(other) and suite.identity(one) == suite.identity(other)


def _suite(name: EnvironmentName) -> Suite:
    suite: Suite = next(suite for suite in ENVIRONMENTS.values() if suite.claims(name))
    return suite


def make_environment(
    name: EnvironmentName, config: EnvironmentConfig | None = None, render_mode: str | None = None
) -> FlatEnvironment:
    """Make any environment.

    Args:
        name: "clock", "keys", "cameras", "MiniGrid-...", "BabyAI-...", an Atari game, a Gymnasium id,
            "module:factory", or a function that returns a ``gymnasium.Env``.
        config: options; None for the defaults.
        render_mode: as in Gymnasium; "rgb_array" for pictures.

    Raises:
        EnvironmentFault: it cannot be made.
        SpaceError: one of its spaces is not supported.
    """
    return _suite(name).make(name, resolve(name, config or EnvironmentConfig()), render_mode)
