"""Whole observations: a nested Dict/Tuple space becomes a flat dictionary of keys, each with its modality.

Keys are paths joined by "/", a tuple contributes its index ("robot/0"); a space without keys has the one key
"observation".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
from gymnasium import Space, spaces

from worldstream.errors import EnvironmentFault, SpaceError
from worldstream.modalities.base import Modality
from worldstream.modalities.registry import MODALITIES, build
from worldstream.specs import KeySpec

ROOT_KEY = "observation"
_IGNORE = "ignore"


class ObservationAdapter:
    """Stores whole observations: modalities by flat key, in the order of the observation space.

    Flat keys that are ``ignored`` are dropped; None when they are not known, and any further key is then dropped.
    """

    def __init__(self, modalities: dict[str, Modality], ignored: frozenset[str] | None) -> None:
        self.modalities = modalities
        self._ignored = ignored

    @classmethod
    def from_space(
        cls,
        space: Space[Any],
        overrides: Mapping[str, str] | None = None,
        sizes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> Self:
        """Choose a modality for every leaf of an observation space, any nesting of Dict and Tuple.

        ``overrides`` are flat key -> "kind", "kind:11,6,4" or "ignore", and ``sizes`` modality -> the numbers that keys
        of it get where no override gives any. Raises SpaceError for a leaf that no modality can express, and an
        override with an unknown key or kind.
        """
        overrides, leaves = overrides or {}, leaves_of(space)
        if unknown := [key for key in overrides if key not in leaves]:
            raise SpaceError(
                f"no observation key '{unknown[0]}' to choose a modality for. "
                f"Keys of this environment: {', '.join(leaves)}."
            )
        modalities = {}
        for key, leaf in leaves.items():
            kind, options = parse_override(key, overrides.get(key, ""))
            if kind != _IGNORE:
                modalities[key] = _modality(key, leaf, kind, options, sizes or {})
        if not modalities:
            raise SpaceError(f"no observation key is left to learn from: {space} with overrides {dict(overrides)}.")
        return cls(modalities, frozenset(leaves) - frozenset(modalities))

    @classmethod
    def from_specs(cls, specs: Mapping[str, KeySpec]) -> Self:
        """Rebuild an adapter from stored specs; keys that they do not name are dropped from observations."""
        return cls({key: build(spec) for key, spec in specs.items()}, ignored=None)

    @property
    def specs(self) -> dict[str, KeySpec]:
        """Spec by flat key."""
        return {key: modality.spec for key, modality in self.modalities.items()}

    def store(self, observation: Any) -> dict[str, np.ndarray]:
        """Convert one raw observation to stored arrays by flat key.

        Raises EnvironmentFault when a key is missing or not in the space, or its value is not valid.
        """
        flat = dict(self._flatten(observation))
        if missing := [key for key in self.modalities if key not in flat]:
            raise EnvironmentFault(
                f"the observation lacks key '{missing[0]}' (it has: {', '.join(flat) or 'none'}). "
                "Return every key of the observation space from reset() and step()."
            )
        known = flat if self._ignored is None else self._ignored.union(self.modalities)
        if extra := [key for key in flat if key not in known]:
            raise EnvironmentFault(
                f"the observation has key '{extra[0]}', which its space lacks. "
                "Add it to the observation space or leave it out."
            )
        return {key: modality.store(flat[key]) for key, modality in self.modalities.items()}

    def _flatten(self, value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
        """Leaves of an observation by path; descends until a path is a known key, so leaves may be lists."""
        known = path in self.modalities or (self._ignored is not None and path in self._ignored)
        if path and known:
            yield path, value
        elif isinstance(value, Mapping):
            for name, child in value.items():
                yield from self._flatten(child, _join(path, name))
        elif isinstance(value, tuple | list) and (path or ROOT_KEY not in self.modalities):
            for index, child in enumerate(value):
                yield from self._flatten(child, _join(path, index))
        else:
            yield path or ROOT_KEY, value


def leaves_of(space: Space[Any]) -> dict[str, Space[Any]]:
    """Leaf spaces by flat key. Raises SpaceError when two leaves would share a key."""
    flat: dict[str, Space[Any]] = {}

    def visit(path: str, node: Space[Any]) -> None:
        if isinstance(node, spaces.Dict):
            for name, child in node.spaces.items():
                visit(_join(path, name), child)
        elif isinstance(node, spaces.Tuple):
            for index, child in enumerate(node.spaces):
                visit(_join(path, index), child)
        elif path in flat:
            raise SpaceError(f"two parts of the observation space are both called '{path}'. Rename one of them.")
        else:
            flat[path or ROOT_KEY] = node

    visit("", space)
    return flat


def _join(path: str, name: object) -> str:
    return f"{path}/{name}" if path else str(name)


def parse_override(key: str, override: str) -> tuple[str, tuple[int, ...]]:
    """Split "kind:1,2" into ("kind", (1, 2)); "" means that the modality follows from the space."""
    kind, colon, numbers = override.partition(":")
    if override and kind != _IGNORE and kind not in MODALITIES:
        choices = ", ".join([*MODALITIES, _IGNORE])
        raise SpaceError(f"observation key '{key}': unknown modality '{kind}'. Choose one of: {choices}.")
    try:
        options = tuple(int(number) for number in numbers.split(",")) if colon else ()
    except ValueError:
        raise SpaceError(
            f"observation key '{key}': cannot read '{override}'. Write a modality, or one with sizes such as "
            f"'grid:11,6,4'."
        ) from None
    if kind == _IGNORE and colon:
        raise SpaceError(f"observation key '{key}': 'ignore' takes no numbers.")
    return kind, options


def _modality(
    key: str, space: Space[Any], kind: str, options: tuple[int, ...], sizes: Mapping[str, tuple[int, ...]]
) -> Modality:
    if space.shape is not None and math.prod(space.shape) == 0:
        raise SpaceError(f"observation key '{key}': {space} is empty. Leave it out: --modality {key}={_IGNORE}.")
    if not kind:
        for candidate in MODALITIES.values():
            if remedy := candidate.missed_by(space):
                raise SpaceError(
                    f"observation key '{key}': {space} {remedy}, or say what else it is: --modality {key}=vector."
                )
        kind = next((name for name, modality in MODALITIES.items() if modality.matches(space)), "")
    if not kind:
        raise SpaceError(
            f"observation key '{key}': no modality can express {space}. "
            f"Leave it out (--modality {key}={_IGNORE}) or convert it in a wrapper to a Box, Discrete, MultiDiscrete "
            f"or MultiBinary. Integer Boxes of any shape can be read with --modality {key}=vector."
        )
    modality: Modality = MODALITIES[kind].from_space(key, space, options or sizes.get(kind, ()))
    return modality
