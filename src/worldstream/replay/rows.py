"""Rows: what one consists of, where they lie, and the serial numbers that outlive them.

N environments write in turn. A new row of environment e gets the serial number that follows its last one by N, so

    serial % N = e         row = serial % capacity         the next row of the same episode: serial + N

and each environment keeps its newest ``capacity / N`` rows. Until the first row is overwritten, rows are in use from
the beginning of the arrays on, so these may grow at their end without moving anything.
"""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import numpy as np

from worldstream.errors import ConfigError
from worldstream.specs import ActionSpec, KeySpec, smallest_dtype

Columns = dict[str, tuple[tuple[int, ...], np.dtype]]
"""Name -> (shape of one item, dtype)."""

_FIRST_ROWS = 1024
_ZEROS = 1 << 22


def bytes_per_row(columns: Columns) -> int:
    """Bytes of one row of such columns."""
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in columns.values())


class RowFormat:
    """Columns of a row: an observation and, once chosen, the action taken there with its consequences."""

    def __init__(self, key_specs: dict[str, KeySpec], action_spec: ActionSpec) -> None:
        self.observations: Columns = {key: (spec.shape, np.dtype(spec.dtype)) for key, spec in key_specs.items()}
        self._values = {key: spec.vocabulary for key, spec in key_specs.items() if spec.vocabulary}
        self._values["actions"] = action_spec.sizes
        flag = np.dtype(np.bool_)
        self.facts: Columns = {
            "actions": ((action_spec.num_tokens,), smallest_dtype(max(action_spec.sizes))),
            "rewards": ((), np.dtype(np.float32)),
            "terminated": ((), flag),
            "truncated": ((), flag),
            "acted": ((), flag),
            # The observation that ends a terminated episode. A column of its own, because the row before it, whose
            # ``terminated`` says the same, may be evicted first.
            "terminal": ((), flag),
            "episode": ((), np.dtype(np.int64)),
        }
        self.bytes_per_row = bytes_per_row(self.observations) + bytes_per_row(self.facts)

    def require(self, rows: dict[str, np.ndarray]) -> None:
        """Raises ValueError for rows that the store cannot have given: other columns, numbers that are not finite, ids
        that no value has."""
        columns = {f"observation/{key}": column for key, column in self.observations.items()}
        columns |= {f"fact/{name}": column for name, column in self.facts.items()}
        columns["serials"] = (), np.dtype(np.int64)
        if rows.keys() != columns.keys():
            raise ValueError(f"rows have the columns {sorted(rows)}; expected {sorted(columns)}")
        for name, (shape, dtype) in columns.items():
            found, expected = rows[name], (len(rows["serials"]), *shape)
            if found.dtype != dtype or found.shape != expected:
                raise ValueError(f"{name} is {found.dtype} {found.shape}; expected {dtype} {expected}")
            if dtype.kind == "f" and not np.isfinite(found).all():
                raise ValueError(f"{name} holds numbers that are not finite")
            values = self._values.get(name.partition("/")[2])
            if values and ((found < 0) | (found >= np.array(values))).any():
                raise ValueError(f"{name} holds ids outside of {values}")

    def describe(self) -> str:
        """One line that is equal for equal formats."""
        columns = {**self.observations, "action": self.facts["actions"]}
        return ", ".join(f"{name}: {dtype}{list(shape)}" for name, (shape, dtype) in sorted(columns.items()))


class GrowingArrays:
    """Zero-initialised columns with one leading row axis, of which there are at most ``capacity``.

    Sizes are the capacity halved again and again, so that growth is by doubling and ends exactly at the capacity:
    while a column is copied, the old rows and their copies together never exceed the capacity. (``np.zeros`` does
    not touch the pages behind the rows that are not yet written.)

    With a ``folder`` the columns lie there, in nameless files that are mapped into memory and vanish with the process.
    All of the capacity is then reserved on the disk at once, for a mapping cannot report a full disk later; growing
    raises ConfigError when the disk has too little room, or the folder cannot be used.
    """

    def __init__(self, columns: Columns, capacity: int, folder: Path | None = None) -> None:
        self.capacity = capacity
        self._folder = folder
        self.num_rows = 0
        self._arrays = {name: np.zeros((0, *shape), dtype) for name, (shape, dtype) in columns.items()}

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


class Ring:
    """Which rows exist, and under which serial numbers; holds counters, no data."""

    def __init__(self, num_environments: int, rows_per_environment: int) -> None:
        self.num_environments = num_environments
        self.capacity = num_environments * rows_per_environment
        self.next_serials = np.arange(num_environments)
        """(N,) serial number of the row that each environment writes next."""

    @property
    def oldest_serials(self) -> np.ndarray:
        """(N,) serial number of the oldest row that each environment still keeps."""
        return np.maximum(self.next_serials - self.capacity, np.arange(self.num_environments))

    @property
    def newest_serials(self) -> np.ndarray:
        """(N,) serial number of the newest row of each environment; negative where it has none."""
        return self.next_serials - self.num_environments

    @property
    def num_used_rows(self) -> int:
        """Rows that the arrays must provide."""
        last = int(self.next_serials.max())
        return min(last - last % self.num_environments, self.capacity)

    def advance(self, environments: np.ndarray) -> np.ndarray:
        """Take one new row in each of the distinct ``environments`` (n,); returns their serial numbers (n,)."""
        serials: np.ndarray = self.next_serials[environments]
        self.next_serials[environments] += self.num_environments
        return serials

    def rows_of(self, serials: np.ndarray) -> np.ndarray:
        """Rows that belong to serial numbers, whether or not these are stored."""
        return serials % self.capacity

    def serials_of(self, rows: np.ndarray) -> np.ndarray:
        """Serial numbers of what occupies rows now; negative where nothing was ever written."""
        newest = self.newest_serials[rows % self.num_environments]
        serials: np.ndarray = newest - (newest - rows) % self.capacity
        return serials

    def was_written(self, serials: np.ndarray) -> np.ndarray:
        """True for serial numbers that were given out, be they stored or evicted."""
        return (serials >= 0) & (serials < self.next_serials[serials % self.num_environments])

    def is_stored(self, serials: np.ndarray) -> np.ndarray:
        """True for serial numbers that were written and are not evicted."""
        environments = serials % self.num_environments
        return (serials >= self.oldest_serials[environments]) & (serials < self.next_serials[environments])

    def stored_serials(self) -> np.ndarray:
        """(n,) serial numbers of all stored rows, increasing."""
        return np.sort(serials_between(self.oldest_serials, self.next_serials))

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """(count,) stored rows, each drawn uniformly."""
        ends = np.cumsum(self.next_serials - self.oldest_serials) // self.num_environments
        places = rng.integers(ends[-1], size=count)
        environments = np.searchsorted(ends, places, side="right")
        return self.rows_of(self.next_serials[environments] - (ends[environments] - places) * self.num_environments)


def serials_between(firsts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """(n,) serial numbers from ``firsts`` (N,) up to ``stops`` (N,), one environment after the other, without a loop.

    Environments whose stop is not above their first contribute none.
    """
    lengths = np.maximum(stops - firsts, 0) // len(firsts)
    environments = np.repeat(np.arange(len(firsts)), lengths)
    before = np.cumsum(lengths) - lengths
    serials: np.ndarray = firsts[environments] + (np.arange(lengths.sum()) - before[environments]) * len(firsts)
    return serials
