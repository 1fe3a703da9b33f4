"""Making Gymnasium environments by id or by calling a function, with messages that name the remedy."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import gymnasium

from worldstream.environments.config import EnvironmentConfig
from worldstream.environments.flat import FlatEnvironment
from worldstream.environments.wrappers import QuietReset, wrap
from worldstream.errors import EnvironmentFault


def make_registered(
    name: str, gym_id: str, config: EnvironmentConfig, render_mode: str | None, *, quiet: bool = False
) -> FlatEnvironment:
    """``gymnasium.make`` and the wrappers that the options ask for.

    Args:
        name: what messages call the environment.
        gym_id: registered id.
        config: options.
        render_mode: as in Gymnasium.
        quiet: whether what its reset prints is swallowed.

    Raises EnvironmentFault, for an unknown id and for an environment that cannot be made, and SpaceError.
    """
    limit = {} if config.max_episode_steps is None else {"max_episode_steps": config.max_episode_steps}
    try:
        # Gymnasium's passive checker warns; FlatEnvironment checks every call and says what is wrong.
        made: gymnasium.Env[Any, Any] = gymnasium.make(
            gym_id, render_mode=render_mode, disable_env_checker=True, **limit, **config.kwargs
        )
    except gymnasium.error.UnregisteredEnv:
        raise EnvironmentFault(
            f"unknown environment '{name}'.{nearest(gym_id, list(gymnasium.registry))} Give the id of a registered "
            f"Gymnasium environment (ids of other packages: 'package:Id-v0') or 'module:factory'."
        ) from None
    except gymnasium.error.DependencyNotInstalled as error:
        raise EnvironmentFault(f"environment '{name}' needs a package that is not installed: {error}") from error
    except Exception as error:
        raise EnvironmentFault(
            f"environment '{name}' cannot be made: {type(error).__name__}: {error}.{_given(config)}"
        ) from error
    return FlatEnvironment(wrap(QuietReset(made) if quiet else made, config, time_limit=False), config, name)


def make_from(
    name: str, factory: Callable[..., Any], config: EnvironmentConfig, render_mode: str | None
) -> FlatEnvironment:
    """Make an environment by calling ``factory(**config.kwargs)``; ``name`` is what messages call it."""
    return FlatEnvironment(wrap(call_factory(name, factory, config, render_mode), config), config, name)


def call_factory(name: str, factory: Callable[..., Any], config: EnvironmentConfig, render_mode: str | None) -> Any:
    """What a factory returns; ``render_mode`` is handed over only when it is asked for and the factory takes it."""
    kwargs = dict(config.kwargs)
    if render_mode is not None and "render_mode" in _parameters(factory):
        kwargs.setdefault("render_mode", render_mode)
    try:
        return factory(**kwargs)
    except Exception as error:
        raise EnvironmentFault(
            f"environment '{name}': its factory raised {type(error).__name__}: {error}.{_given(config)}"
        ) from error


def nearest(name: str, choices: list[str]) -> str:
    """A sentence with the choices that resemble a name, or nothing."""
    near = difflib.get_close_matches(name, choices, n=3)
    return f" Nearest names: {', '.join(near)}." if near else ""


def _given(config: EnvironmentConfig) -> str:
    """What the environment was given, for it may be meant for another one."""
    return f" It was given environment.kwargs {config.kwargs}, by the preset or by you." if config.kwargs else ""


def _parameters(factory: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(factory).parameters)
    except ValueError:  # some builtins have no signature
        return ()
