"""Any Gymnasium environment: a registered id, "module:factory", "module:Id-v0", or a function from Python."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium

from worldstream.environments.config import EnvironmentConfig
from worldstream.environments.flat import FlatEnvironment
from worldstream.environments.suites import EnvironmentName, Suite
from worldstream.environments.wrappers import wrap
from worldstream.errors import EnvironmentFault


def make(name: EnvironmentName, config: EnvironmentConfig, render_mode: str | None = None) -> FlatEnvironment:
    """Make an environment by id, by "module:factory", or by calling ``name``.

    Raises:
        EnvironmentFault: unknown id, module or factory, or one that fails or makes no ``gymnasium.Env``.
        SpaceError: a space that is not supported.
    """
    if callable(name):
        return make_from(getattr(name, "__qualname__", type(name).__qualname__), name, config, render_mode)
    if not isinstance(name, str):
        raise EnvironmentFault(
            f"{type(name).__qualname__} object: give a name, or a function that makes an environment, such as "
            "lambda: gym.make('CartPole-v1'); every worker makes its own."
        )
    if ":" not in name:
        environment = make_registered(name, name, config, render_mode)
        return FlatEnvironment(wrap(environment, config, time_limit=False), config, name)
    module_name, _, attribute = name.partition(":")
    module = _import(name, module_name)
    factory = getattr(module, attribute, None)
    if callable(factory):
        return make_from(name, factory, config, render_mode)
    if attribute in gymnasium.registry:  # importing the module registered it
        environment = make_registered(name, attribute, config, render_mode)
        return FlatEnvironment(wrap(environment, config, time_limit=False), config, name)
    public = [entry for entry in vars(module) if not entry.startswith("_") and callable(getattr(module, entry))]
    raise EnvironmentFault(
        f"environment '{name}': module '{module_name}' has no function or class '{attribute}' and registers no such "
        f"id.{_nearest(attribute, public)}"
    )


def make_from(
    name: str, factory: Callable[..., Any], config: EnvironmentConfig, render_mode: str | None
) -> FlatEnvironment:
    """Make an environment by calling ``factory(**config.kwargs)``; ``name`` is what messages call it."""
    return FlatEnvironment(wrap(call(name, factory, config, render_mode), config), config, name)


def make_registered(name: str, gym_id: str, config: EnvironmentConfig, render_mode: str | None) -> Any:
    """``gymnasium.make`` with messages that name the remedy: the raw environment, limited to its maximal steps.

    Raises:
        EnvironmentFault: unknown id (``name`` is how the user wrote it), or an environment that cannot be made.
    """
    limit = {} if config.max_episode_steps is None else {"max_episode_steps": config.max_episode_steps}
    try:
        # Gymnasium's passive checker warns; FlatEnvironment checks every call and says what is wrong.
        return gymnasium.make(gym_id, render_mode=render_mode, disable_env_checker=True, **limit, **config.kwargs)
    except gymnasium.error.UnregisteredEnv:
        raise EnvironmentFault(
            f"unknown environment '{name}'.{_nearest(gym_id, list(gymnasium.registry))} Give the id of a registered "
            f"Gymnasium environment (ids of other packages: 'package:Id-v0') or 'module:factory'."
        ) from None
    except gymnasium.error.DependencyNotInstalled as error:
        raise EnvironmentFault(f"environment '{name}' needs a package that is not installed: {error}") from error
    except Exception as error:
        raise EnvironmentFault(
            f"environment '{name}' cannot be made: {type(error).__name__}: {error}.{_given(config)}"
        ) from error


def require_harmless(name: str) -> None:
    """Refuse a name, read from a file, that would call anything but an environment.

    A run folder from elsewhere may name any function of any installed package, and its arguments. Taken are registered
    environments, classes of environments, and functions of modules that are not installed: those are the user's own.

    Raises EnvironmentFault.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon:
        return
    module = _import(name, module_name)
    found = getattr(module, attribute, None)
    is_environment = isinstance(found, type) and issubclass(found, gymnasium.Env)
    file = getattr(module, "__file__", None)
    installed = [sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
    is_installed = file is None or any(Path(file).resolve().is_relative_to(Path(path).resolve()) for path in installed)
    if found is not None and is_installed and not is_environment:
        raise EnvironmentFault(
            f"environment '{name}', which the run recorded, is a function of an installed package. Confirm that it "
            f"makes the environment: --env {name}"
        )


def _import(name: str, module_name: str) -> Any:
    """Import a user's module, also from the current directory."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise EnvironmentFault(
                f"environment '{name}': there is no module '{module_name}', neither installed nor in the current "
                f"directory. Write 'module:factory', with dots between packages."
            ) from None
        raise EnvironmentFault(f"environment '{name}': importing '{module_name}' failed: {error}") from error
    except Exception as error:
        raise EnvironmentFault(
            f"environment '{name}': importing '{module_name}' raised {type(error).__name__}: {error}"
        ) from error


def call(label: str, factory: Callable[..., Any], config: EnvironmentConfig, render_mode: str | None) -> Any:
    """Call a factory; ``render_mode`` is handed over only when it is asked for and the factory takes it."""
    kwargs = dict(config.kwargs)
    if render_mode is not None and "render_mode" in _parameters(factory):
        kwargs.setdefault("render_mode", render_mode)
    try:
        return factory(**kwargs)
    except Exception as error:
        raise EnvironmentFault(
            f"environment '{label}': its factory raised {type(error).__name__}: {error}.{_given(config)}"
        ) from error


def _given(config: EnvironmentConfig) -> str:
    """What the environment was given, for it may be meant for another one."""
    return f" It was given environment.kwargs {config.kwargs}, by the preset or by you." if config.kwargs else ""


def _parameters(factory: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(factory).parameters)
    except ValueError:  # some builtins have no signature
        return ()


def _nearest(name: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(name, choices, n=3)
    return f" Nearest names: {', '.join(near)}." if near else ""


def _identity(name: str) -> str:
    """A registered id without the module that registers it; a "module:factory" as it is."""
    last = name.rpartition(":")[2]
    return name if last.isidentifier() else last


SUITE = Suite(claims=lambda name: True, make=make, example="CartPole-v1", identity=_identity)
