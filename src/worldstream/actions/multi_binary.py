"""MultiBinary of any shape: one token of two values per entry."""

from __future__ import annotations

import math
from typing import Any, final

from gymnasium import Space, spaces

from worldstream.actions.base import IntegerKind
from worldstream.specs import ActionComponent


@final
class MultiBinary(IntegerKind):
    """Switches that are on or off independently of each other."""

    def matches(self, space: Space[Any]) -> bool:
        return isinstance(space, spaces.MultiBinary)

    def component_from_space(self, path: str, space: Space[Any], num_levels: int) -> ActionComponent:
        assert isinstance(space, spaces.MultiBinary)
        sizes = (2,) * math.prod(space.shape)
        return ActionComponent(
            path=path, kind="multi_binary", sizes=sizes, shape=tuple(space.shape), dtype=str(space.dtype)
        )
