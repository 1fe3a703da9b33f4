"""Categorical keys: Discrete, MultiDiscrete, MultiBinary, short integer Boxes. One token, a channel per entry."""

from __future__ import annotations

from typing import Any, Self, final

import numpy as np
from gymnasium import Space, spaces

from worldstream.modalities.integers import IntegerModality, integer_bounds, is_integer_box

_STRIP_HEIGHT = 16
_STRIP_WIDTH = 256
_MAX_STRIPS = 32
_CHOSEN, _EVEN, _ODD = (63, 185, 80), (33, 38, 45), (48, 54, 61)


@final
class Categorical(IntegerModality):
    """C small integers. Stored (C,); loaded as int64 ids (..., 1, C)."""

    name = "categorical"

    @classmethod
    def matches(cls, space: Space[Any]) -> bool:
        if isinstance(space, spaces.MultiDiscrete) or is_integer_box(space):
            return len(space.shape or ()) <= 1
        return isinstance(space, spaces.Discrete | spaces.MultiBinary)

    @classmethod
    def from_space(cls, key: str, space: Space[Any], options: tuple[int, ...] = ()) -> Self:
        low, high = integer_bounds(key, space)
        return cls._described(key, space, (low.ravel(), high.ravel()), options)

    def render(self, stored: np.ndarray) -> np.ndarray:
        """One strip per channel, cut into as many cells as the channel has values; the present one is green."""
        strips = []
        pixels = np.arange(_STRIP_WIDTH)
        for index, size in list(zip(np.asarray(stored), self.spec.vocabulary, strict=True))[:_MAX_STRIPS]:
            cells = pixels * size // _STRIP_WIDTH
            strip = np.where((cells % 2 == 0)[:, None], np.array(_EVEN), np.array(_ODD))
            # With more values than pixels a cell may have no pixel of its own: mark the nearest.
            strip[(cells == index) | (pixels == int(index) * _STRIP_WIDTH // size)] = _CHOSEN
            strips.append(np.repeat(strip[None], _STRIP_HEIGHT, axis=0))
            strips.append(np.zeros((2, _STRIP_WIDTH, 3), strip.dtype))
        return np.concatenate(strips[:-1]).astype(np.uint8)
