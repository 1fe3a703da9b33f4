"""MultiDiscrete of any shape, and bounded integer Boxes: one token per entry."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from gymnasium import Space, spaces

from worldstream.actions.base import IntegerKind, start_of
from worldstream.errors import SpaceError
from worldstream.specs import ActionComponent

MAX_VALUES = 1024
"""Largest number of values of one entry of an integer Box; above it, a choice among all of them is hopeless."""


@final
class MultiDiscrete(IntegerKind):
    """Several choices at once. The entries of an integer Box are ordinal, those of a MultiDiscrete are not."""

    def matches(self, space: Space[Any]) -> bool:
        if isinstance(space, spaces.Box):
            return np.dtype(space.dtype).kind in "iub"
        return isinstance(space, spaces.MultiDiscrete)

    def component_from_space(self, path: str, space: Space[Any], num_levels: int) -> ActionComponent:
        if isinstance(space, spaces.MultiDiscrete):
            low, sizes = np.asarray(space.start), space.nvec
        else:
            assert isinstance(space, spaces.Box)
            low = space.low
            sizes = space.high.astype(np.float64) - space.low.astype(np.float64) + 1  # the difference may overflow
            if (sizes > MAX_VALUES).any():
                raise SpaceError(
                    f"action '{path}': {space} has more than {MAX_VALUES} values per entry. Wrap the environment so "
                    "that it takes a Box of floats or a smaller range (gymnasium.wrappers.TransformAction)."
                )
        return ActionComponent(
            path=path,
            kind="multi_discrete",
            sizes=tuple(int(size) for size in sizes.ravel()),
            shape=tuple(low.shape),
            dtype=str(space.dtype),
            low=start_of(low),
            ordinal=isinstance(space, spaces.Box),
        )
