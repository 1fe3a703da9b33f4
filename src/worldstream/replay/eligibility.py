"""Which rows may be drawn, and an index of them that is kept up to date at a cost proportional to what is new.

Whether a row qualifies is settled once: when the last row that its segment needs has been written. It stops to
qualify when the first row that it needs is evicted. Both fronts only move forward, so per stream the eligible rows
are a queue, and the n-th eligible row of all is found without a search over rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from worldstream.replay.arrays import GrowingArrays
from worldstream.replay.ring import joined_ranges
from worldstream.replay.store import ReplayStore


@dataclass(frozen=True)
class Role:
    """What a drawn row is used for: the rows around it that must exist in its episode."""

    before: int
    """Rows needed before it."""
    after: int
    """Rows needed after it."""
    terminal: bool
    """Whether the final observation of a terminated episode qualifies."""

    @classmethod
    def segment_start(cls, min_after: int) -> Self:
        """First row of a segment with at least ``min_after`` further rows; 0: any observation."""
        return cls(before=0, after=min_after, terminal=True)

    @classmethod
    def segment_end(cls, min_before: int) -> Self:
        """Last row of a context, where the agent goes on to act: after at least ``min_before`` rows, not when the
        episode has terminated there. The final observation of a truncated episode qualifies."""
        return cls(before=min_before, after=0, terminal=False)

    def accepts(self, store: ReplayStore, ids: np.ndarray) -> np.ndarray:
        """(n,) bool for any ids (n,); evicted and future ids do not qualify."""
        fits = store.within_episode(ids, self.before, self.after)
        if not self.terminal:
            fits[fits] = ~store.is_terminal(ids[fits])
        return fits


class EligibleRows:
    """The ids that ``role`` accepts, in a fixed order: by stream, then by age.

    Args:
        store: the rows; call ``refresh`` after it was written to.
        role: which of them qualify.
    """

    def __init__(self, store: ReplayStore, role: Role) -> None:
        self._store = store
        self._role = role
        # Streams' queues share one array: place p of stream s is at the row of "number p of stream s".
        self._columns = GrowingArrays({"queue": ((), np.int64), "listed": ((), np.bool_)}, store.ring.capacity)
        self.reset()

    def reset(self) -> None:
        """Forget all; the next ``refresh`` builds the index anew from the store, in the same order."""
        num_streams = self._store.num_streams
        self._low = np.zeros(num_streams, np.int64)  # row numbers in [low, high) are settled and not evicted
        self._high = np.zeros(num_streams, np.int64)
        self._head = np.zeros(num_streams, np.int64)  # places in [head, tail) of the queue are filled
        self._tail = np.zeros(num_streams, np.int64)
        self._columns["listed"][:] = False
        self._seen = np.zeros(num_streams, np.int64)

    @property
    def count(self) -> int:
        """Number of eligible rows at the last ``refresh``."""
        return int((self._tail - self._head).sum())

    def refresh(self) -> tuple[np.ndarray, np.ndarray]:
        """Catch up with the store. Returns (ids that ceased to qualify, ids that now do)."""
        ring = self._store.ring
        if np.array_equal(self._seen, ring.next_numbers):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._seen = ring.next_numbers.copy()
        self._columns.ensure(self._store.num_allocated_rows)
        low = ring.oldest_numbers + self._role.before
        high = np.maximum(ring.next_numbers - self._role.after, self._high)
        # Removal first: a new row may stand in the physical row of one that was evicted.
        removed = self._remove(*joined_ranges(self._low, np.minimum(low, self._high)))
        added = self._add(*joined_ranges(np.maximum(low, self._high), high))
        self._low, self._high = low, high
        return removed, added

    def ids_at(self, positions: np.ndarray) -> np.ndarray:
        """(n,) ids at positions 0 .. count - 1 of the order."""
        lengths = self._tail - self._head
        ends = np.cumsum(lengths)
        streams = np.searchsorted(ends, positions, side="right")
        places = self._head[streams] + positions - (ends - lengths)[streams]
        return self._columns["queue"][self._rows_of(places, streams)]

    def _rows_of(self, numbers: np.ndarray, streams: np.ndarray) -> np.ndarray:
        return self._store.ring.rows(numbers * self._store.num_streams + streams)

    def _remove(self, numbers: np.ndarray, streams: np.ndarray) -> np.ndarray:
        rows = self._rows_of(numbers, streams)
        listed = self._columns["listed"][rows]
        self._columns["listed"][rows] = False
        self._head += np.bincount(streams[listed], minlength=len(self._head))
        return (numbers * self._store.num_streams + streams)[listed]

    def _add(self, numbers: np.ndarray, streams: np.ndarray) -> np.ndarray:
        ids = numbers * self._store.num_streams + streams
        accepted = self._role.accepts(self._store, ids)
        ids, streams = ids[accepted], streams[accepted]
        self._columns["listed"][self._store.ring.rows(ids)] = True
        tail = self._tail + np.bincount(streams, minlength=len(self._tail))
        self._columns["queue"][self._rows_of(*joined_ranges(self._tail, tail))] = ids
        self._tail = tail
        return ids
