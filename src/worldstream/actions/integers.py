"""Leaves of integers: Discrete, MultiDiscrete, MultiBinary and bounded Boxes of integers, one token for each entry."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from gymnasium import Space, spaces

from worldstream.actions.base import ActionKind, numeric
from worldstream.errors import SpaceError
from worldstream.specs import ActionComponent

MAX_VALUES = 1024
"""Largest number of values of one entry of an integer Box; above it, a choice among all of them is hopeless."""


class IntegerKind(ActionKind):
    """Id 0 of each token stands for ``component.low`` (absent: 0)."""

    def encode(self, component: ActionComponent, action: Any) -> np.ndarray:
        array = numeric(component, action)
        if (array != np.rint(array)).any():
            raise SpaceError(f"action '{component.path}' must be integers, but got {action!r}.")
        if array.dtype.kind == "f":
            array = np.clip(array.astype(np.float64), -(2.0**53), 2.0**53)  # so that the cast cannot overflow
        ids: np.ndarray = array.ravel().astype(np.int64) - _start(component)
        if (ids < 0).any() or (ids >= np.asarray(component.sizes)).any():
            raise SpaceError(f"action '{component.path}' is outside of its space: {action!r}.")
        return ids

    def decode(self, component: ActionComponent, ids: np.ndarray) -> Any:
        return (ids + _start(component)).astype(component.dtype).reshape(component.shape)


@final
class Discrete(IntegerKind):
    """A choice among n; decoded to a NumPy integer, as the space samples it."""

    def matches(self, space: Space[Any]) -> bool:
        return isinstance(space, spaces.Discrete)

    def component_from_space(self, path: str, space: Space[Any], num_levels: int) -> ActionComponent:
        assert isinstance(space, spaces.Discrete)
        return _component("discrete", path, space, np.asarray(space.start), np.asarray(space.n))

    def decode(self, component: ActionComponent, ids: np.ndarray) -> Any:
        return super().decode(component, ids)[()]


@final
class MultiBinary(IntegerKind):
    """Switches that are on or off independently of each other."""

    def matches(self, space: Space[Any]) -> bool:
        return isinstance(space, spaces.MultiBinary)

    def component_from_space(self, path: str, space: Space[Any], num_levels: int) -> ActionComponent:
        low = np.zeros(space.shape or ())
        return _component("multi_binary", path, space, low, low + 2)


@final
class MultiDiscrete(IntegerKind):
    """Several choices at once. The entries of an integer Box are ordinal, those of a MultiDiscrete are not."""

    def matches(self, space: Space[Any]) -> bool:
        if isinstance(space, spaces.Box):
            return np.dtype(space.dtype).kind in "iub"
        return isinstance(space, spaces.MultiDiscrete)

    def component_from_space(self, path: str, space: Space[Any], num_levels: int) -> ActionComponent:
        if isinstance(space, spaces.MultiDiscrete):
            return _component("multi_discrete", path, space, np.asarray(space.start), space.nvec)
        assert isinstance(space, spaces.Box)
        sizes = space.high.astype(np.float64) - space.low.astype(np.float64) + 1  # the difference may overflow
        if (sizes > MAX_VALUES).any():
            raise SpaceError(
                f"action '{path}': {space} has more than {MAX_VALUES} values per entry. Wrap the environment so "
                "that it takes a Box of floats or a smaller range (gymnasium.wrappers.TransformAction)."
            )
        return _component("multi_discrete", path, space, space.low, sizes)


def _component(kind: str, path: str, space: Space[Any], low: np.ndarray, sizes: np.ndarray) -> ActionComponent:
    """Entries with lowest values ``low`` and numbers of values ``sizes``, both of the space's shape."""
    return ActionComponent(
        path=path,
        kind=kind,
        sizes=tuple(int(size) for size in sizes.ravel()),
        shape=low.shape,
        dtype=str(space.dtype),
        low=tuple(float(value) for value in low.ravel()) if low.any() else (),
        ordinal=isinstance(space, spaces.Box),
    )


def _start(component: ActionComponent) -> np.ndarray:
    """int64: the values that id 0 of each token stands for; (m,), or () where all are 0."""
    return np.asarray(component.low or 0, dtype=np.int64)
