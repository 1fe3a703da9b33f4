"""GymSuite: a suite that a package registers with Gymnasium, told by data alone."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import gymnasium

from worldstream.environments.config import EnvironmentConfig
from worldstream.environments.flat import FlatEnvironment
from worldstream.environments.making import make_registered
from worldstream.environments.suites import EnvironmentName, Suite
from worldstream.errors import EnvironmentFault


@dataclass(frozen=True, kw_only=True)
class GymSuite(Suite):
    """Environments that a package registers with Gymnasium under ids of common prefixes."""

    prefixes: tuple[str, ...]
    """Beginnings of the ids."""
    register: str = ""
    """Module that registers the environments when it is imported, or "module:function" that does when it is called.
    Empty: the package, where there is one."""
    modality: Mapping[str, str] = field(default_factory=dict)
    """Observation key -> modality, as in ``EnvironmentConfig``, whose own entries win."""
    quiet: bool = False
    """Whether what importing the package and resetting an environment print is swallowed."""

    def claims(self, name: EnvironmentName) -> bool:
        """Ids of the prefixes; "module:Id" is nobody's here, whatever the module is called."""
        return isinstance(name, str) and name.startswith(self.prefixes) and ":" not in name

    def make(self, name: EnvironmentName, config: EnvironmentConfig, render_mode: str | None) -> FlatEnvironment:
        assert isinstance(name, str)
        self._register(name)
        config = replace(config, modality={**self.modality, **config.modality})
        return make_registered(name, name, config, render_mode, quiet=self.quiet)

    def _register(self, name: str) -> None:
        """Have the package register its environments. Raises EnvironmentFault when it is not installed."""
        module, _, function = (self.register or self.package or "gymnasium").partition(":")
        with contextlib.ExitStack() as stack:
            if self.quiet:
                stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            try:
                imported = importlib.import_module(module)
            except ImportError as error:
                raise EnvironmentFault(
                    f"environment '{name}' needs {self.package}, which is not installed. Run: {self.installation}"
                ) from error
            if function and name not in gymnasium.registry:
                getattr(imported, function)()
