"""The replay store: episodes written in place into bounded ring buffers, read back as segments by stable ids.

One row holds one observation and, once chosen, the action taken there with its consequences. An episode of T actions
is T + 1 consecutive rows of one stream (one stream per environment):

    row              0      1      2      3    | 4 ...
    observation      o0     o1     o2     o3   | o0'           acted[t]: action, reward, terminated and truncated
    action           a0     a1     a2     -    | a0'           of row t are known; False for a final observation
    reward, ends     r0     r1     r2     -    | r0'           and for the newest one
    acted            True   True   True   False| ...

Old rows are overwritten one by one, so an episode that is partly evicted stays usable from its oldest row on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from worldstream.errors import ConfigError
from worldstream.replay.arrays import Columns, GrowingArrays
from worldstream.replay.ring import Ring, joined_ranges
from worldstream.replay.row_format import RowFormat
from worldstream.types import Observations, Segments

MIN_ROWS_PER_STREAM = 2


class ReplayStore:
    """Observations, actions and rewards of N streams in contiguous arrays that grow up to a bound.

    Args:
        arrays: observation key -> (shape of one item, dtype), as stored.
        num_action_tokens: M.
        action_dtype: integer dtype of stored action ids.
        num_streams: N, environments that write; ids and rows depend on it.
        max_steps: bound on rows over all streams (an episode of T steps takes T + 1 rows).
        max_bytes: bound on bytes of all rows; None: no bound.
        memory_map: folder that keeps the observations on disk (see ``GrowingArrays``); None: in memory.

    Raises:
        ConfigError: the bounds leave fewer than ``MIN_ROWS_PER_STREAM`` rows to a stream.
    """

    def __init__(
        self,
        arrays: Columns,
        num_action_tokens: int,
        action_dtype: DTypeLike,
        num_streams: int,
        max_steps: int,
        max_bytes: int | None = None,
        memory_map: Path | None = None,
    ) -> None:
        self.format = RowFormat(arrays, num_action_tokens, action_dtype, num_streams)
        self.bytes_per_row = self.format.bytes_per_row
        capacity = max_steps if max_bytes is None else min(max_steps, max_bytes // self.bytes_per_row)
        if capacity // num_streams < MIN_ROWS_PER_STREAM:
            needed = MIN_ROWS_PER_STREAM * num_streams
            raise ConfigError(
                f"replay: max_steps={max_steps}, max_bytes={max_bytes} leave {capacity} rows to {num_streams} "
                f"environments. Raise max_steps to at least {needed} and max_bytes to at least "
                f"{needed * self.bytes_per_row}, or use fewer environments."
            )
        self.num_streams = num_streams
        self.ring = Ring(num_streams, capacity // num_streams)
        self._observations = GrowingArrays(self.format.observations, self.ring.capacity, memory_map)
        self._rows = GrowingArrays(self.format.facts, self.ring.capacity)
        self._num_episodes = np.zeros(num_streams, np.int64)
        self._open = np.zeros(num_streams, np.bool_)
        self.num_steps = 0
        """Transitions (rows with an action) that are stored now."""
        self.total_steps = 0
        """Transitions ever written."""

    @property
    def num_allocated_rows(self) -> int:
        """Physical rows that exist now; what is kept beside the rows grows with it."""
        return self._rows.num_rows

    @property
    def num_bytes(self) -> int:
        """Bytes allocated now; at most ``max_bytes``."""
        return self._observations.num_bytes + self._rows.num_bytes

    def start(self, observations: Observations, where: np.ndarray | None = None) -> None:
        """Begin an episode; one that is still open in the same stream is left as it is, without an end.

        Args:
            observations: key -> (N, ...) first observations.
            where: (N,) bool, streams that begin an episode; None: all.

        Raises:
            ValueError: keys, shapes or dtypes differ from those of the store.
        """
        streams = self._streams(where)
        self.format.check_observations(observations)
        self._num_episodes[streams] += 1
        self._open[streams] = True
        self._write_new_rows(streams, observations, terminal=np.zeros(self.num_streams, np.bool_))

    def append(
        self,
        actions: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        next_observations: Observations,
        where: np.ndarray | None = None,
    ) -> None:
        """Write one transition per stream: the action at the newest row, the next observation as a new row.

        Args:
            actions: (N, M) integer ids. rewards, terminated, truncated: (N,).
            next_observations: key -> (N, ...); the real next observation, also where the episode ends.
            where: (N,) bool, streams that took a step; None: all.

        Raises:
            ValueError: a stream has no open episode, or an argument does not fit the store.
        """
        streams = self._streams(where)
        if not self._open[streams].all():
            closed = streams[~self._open[streams]].tolist()
            raise ValueError(f"no open episode in streams {closed}: call start() first")
        self.format.check_observations(next_observations)
        self.format.check_transition(actions, rewards, terminated, truncated)
        rows = self.ring.rows(self.ring.newest_ids()[streams])
        self._rows["actions"][rows] = actions[streams]
        self._rows["rewards"][rows] = rewards[streams]
        self._rows["terminated"][rows] = terminated[streams]
        self._rows["truncated"][rows] = truncated[streams]
        self._rows["acted"][rows] = True
        self.num_steps += len(streams)
        self.total_steps += len(streams)
        self._write_new_rows(streams, next_observations, terminal=terminated)
        self._open[streams] = ~(terminated | truncated)[streams]

    def _write_new_rows(self, streams: np.ndarray, observations: Observations, terminal: np.ndarray) -> None:
        rows = self.ring.rows(self.ring.advance(streams))
        self._observations.ensure(self.ring.num_used_rows)
        self._rows.ensure(self.ring.num_used_rows)
        self.num_steps -= int(self._rows["acted"][rows].sum())  # transitions evicted just now; new rows are zero
        for key in self.format.observations:
            self._observations[key][rows] = observations[key][streams]
        for name in ("actions", "rewards", "terminated", "truncated", "acted"):
            self._rows[name][rows] = 0
        self._rows["terminal"][rows] = terminal[streams]
        self._rows["episode"][rows] = self._num_episodes[streams]

    def _streams(self, where: np.ndarray | None) -> np.ndarray:
        return np.arange(self.num_streams) if where is None else np.flatnonzero(where)

    def gather(self, ids: np.ndarray, length: int, anchor: Literal["first", "last"]) -> Segments:
        """Segments of ``length`` consecutive rows that begin ("first") or end ("last") at the rows ``ids`` (B,).

        Rows of other episodes, evicted rows and rows that do not exist yet are padding. A segment whose anchor was
        evicted since it was drawn is padding altogether.

        Raises:
            IndexError: an id that was never written.
        """
        if not self.ring.was_written(ids).all():
            raise IndexError(f"ids {ids[~self.ring.was_written(ids)].tolist()} were never written to this store")
        offsets = np.arange(length) if anchor == "first" else np.arange(1 - length, 1)
        wanted = ids[:, None] + offsets * self.num_streams  # (B, T)
        anchors = self.ring.rows(ids)[:, None]
        usable = self.ring.is_stored(wanted) & self.ring.is_stored(ids)[:, None]
        rows = np.where(usable, self.ring.rows(wanted), anchors)
        episode = self._rows["episode"]
        observed = usable & (episode[rows] == episode[anchors])
        rows = np.where(observed, rows, anchors)
        acted = observed & self._rows["acted"][rows]
        return Segments(
            ids=ids,
            rows=rows,
            actions=self._rows["actions"][rows] * acted[..., None],
            rewards=self._rows["rewards"][rows] * acted,
            terminated=self._rows["terminated"][rows] & acted,
            truncated=self._rows["truncated"][rows] & acted,
            observed=observed,
            acted=acted,
        )

    def observations(self, rows: np.ndarray, keys: Collection[str] | None = None) -> Observations:
        """Observations at physical rows of any shape (...): key -> (..., *shape of an item). Copies. None: all keys."""
        return {key: self._observations[key].take(rows, axis=0) for key in keys or self.format.observations}

    def ids_of_all(self) -> np.ndarray:
        """(n,) ids of all stored rows, increasing."""
        numbers, streams = joined_ranges(self.ring.oldest_numbers, self.ring.next_numbers)
        return np.sort(numbers * self.num_streams + streams)

    def is_terminal(self, ids: np.ndarray) -> np.ndarray:
        """True for stored ids whose observation ended a terminated episode: nothing is chosen or expected there."""
        return self._rows["terminal"][self.ring.rows(ids)]

    def within_episode(self, ids: np.ndarray, before: int, after: int) -> np.ndarray:
        """True where rows ``before`` earlier to ``after`` later are all stored and of one episode. Any ids; (n,)."""
        first, last = ids - before * self.num_streams, ids + after * self.num_streams
        stored = self.ring.is_stored(first) & self.ring.is_stored(last)
        episode = self._rows["episode"]
        # Ids outside of the ring may point at rows that are not allocated yet; look at row 0 instead.
        first_rows, last_rows = (self.ring.rows(np.where(stored, x, 0)) for x in (first, last))
        return stored & (episode[first_rows] == episode[last_rows])

    def episode(self, id: int) -> Segments:
        """All that is still stored of the episode around row ``id``, as one segment (B = 1) without padding.

        Raises:
            LookupError: the row is not stored.
        """
        if not self.ring.is_stored(np.array(id)):
            raise LookupError(f"row {id} is not stored (any more)")
        number, stream = divmod(id, self.num_streams)
        numbers = np.arange(self.ring.oldest_numbers[stream], self.ring.next_numbers[stream])
        episodes = self._rows["episode"][self.ring.rows(numbers * self.num_streams + stream)]
        mine = numbers[episodes == episodes[number - numbers[0]]]
        return self.gather(mine[:1] * self.num_streams + stream, len(mine), "first")

    def truncate(self, where: np.ndarray) -> None:
        """Close the episodes open in the streams ``where`` (N,): their newest transition counts as truncated."""
        streams = np.flatnonzero(where & self._open)
        self._open[streams] = False
        before = (self.ring.newest_ids() - self.num_streams)[streams]
        before = before[self.within_episode(before, 0, 1)]  # an episode of one observation has no transition yet
        self._rows["truncated"][self.ring.rows(before)] = True

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, beside the rows themselves (``rows_since``), as plain values and arrays."""
        return {
            "format": self.format.describe(),
            "num_streams": self.num_streams,
            "rows_per_stream": self.ring.rows_per_stream,
            "next_numbers": self.ring.next_numbers.copy(),
            "num_episodes": self._num_episodes.copy(),
            "open": self._open.copy(),
            "num_steps": self.num_steps,
            "total_steps": self.total_steps,
        }

    def rows_since(self, next_numbers: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Copies of the rows that were written since ``next_numbers`` (N,) of an earlier ``state_dict``; None: all.

        The two newest rows of that time are among them: what was done at the newest was written later, and so may have
        been that the one before was the last of its episode (``truncate``).

        Returns:
            "ids" (n,), and the columns (n, ...) as "observation/<key>" and "row/<name>".
        """
        first = np.zeros(self.num_streams, np.int64) if next_numbers is None else next_numbers - 2
        numbers, streams = joined_ranges(np.maximum(first, self.ring.oldest_numbers), self.ring.next_numbers)
        ids = numbers * self.num_streams + streams
        rows = self.ring.rows(ids)
        return {
            "ids": ids,
            **{f"observation/{key}": self._observations[key][rows] for key in self.format.observations},
            **{f"row/{name}": self._rows[name][rows] for name in self.format.facts},
        }

    def load_state_dict(self, state: dict[str, Any], parts: Iterable[dict[str, np.ndarray]]) -> None:
        """Continue from ``state_dict`` and the rows that ``rows_since`` gave, oldest part first.

        Raises:
            ConfigError: they were written with other columns or bounds.
            ValueError: the parts lack rows that the state counts.
        """
        mine = (self.format.describe(), self.num_streams, self.ring.rows_per_stream)
        theirs = (state["format"], state["num_streams"], state["rows_per_stream"])
        if mine != theirs:
            raise ConfigError(
                f"replay: the saved data are of (columns, environments, rows per environment) {theirs}, this run has "
                f"{mine}. Resume with the environment, number of environments and replay limits of the saved run."
            )
        self.ring.next_numbers[:] = state["next_numbers"]
        self._num_episodes[:] = state["num_episodes"]
        self._open[:] = state["open"]
        self.num_steps, self.total_steps = int(state["num_steps"]), int(state["total_steps"])
        self._observations.ensure(self.ring.num_used_rows)
        self._rows.ensure(self.ring.num_used_rows)
        missing = set(self.ids_of_all().tolist())
        for part in parts:
            kept = self.ring.is_stored(part["ids"])
            rows = self.ring.rows(part["ids"][kept])
            for key in self.format.observations:
                self._observations[key][rows] = part[f"observation/{key}"][kept]
            for name in self.format.facts:
                self._rows[name][rows] = part[f"row/{name}"][kept]
            missing.difference_update(part["ids"].tolist())
        if missing:
            raise ValueError(f"{len(missing)} rows of replay are missing, the first is {min(missing)}")
