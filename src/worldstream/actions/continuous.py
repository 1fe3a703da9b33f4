"""Box of floats: each dimension is one token of equally spaced levels, the first at ``low``, the last at ``high``."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from gymnasium import Space, spaces

from worldstream.actions.base import ActionKind, numeric
from worldstream.errors import SpaceError
from worldstream.specs import ActionComponent

_UNBOUNDED = 1e30
"""Bounds at or beyond this (the largest float32 is a common stand-in for infinity) count as infinite."""


@final
class Continuous(ActionKind):
    """Levels on a line per dimension; a dimension whose bounds coincide has a single level."""

    def matches(self, space: Space[Any]) -> bool:
        return isinstance(space, spaces.Box) and np.dtype(space.dtype).kind == "f"

    def component_from_space(self, path: str, space: Space[Any], num_levels: int) -> ActionComponent:
        assert isinstance(space, spaces.Box)
        if num_levels < 2:
            raise SpaceError(f"action '{path}': a continuous action needs at least 2 levels, not {num_levels}.")
        low, high = (bound.ravel().astype(np.float64) for bound in (space.low, space.high))
        if (np.abs([low, high]) >= _UNBOUNDED).any():
            raise SpaceError(
                f"action '{path}': {space} is not bounded, so it cannot be cut into levels. Declare finite bounds in "
                "the environment, or wrap it in gymnasium.wrappers.ClipAction or gymnasium.wrappers.RescaleAction."
            )
        return ActionComponent(
            path=path,
            kind="continuous",
            sizes=tuple(np.where(high > low, num_levels, 1).tolist()),
            shape=tuple(space.shape),
            dtype=str(space.dtype),
            low=tuple(low.tolist()),
            high=tuple(high.tolist()),
            ordinal=True,
        )

    def encode(self, component: ActionComponent, action: Any) -> np.ndarray:
        """The nearest level; values beyond a bound are taken as the bound."""
        array = numeric(component, action).ravel().astype(np.float64)
        low, high = np.asarray(component.low), np.asarray(component.high)
        width = np.where(high > low, high - low, 1.0)
        fraction = (np.clip(array, low, high) - low) / width
        levels: np.ndarray = np.rint(fraction * (np.asarray(component.sizes) - 1))
        return levels.astype(np.int64)

    def decode(self, component: ActionComponent, ids: np.ndarray) -> Any:
        low, high = np.asarray(component.low), np.asarray(component.high)
        fraction = ids / np.maximum(np.asarray(component.sizes) - 1, 1)
        levels = low * (1 - fraction) + high * fraction  # exact at both ends
        return levels.astype(component.dtype).reshape(component.shape)
