"""Any Gymnasium environment: a registered id, "module:factory", "module:Id-v0", or a function from Python."""

from __future__ import annotations

from dataclasses import dataclass

import gymnasium

from worldstream.environments.config import EnvironmentConfig
from worldstream.environments.flat import FlatEnvironment
from worldstream.environments.making import make_from, make_registered, nearest
from worldstream.environments.modules import import_user_module
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
        module = import_user_module(name, module_name)
        factory = getattr(module, attribute, None) if attribute.isidentifier() else None
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


SUITE = AnyEnvironment(example="CartPole-v1")
