"""Making Gymnasium environments by id or by calling a function, with messages that name the remedy."""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.wrappers import TimeLimit

from worldstream.environments.config import EnvironmentConfig
from worldstream.environments.flat import FlatEnvironment
from worldstream.environments.wrappers import ActionRepeat, QuietReset
from worldstream.errors import FOREIGN, EnvironmentFault, let_person_through


def make_registered(
    name: str, gym_id: str, config: EnvironmentConfig, render_mode: str | None, *, quiet: bool = False
) -> FlatEnvironment:
    """Make an environment by its registered id; ``name`` is what messages call it, ``quiet`` swallows what it prints.

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
    except FOREIGN as error:
        let_person_through(error)
        raise EnvironmentFault(
            f"environment '{name}' cannot be made: {type(error).__name__}: {error}.{_given(config)}"
        ) from error
    return _flat(name, QuietReset(made) if quiet else made, config)


def make_from(
    name: str, factory: Callable[..., Any], config: EnvironmentConfig, render_mode: str | None
) -> FlatEnvironment:
    """Make an environment by calling ``factory(**config.kwargs)``; ``name`` is what messages call it.

    ``render_mode`` is handed over only when it is asked for and the factory takes it.
    """
    kwargs = dict(config.kwargs)
    with contextlib.suppress(ValueError):  # some builtins have no signature
        if render_mode is not None and "render_mode" in inspect.signature(factory).parameters:
            kwargs.setdefault("render_mode", render_mode)
    try:
        made = factory(**kwargs)
    except FOREIGN as error:
        let_person_through(error)
        raise EnvironmentFault(
            f"environment '{name}': its factory raised {type(error).__name__}: {error}.{_given(config)}"
        ) from error
    if config.max_episode_steps is not None and isinstance(made, gymnasium.Env):
        made = TimeLimit(made, config.max_episode_steps)
    return _flat(name, made, config)


def _flat(name: str, made: Any, config: EnvironmentConfig) -> FlatEnvironment:
    """Repeat actions as the options say. FlatEnvironment refuses what is no environment."""
    num_frames = config.action_repeat or 1
    if num_frames > 1 and isinstance(made, gymnasium.Env):
        made = ActionRepeat(made, num_frames)
    return FlatEnvironment(made, config, name)


def nearest(name: str, choices: list[str]) -> str:
    """A sentence with the choices that resemble a name, or nothing."""
    near = difflib.get_close_matches(name, choices, n=3)
    return f" Nearest names: {', '.join(near)}." if near else ""


def _given(config: EnvironmentConfig) -> str:
    """What the environment was given, for it may be meant for another one."""
    return f" It was given environment.kwargs {config.kwargs}, by the preset or by you." if config.kwargs else ""
