"""Columns of rows that are allocated as they are needed, up to a fixed capacity."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import DTypeLike

Columns = dict[str, tuple[tuple[int, ...], DTypeLike]]
"""Name -> (shape of one item, dtype)."""

_FIRST_ROWS = 1024


def id_dtype(num_values: int) -> np.dtype:
    """The smallest dtype of {uint8, uint16, int32} that holds the ids 0 .. num_values - 1."""
    for dtype in (np.uint8, np.uint16):
        if num_values - 1 <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.int32)


class GrowingArrays:
    """Zero-initialised columns with one leading row axis.

    Sizes are the capacity halved again and again, so that growth is by doubling and ends exactly at the capacity:
    while a column is copied, the old rows and their copies together never exceed the capacity. (``np.zeros`` does
    not touch the pages behind the rows that are not yet written.)

    Args:
        columns: name -> (shape of one item, dtype).
        capacity: largest number of rows.
    """

    def __init__(self, columns: Columns, capacity: int) -> None:
        self.capacity = capacity
        self.num_rows = 0
        self._arrays = {name: np.zeros((0, *shape), dtype) for name, (shape, dtype) in columns.items()}

    @staticmethod
    def bytes_per_row_of(columns: Columns) -> int:
        """Bytes of one row of such columns."""
        return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in columns.values())

    @property
    def num_bytes(self) -> int:
        """Bytes allocated now."""
        return sum(array.nbytes for array in self._arrays.values())

    def __getitem__(self, name: str) -> np.ndarray:
        """The live column, (num_rows, ...); growing replaces it, so do not keep it."""
        return self._arrays[name]

    def ensure(self, num_rows: int) -> None:
        """Make at least ``num_rows`` rows available. Raises ValueError beyond the capacity."""
        if num_rows <= self.num_rows:
            return
        if num_rows > self.capacity:
            raise ValueError(f"{num_rows} rows asked for, the capacity is {self.capacity}")
        size = self.capacity
        while (half := -(-size // 2)) >= max(num_rows, _FIRST_ROWS):
            size = half
        for name, old in self._arrays.items():
            new = np.zeros((size, *old.shape[1:]), old.dtype)
            new[: len(old)] = old
            self._arrays[name] = new
        self.num_rows = size
