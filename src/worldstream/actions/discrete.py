"""Discrete: one token, one value per id."""

from __future__ import annotations

from typing import Any, final

import numpy as np
from gymnasium import Space, spaces

from worldstream.actions.base import IntegerKind, start_of
from worldstream.specs import ActionComponent


@final
class Discrete(IntegerKind):
    """A choice among n; decoded to a NumPy integer, as the space samples it."""

    def matches(self, space: Space[Any]) -> bool:
        return isinstance(space, spaces.Discrete)

    def component_from_space(self, path: str, space: Space[Any], num_levels: int) -> ActionComponent:
        assert isinstance(space, spaces.Discrete)
        return ActionComponent(
            path=path,
            kind="discrete",
            sizes=(int(space.n),),
            shape=(),
            dtype=str(space.dtype),
            low=start_of(np.asarray(space.start)),
        )

    def decode(self, component: ActionComponent, ids: np.ndarray) -> Any:
        return super().decode(component, ids)[()]
