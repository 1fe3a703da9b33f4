"""Any Gymnasium environment: a registered id, "module:factory", "module:Id-v0", or a function from Python."""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import gymnasium

from worldstream.environments.config import EnvironmentConfig
from worldstream.environments.flat import FlatEnvironment
from worldstream.environments.making import make_from, make_registered, nearest
from worldstream.environments.suites import EnvironmentName, Suite
from worldstream.errors import EnvironmentFault


@dataclass(frozen=True, kw_only=True)
class AnyEnvironment(Suite):
    """Takes whatever the other suites do not claim."""

    def claims(self, name: EnvironmentName) -> bool:
        return True

    def make(self, name: EnvironmentName, config: EnvironmentConfig, render_mode: str | None) -> FlatEnvironment:
        if callable(name):
            return make_from(getattr(name, "__qualname__", type(name).__qualname__), name, config, render_mode)
        if not isinstance(name, str):
            raise EnvironmentFault(
                f"{type(name).__qualname__} object: give a name, or a function that makes an environment, such as "
                "lambda: gym.make('CartPole-v1'); every worker makes its own."
            )
        if ":" not in name:
            return make_registered(name, name, config, render_mode)
        module_name, _, attribute = name.partition(":")
        module = _import(name, module_name)
        factory = getattr(module, attribute, None)
        if callable(factory):
            return make_from(name, factory, config, render_mode)
        if attribute in gymnasium.registry:  # importing the module registered it
            return make_registered(name, attribute, config, render_mode)
        public = [entry for entry in vars(module) if not entry.startswith("_") and callable(getattr(module, entry))]
        raise EnvironmentFault(
            f"environment '{name}': module '{module_name}' has no function or class '{attribute}' and registers no "
            f"such id.{nearest(attribute, public)}"
        )

    def identity(self, name: str) -> str:
        """A registered id without the module that registers it; a "module:factory" as it is."""
        last = name.rpartition(":")[2]
        return name if last.isidentifier() else last


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


def _import(name: str, module_name: str) -> ModuleType:
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


SUITE = AnyEnvironment(example="CartPole-v1")
