"""Columns of rows that are allocated as they are needed, up to a fixed capacity."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from worldstream.errors import ConfigError

Columns = dict[str, tuple[tuple[int, ...], DTypeLike]]
"""Name -> (shape of one item, dtype)."""

_FIRST_ROWS = 1024
_ZEROS = 1 << 22


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
        folder: where to keep the columns, in nameless files that are mapped into memory and vanish with the process.
            All of the capacity is then reserved on the disk at once, for a mapping cannot report a full disk later.
            None: in memory.

    Growing raises ConfigError when the disk has too little room, or the folder cannot be used.
    """

    def __init__(self, columns: Columns, capacity: int, folder: Path | None = None) -> None:
        self.capacity = capacity
        self._folder = folder
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
        while self._folder is None and (half := -(-size // 2)) >= max(num_rows, _FIRST_ROWS):
            size = half
        for name, old in self._arrays.items():
            new = self._allocate((size, *old.shape[1:]), old.dtype)
            new[: len(old)] = old
            self._arrays[name] = new
        self.num_rows = size

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        if self._folder is None:
            return np.zeros(shape, dtype)
        num_bytes = math.prod(shape) * dtype.itemsize
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder) as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, num_bytes)
                else:  # macOS: only what is written is reserved
                    for start in range(0, num_bytes, _ZEROS):
                        file.write(bytes(min(_ZEROS, num_bytes - start)))
                    file.flush()
                return np.memmap(file, dtype, "r+", shape=shape)
        except OSError as error:
            raise ConfigError(
                f"replay cannot reserve {num_bytes / 1e6:.0f} MB in {self._folder}: {error.strerror or error}. "
                "Lower replay.max_steps or replay.max_bytes, or choose another folder as replay.memory_map."
            ) from error
