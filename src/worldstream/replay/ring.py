"""Index arithmetic of several ring buffers that share one id space; holds counters, no data.

Every stream numbers its rows 0, 1, 2, ... for ever. The *stable id* and the *physical row* of a row are

    id = number * num_streams + stream          row = id % capacity,  capacity = rows_per_stream * num_streams

so a stream keeps its newest ``rows_per_stream`` rows, the next row of the same stream is ``id + num_streams``, and
storage may grow at its end until the first wrap without moving anything.
"""

from __future__ import annotations

import numpy as np


class Ring:
    """Which rows exist.

    Args:
        num_streams: N, independent ring buffers.
        rows_per_stream: rows that each of them keeps.
    """

    def __init__(self, num_streams: int, rows_per_stream: int) -> None:
        self.num_streams = num_streams
        self.rows_per_stream = rows_per_stream
        self.capacity = num_streams * rows_per_stream
        self.next_numbers = np.zeros(num_streams, np.int64)
        """(N,) number of the row that each stream writes next, which is also how many it has written."""

    @property
    def oldest_numbers(self) -> np.ndarray:
        """(N,) number of the oldest row that each stream still keeps."""
        return np.maximum(self.next_numbers - self.rows_per_stream, 0)

    @property
    def num_used_rows(self) -> int:
        """Physical rows that storage must provide."""
        return min(int(self.next_numbers.max()) * self.num_streams, self.capacity)

    def advance(self, streams: np.ndarray) -> np.ndarray:
        """Take one new row in each of the distinct ``streams`` (n,); returns their ids (n,)."""
        ids = self.next_numbers[streams] * self.num_streams + streams
        self.next_numbers[streams] += 1
        return ids

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """(count,) ids of stored rows, each drawn uniformly."""
        ends = np.cumsum(self.next_numbers - self.oldest_numbers)
        places = rng.integers(ends[-1], size=count)
        streams = np.searchsorted(ends, places, side="right")
        numbers = self.next_numbers[streams] - (ends[streams] - places)
        ids: np.ndarray = numbers * self.num_streams + streams
        return ids

    def newest_ids(self) -> np.ndarray:
        """(N,) id of the newest row of each stream; negative where the stream has none."""
        return (self.next_numbers - 1) * self.num_streams + np.arange(self.num_streams)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Physical rows of ids, whether or not those are stored."""
        return ids % self.capacity

    def ids(self, rows: np.ndarray) -> np.ndarray:
        """Ids that occupy physical rows now; negative where nothing was ever written."""
        slots, streams = np.divmod(rows, self.num_streams)
        laps = (self.next_numbers[streams] - 1 - slots) // self.rows_per_stream
        return (slots + laps * self.rows_per_stream) * self.num_streams + streams

    def was_written(self, ids: np.ndarray) -> np.ndarray:
        """True for ids that were given out, be they stored or evicted."""
        numbers, streams = np.divmod(ids, self.num_streams)
        return (numbers >= 0) & (numbers < self.next_numbers[streams])

    def is_stored(self, ids: np.ndarray) -> np.ndarray:
        """True for ids that were written and are not evicted."""
        numbers, streams = np.divmod(ids, self.num_streams)
        return (numbers >= self.oldest_numbers[streams]) & (numbers < self.next_numbers[streams])


def joined_ranges(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All integers of the N ranges [start, stop), one range after the other, without a loop.

    Returns:
        values (n,) int64, owners (n,) int64: which range a value comes from. Ranges with stop <= start are empty.
    """
    lengths = np.maximum(stops - starts, 0)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    firsts = starts - (np.cumsum(lengths) - lengths)
    return np.arange(lengths.sum()) + firsts[owners], owners
