"""An environment, resolved once: everything that makes, names or records one is given an ``EnvironmentFactory``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from worldstream import options
from worldstream.environments.config import EnvironmentConfig
from worldstream.environments.flat import FlatEnvironment
from worldstream.environments.suites import ENVIRONMENTS, EnvironmentName, Suite, suite_of

UNNAMED = "function "
"""Begins the recorded name of an environment that was a Python function to which no name leads."""


@dataclass(frozen=True)
class EnvironmentFactory:
    """Makes one environment, as often as it is needed; ``resolve`` finds its suite and fills in its options."""

    source: EnvironmentName
    """Name, or function that returns a Gymnasium environment."""
    config: EnvironmentConfig
    """Options, with what the suite decides filled in."""
    suite_name: str
    """One of ``ENVIRONMENTS``."""
    was_made: bool = False
    """Whether it was made before: then failing to be made is a fault that may pass, and it is tried again."""

    @property
    def suite(self) -> Suite:
        """The family of environments that this one belongs to."""
        suite: Suite = ENVIRONMENTS[self.suite_name]
        return suite

    @property
    def label(self) -> str:
        """What messages call the environment."""
        return self.source if isinstance(self.source, str) else getattr(self.source, "__qualname__", repr(self.source))

    @property
    def recorded_name(self) -> str:
        """How a run folder records the environment: its name, "module:function" of a function that can be imported
        again, or ``UNNAMED`` and what it is called for one that cannot (a lambda, a class of the running script)."""
        source = self.source
        if isinstance(source, str):
            return source
        module, name = getattr(source, "__module__", ""), getattr(source, "__qualname__", "")
        if module != "__main__" and getattr(sys.modules.get(module), name, None) is source:
            return f"{module}:{name}"
        return UNNAMED + (name or type(source).__qualname__)

    @property
    def action_repeat(self) -> int:
        """Frames of one environment step."""
        return self.config.action_repeat or 1

    def for_evaluation(self) -> EnvironmentFactory:
        """The same environment with the keyword arguments of evaluation."""
        return replace(self, config=self.config.for_evaluation())

    def make(self, render_mode: str | None = None) -> FlatEnvironment:
        """Make the environment, with Gymnasium's ``render_mode``; raises as ``Suite.make``."""
        return self.suite.make(self.source, self.config, render_mode)


def resolve(source: EnvironmentName, config: EnvironmentConfig | None = None) -> EnvironmentFactory:
    """Find the suite of an environment, and let it decide the options that are left open.

    ``source`` is "clock", "keys", "cameras", "MiniGrid-...", "BabyAI-...", an Atari game, a Gymnasium id,
    "module:factory", or a function that returns a ``gymnasium.Env``. Raises ConfigError for options out of bounds.
    """
    name, suite = suite_of(source)
    config = config or EnvironmentConfig()
    options.check(config, "environment")
    if config.action_repeat is None:
        config = replace(config, action_repeat=suite.action_repeat)
    return EnvironmentFactory(source, config, name)


def make_environment(
    source: EnvironmentName, config: EnvironmentConfig | None = None, render_mode: str | None = None
) -> FlatEnvironment:
    """Resolve an environment and make it once; see ``resolve`` and ``EnvironmentFactory.make``."""
    return resolve(source, config).make(render_mode)
