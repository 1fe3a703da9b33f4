"""MultiBinary of any shape: one token of two values per entry."""

from __future__ import annotations

import math
from typing import Any, final

import numpy as np
from gymnasium import Space, spaces

from worldstream.actions.base import ActionKind, integers
from worldstream.specs import ActionComponent


@final
class MultiBinary(ActionKind):
    """Switches that are on or off independently of each other."""

    def matches(self, space: Space[Any]) -> bool:
        return isinstance(space, spaces.MultiBinary)

    def component_from_space(self, path: str, space: Space[Any], num_levels: int) -> ActionComponent:
        assert isinstance(space, spaces.MultiBinary)
        sizes = (2,) * math.prod(space.shape)
        return ActionComponent(
            path=path, kind="multi_binary", sizes=sizes, shape=tuple(space.shape), dtype=str(space.dtype)
        )

    def encode(self, component: ActionComponent, action: Any) -> np.ndarray:
        return integers(component, action)

    def decode(self, component: ActionComponent, ids: np.ndarray) -> Any:
        return ids.astype(component.dtype).reshape(component.shape)
