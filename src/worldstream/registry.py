"""A registry is one dictionary literal: name -> "module:Class". Components are imported when they are first chosen.

The line in that dictionary is all that enrols a component: the command line offers it, and the contract tests of
its family run over it.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from worldstream.errors import ConfigError


class Registry(Mapping[str, Any]):
    """Lazily imported components of one family.

    Args:
        family: what the components are, in the singular ("tokenizer"); used in error messages.
        entries: name -> "module:attribute".
    """

    def __init__(self, family: str, entries: dict[str, str]) -> None:
        self.family = family
        self._entries = entries

    def __getitem__(self, name: str) -> Any:
        """Import and return the component. Raises ConfigError, with the nearest names, when there is none."""
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"unknown {self.family} '{name}'.{hint} Available: {', '.join(sorted(self._entries))}.")
        module, attribute = self._entries[name].split(":")
        return getattr(importlib.import_module(module), attribute)

    def name_of(self, component: Any) -> str:
        """Under which name a component is registered. KeyError when it is not."""
        module, attribute = component.__module__, component.__qualname__
        for name, entry in self._entries.items():
            if entry == f"{module}:{attribute}":
                return name
        raise KeyError(f"{module}:{attribute}")

    def __contains__(self, name: object) -> bool:
        """Whether there is such a component; imports nothing."""
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
