"""Grids: a table of cells, each of C small integers. One token per cell, row by row."""

from __future__ import annotations

from typing import Any, Self, final

import numpy as np
from gymnasium import Space, spaces

from worldstream.errors import SpaceError
from worldstream.modalities.integers import IntegerModality, integer_bounds, is_integer_box

_PICTURE_SIDE = 128
_PALETTE = np.array(
    [
        (16, 16, 20), (90, 98, 110), (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40),
        (148, 103, 189), (140, 86, 75), (227, 119, 194), (188, 189, 34), (23, 190, 207), (240, 240, 240),
    ],
    dtype=np.float64,
)  # fmt: skip


@final
class Grid(IntegerModality):
    """rows x columns cells of C integers. Stored (rows * columns, C); loaded as int64 ids (..., K, C).

    A matrix is rows x columns cells of one integer, or, when it is given the sizes of all its columns, a column of
    cells that each row describes. A list is one row of cells, when it is said to be a grid: a token for each entry.
    """

    name = "grid"

    @classmethod
    def matches(cls, space: Space[Any]) -> bool:
        return (isinstance(space, spaces.MultiDiscrete) or is_integer_box(space)) and len(space.shape or ()) in (2, 3)

    @classmethod
    def from_space(cls, key: str, space: Space[Any], options: tuple[int, ...] = ()) -> Self:
        low, high = integer_bounds(key, space)
        if low.ndim not in (1, 2, 3):
            raise SpaceError(
                f"observation key '{key}': a grid has shape (cells,), (rows, columns) or (rows, columns, channels), "
                f"but the space is {space}. Use '{key}=categorical'."
            )
        if low.ndim == 2 and len(options) == low.shape[1] > 1:
            low, high = low[:, None], high[:, None]
        channels = low.shape[2] if low.ndim == 3 else 1
        rows, columns = low.shape[:2] if low.ndim > 1 else (1, len(low))
        bounds = low.reshape(-1, channels).min(axis=0), high.reshape(-1, channels).max(axis=0)
        return cls._described(key, space, bounds, options, grid=(rows, columns))

    def render(self, stored: np.ndarray) -> np.ndarray:
        """A coloured square per cell: the first channel sets most of the colour, each further one half as much."""
        assert self.spec.grid is not None
        rows, columns = self.spec.grid
        weights = 0.5 ** np.arange(len(self.spec.vocabulary))
        colours = _PALETTE[np.asarray(stored, dtype=np.int64) % len(_PALETTE)]  # (K, C, 3)
        mixed = np.einsum("kcr,c->kr", colours, weights / weights.sum())
        scale = max(1, _PICTURE_SIDE // max(rows, columns))
        picture: np.ndarray = np.rint(mixed).astype(np.uint8).reshape(rows, columns, 3)
        return picture.repeat(scale, axis=0).repeat(scale, axis=1)
