"""Segments: stretches of consecutive rows of one episode, named by the serial number of one row, their anchor.

Whether a row may be an anchor is settled once: when the last row that its segment needs has been written. It stops to
be one when the first row that it needs is evicted. Both fronts only move forward, so the anchors of an environment are
a queue, and the n-th anchor of all is found without a search over rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from worldstream.replay.rows import serials_between
from worldstream.replay.store import ReplayStore


@dataclass(frozen=True)
class Segments:
    """B segments of T consecutive rows as arrays, padded where an episode begins or ends."""

    anchors: np.ndarray
    """(B,) int64 serial numbers of the first row (world model) or the last row (agent)."""
    rows: np.ndarray
    """(B, T) int64; padding repeats a valid row and must be masked."""
    actions: np.ndarray
    """(B, T, M) integers; zero where ``acted`` is False."""
    rewards: np.ndarray
    """(B, T) float32."""
    terminated: np.ndarray
    """(B, T) bool."""
    truncated: np.ndarray
    """(B, T) bool."""
    observed: np.ndarray
    """(B, T) bool: observation t is real (False: padding)."""
    acted: np.ndarray
    """(B, T) bool: action, reward and end at t are real (False: padding, final or newest observation)."""


def gather(store: ReplayStore, anchors: np.ndarray, length: int, anchor: Literal["first", "last"]) -> Segments:
    """Segments of ``length`` rows that begin ("first") or end ("last") at the rows with the serial numbers ``anchors``.

    Rows of other episodes, evicted rows and rows that do not exist yet are padding. A segment whose anchor was
    evicted since it was drawn is padding altogether. Raises IndexError for an anchor that was never written.
    """
    ring, facts = store.ring, store.facts
    if not ring.was_written(anchors).all():
        raise IndexError(f"rows {anchors[~ring.was_written(anchors)].tolist()} were never written to this store")
    offsets = np.arange(length) if anchor == "first" else np.arange(1 - length, 1)
    wanted = anchors[:, None] + offsets * ring.num_environments  # (B, T)
    anchor_rows = ring.rows_of(anchors)[:, None]
    usable = ring.is_stored(wanted) & ring.is_stored(anchors)[:, None]
    rows = np.where(usable, ring.rows_of(wanted), anchor_rows)
    observed = usable & (facts["episode"][rows] == facts["episode"][anchor_rows])
    rows = np.where(observed, rows, anchor_rows)
    acted = observed & facts["acted"][rows]
    return Segments(
        anchors=anchors,
        rows=rows,
        actions=facts["actions"][rows] * acted[..., None],
        rewards=facts["rewards"][rows] * acted,
        terminated=facts["terminated"][rows] & acted,
        truncated=facts["truncated"][rows] & acted,
        observed=observed,
        acted=acted,
    )


def is_held_out(store: ReplayStore, rows: np.ndarray, share: float) -> np.ndarray:
    """(n,) bool for rows (n,): whether their episode is one of the ``share`` that is held out.

    Those of each environment are evenly spaced, never the first, and environments take turns: they often end their
    episodes together.
    """
    episodes, num_environments = store.facts["episode"][rows], store.num_environments
    turn = rows % num_environments / num_environments
    return (np.floor(episodes * share + turn) > np.floor((episodes - 1) * share + turn)) & (episodes > 1)


@dataclass(frozen=True)
class AnchorRule:
    """Which rows may be anchors: what must exist of their episode around them."""

    before: int
    """Rows needed before the anchor."""
    after: int
    """Rows needed after the anchor."""
    terminal: bool
    """Whether the final observation of a terminated episode may be an anchor."""
    held_out_share: float = 0.0
    """Share of episodes that are held out."""
    of_held_out: bool = False
    """Whether anchors are of those, instead of all others."""

    @classmethod
    def first(cls, min_after: int) -> Self:
        """First row of a segment with at least ``min_after`` further rows; 0: any observation."""
        return cls(before=0, after=min_after, terminal=True)

    @classmethod
    def last(cls, min_before: int) -> Self:
        """Last row of a context, where the agent goes on to act: after at least ``min_before`` rows, not when the
        episode has terminated there. The final observation of a truncated episode may be one."""
        return cls(before=min_before, after=0, terminal=False)

    def trained(self, share: float) -> Self:
        """The same among episodes that are not held out."""
        return replace(self, held_out_share=share, of_held_out=False)

    def held_out(self, share: float) -> Self:
        """The same among held-out episodes."""
        return replace(self, held_out_share=share, of_held_out=True)

    def accepts(self, store: ReplayStore, serials: np.ndarray) -> np.ndarray:
        """(n,) bool for any serial numbers (n,); False for evicted and future ones."""
        accepted = store.within_episode(serials, self.before, self.after)
        if not self.terminal:
            accepted[accepted] = ~store.facts["terminal"][store.ring.rows_of(serials[accepted])]
        if self.held_out_share:
            rows = store.ring.rows_of(serials[accepted])
            accepted[accepted] = is_held_out(store, rows, self.held_out_share) == self.of_held_out
        return accepted


class Anchors:
    """All anchors that a rule accepts, in a fixed order: by environment, then by age. ``refresh`` finds new ones."""

    def __init__(self, store: ReplayStore, rule: AnchorRule) -> None:
        self._store = store
        self._rule = rule
        # The environments' queues share one array, laid out as rows are: the n-th anchor that environment e ever had
        # is at row n N + e. Pages that were never written cost nothing.
        self._queue = np.zeros(store.ring.capacity, np.int64)
        self.reset()

    def reset(self) -> None:
        """Forget all; the next ``refresh`` lists the anchors anew from the store, in the same order."""
        begin = np.arange(self._store.ring.num_environments)
        self._low, self._high = begin, begin  # (N,) serial numbers in [low, high) are settled and not evicted
        self._head, self._tail = begin, begin  # (N,) places in [head, tail) of the queues are filled

    @property
    def count(self) -> int:
        """Number of anchors at the last ``refresh``."""
        return int((self._tail - self._head).sum()) // len(self._head)

    def refresh(self) -> tuple[np.ndarray, np.ndarray]:
        """Catch up with the store. Returns (serial numbers that ceased to be anchors, those that now are)."""
        ring, num_environments = self._store.ring, self._store.ring.num_environments
        low = ring.oldest_serials + self._rule.before * num_environments
        high = np.maximum(ring.next_serials - self._rule.after * num_environments, self._high)
        if (low == self._low).all() and (high == self._high).all():
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        # Removal first: a new row may stand where the evicted one stood.
        front = serials_between(self._head, np.minimum(self._head + low - self._low, self._tail))
        removed = self._queue[ring.rows_of(front)]
        removed = removed[removed < low[removed % num_environments]]
        self._head = self._head + _counts(removed, num_environments)
        settled = serials_between(np.maximum(low, self._high), high)
        added = settled[self._rule.accepts(self._store, settled)]
        tail = self._tail + _counts(added, num_environments)
        self._queue[ring.rows_of(serials_between(self._tail, tail))] = added
        self._low, self._high, self._tail = low, high, tail
        return removed, added

    def at(self, positions: np.ndarray) -> np.ndarray:
        """(n,) anchors at positions 0 .. count - 1 of the order."""
        num_environments = len(self._head)
        lengths = (self._tail - self._head) // num_environments
        ends = np.cumsum(lengths)
        environments = np.searchsorted(ends, positions, side="right")
        nth = positions - (ends - lengths)[environments]
        return self._queue[self._store.ring.rows_of(self._head[environments] + nth * num_environments)]


def _counts(serials: np.ndarray, num_environments: int) -> np.ndarray:
    """(N,) how many of the serial numbers are of each environment, times N: how far a queue moves."""
    return np.bincount(serials % num_environments, minlength=num_environments) * num_environments
