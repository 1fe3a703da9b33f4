"""The replay store: episodes written in place into bounded ring buffers of rows, one for each environment.

An episode of T actions is T + 1 consecutive rows of its environment:

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
from typing import Any

import numpy as np

from worldstream.errors import ConfigError
from worldstream.replay.rows import GrowingArrays, Ring, RowFormat, serials_between
from worldstream.types import Observations

MIN_ROWS = 2
"""Rows that every environment needs: an observation and what follows it."""


class ReplayStore:
    """Observations, actions and rewards of N environments in arrays that grow up to a bound.

    Args:
        format: what a row consists of.
        num_environments: N; serial numbers and rows depend on it.
        max_steps: bound on rows of all environments (an episode of T steps takes T + 1 rows).
        max_bytes: bound on bytes of all rows; None: no bound.
        memory_map: folder that keeps the observations on disk (see ``GrowingArrays``); None: in memory.

    Raises ConfigError when the bounds leave fewer than ``MIN_ROWS`` rows to an environment.
    """

    def __init__(
        self,
        format: RowFormat,
        num_environments: int,
        max_steps: int,
        max_bytes: int | None = None,
        memory_map: Path | None = None,
    ) -> None:
        self.format = format
        capacity = max_steps if max_bytes is None else min(max_steps, max_bytes // format.bytes_per_row)
        if capacity // num_environments < MIN_ROWS:
            needed = MIN_ROWS * num_environments
            raise ConfigError(
                f"replay: max_steps={max_steps}, max_bytes={max_bytes} leave {capacity} rows to {num_environments} "
                f"environments. Raise max_steps to at least {needed} and max_bytes to at least "
                f"{needed * format.bytes_per_row}, or use fewer environments."
            )
        self.num_environments = num_environments
        self.ring = Ring(num_environments, capacity // num_environments)
        self._observations = GrowingArrays(format.observations, self.ring.capacity, memory_map)
        self.facts = GrowingArrays(format.facts, self.ring.capacity)
        """Columns about the action taken at each row, to be read."""
        self._num_episodes = np.zeros(num_environments, np.int64)
        self._open = np.zeros(num_environments, np.bool_)
        self.num_steps = 0
        """Transitions (rows with an action) that are stored now."""
        self.total_steps = 0
        """Transitions ever written."""

    @property
    def num_bytes(self) -> int:
        """Bytes allocated now; at most ``max_bytes``."""
        return self._observations.num_bytes + self.facts.num_bytes

    def start(self, observations: Observations, where: np.ndarray | None = None) -> None:
        """Begin an episode in the environments ``where`` (N,), None: all; one that is still open there is left as it
        is, without an end. Raises ValueError when first observations (N, ...) by key do not fit the store."""
        environments = np.arange(self.num_environments) if where is None else np.flatnonzero(where)
        self._check_observations(observations)
        self._num_episodes[environments] += 1
        self._open[environments] = True
        self._write_new_rows(environments, observations, terminal=np.zeros(self.num_environments, np.bool_))

    def append(
        self,
        actions: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        next_observations: Observations,
    ) -> None:
        """Write one transition per environment: the action at its newest row, the next observation as a new row.

        Actions are (N, M) integers; observations (N, ...) by key, the real next ones also where the episode ends.
        Raises ValueError when an environment has no open episode, or an argument does not fit the store.
        """
        if not self._open.all():
            closed = np.flatnonzero(~self._open).tolist()
            raise ValueError(f"no open episode in environments {closed}: call start() first")
        self._check_observations(next_observations)
        facts = {"actions": actions, "rewards": rewards, "terminated": terminated, "truncated": truncated}
        self._check_facts(facts)
        rows = self.ring.rows_of(self.ring.newest_serials)
        for name, values in facts.items():
            self.facts[name][rows] = values
        self.facts["acted"][rows] = True
        self.num_steps += self.num_environments
        self.total_steps += self.num_environments
        self._write_new_rows(np.arange(self.num_environments), next_observations, terminal=terminated)
        self._open = ~(terminated | truncated)

    def _write_new_rows(self, environments: np.ndarray, observations: Observations, terminal: np.ndarray) -> None:
        rows = self.ring.rows_of(self.ring.advance(environments))
        self._allocate()
        self.num_steps -= int(self.facts["acted"][rows].sum())  # transitions evicted just now; new rows are zero
        for key in self.format.observations:
            self._observations[key][rows] = observations[key][environments]
        for name in ("actions", "rewards", "terminated", "truncated", "acted"):
            self.facts[name][rows] = 0
        self.facts["terminal"][rows] = terminal[environments]
        self.facts["episode"][rows] = self._num_episodes[environments]

    def _allocate(self) -> None:
        self._observations.ensure(self.ring.num_used_rows)
        self.facts.ensure(self.ring.num_used_rows)

    # NumPy would broadcast a wrong shape and wrap a wrong dtype without a word; hence the checks.

    def _check_observations(self, observations: Observations) -> None:
        if observations.keys() != self.format.observations.keys():
            raise ValueError(
                f"observation keys {sorted(observations)}; the store has {sorted(self.format.observations)}"
            )
        for key, (shape, dtype) in self.format.observations.items():
            self._check(f"observation '{key}'", observations[key], shape, dtype)

    def _check_facts(self, facts: dict[str, np.ndarray]) -> None:
        for name, values in facts.items():
            shape, dtype = self.format.facts[name]
            self._check(name, values, shape, dtype if dtype == np.bool_ else None)
        actions, limits = facts["actions"], np.iinfo(self.format.facts["actions"][1])
        if actions.dtype.kind not in "iu":
            raise ValueError(f"actions are {actions.dtype}; the store expects integers")
        if actions.size and (actions.min() < limits.min or actions.max() > limits.max):
            raise ValueError(f"actions {actions.min()} .. {actions.max()} do not fit the store's {limits.dtype}")

    def _check(self, name: str, value: np.ndarray, shape: tuple[int, ...], dtype: np.dtype | None) -> None:
        expected = (self.num_environments, *shape)
        if value.shape != expected or dtype not in (None, value.dtype):
            raise ValueError(f"{name}: {value.dtype} {value.shape}; the store expects {dtype or 'any'} {expected}")

    def observations(self, rows: np.ndarray, keys: Collection[str] | None = None) -> Observations:
        """Observations at rows of any shape (...): key -> (..., *shape of an item). Copies. None: all keys."""
        return {key: self._observations[key].take(rows, axis=0) for key in keys or self.format.observations}

    def within_episode(self, serials: np.ndarray, before: int, after: int) -> np.ndarray:
        """(n,) True where rows ``before`` earlier to ``after`` later than any ``serials`` (n,) are all stored and of
        one episode."""
        first, last = serials - before * self.num_environments, serials + after * self.num_environments
        stored = self.ring.is_stored(first) & self.ring.is_stored(last)
        episode = self.facts["episode"]
        # What is not stored may belong to rows that are not allocated yet; look at row 0 instead.
        first_rows, last_rows = (self.ring.rows_of(np.where(stored, x, 0)) for x in (first, last))
        return stored & (episode[first_rows] == episode[last_rows])

    def truncate(self, where: np.ndarray) -> None:
        """Close the episodes open in environments ``where`` (N,): their newest transition counts as truncated."""
        environments = np.flatnonzero(where & self._open)
        self._open[environments] = False
        before = self.ring.newest_serials[environments] - self.num_environments
        before = before[self.within_episode(before, 0, 1)]  # an episode of one observation has no transition yet
        self.facts["truncated"][self.ring.rows_of(before)] = True

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue, beside the rows themselves (``rows_since``), as plain values and arrays."""
        return {
            "format": self.format.describe(),
            "num_environments": self.num_environments,
            "capacity": self.ring.capacity,
            "next_serials": self.ring.next_serials.copy(),
            "num_episodes": self._num_episodes.copy(),
            "open": self._open.copy(),
            "num_steps": self.num_steps,
            "total_steps": self.total_steps,
        }

    def rows_since(self, next_serials: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Copies of the rows that were written since ``next_serials`` (N,) of an earlier ``state_dict``; None: all.

        The two newest rows of that time are among them: what was done at the newest was written later, and so may have
        been that the one before was the last of its episode (``truncate``). Returned are "serials" (n,), and the
        columns (n, ...) as "observation/<key>" and "fact/<name>".
        """
        oldest = self.ring.oldest_serials
        firsts = oldest if next_serials is None else np.maximum(next_serials - 2 * self.num_environments, oldest)
        serials = serials_between(firsts, self.ring.next_serials)
        rows = self.ring.rows_of(serials)
        return {
            "serials": serials,
            **{f"observation/{key}": self._observations[key][rows] for key in self.format.observations},
            **{f"fact/{name}": self.facts[name][rows] for name in self.format.facts},
        }

    def load_state_dict(self, state: dict[str, Any], parts: Iterable[dict[str, np.ndarray]]) -> None:
        """Continue from ``state_dict`` and the rows that ``rows_since`` gave, oldest part first.

        Raises ConfigError for other columns or bounds, ValueError when the parts lack rows that the state counts.
        """
        ours = (self.format.describe(), self.num_environments, self.ring.capacity)
        theirs = (state["format"], state["num_environments"], state["capacity"])
        if ours != theirs:
            raise ConfigError(
                f"replay: the saved data are of (columns, environments, rows) {theirs}, this run has {ours}. "
                "Resume with the environment, number of environments and replay limits of the saved run."
            )
        self.ring.next_serials[:] = state["next_serials"]
        self._num_episodes[:] = state["num_episodes"]
        self._open[:] = state["open"]
        self.num_steps, self.total_steps = int(state["num_steps"]), int(state["total_steps"])
        self._allocate()
        missing = set(self.ring.stored_serials().tolist())
        for part in parts:
            self.format.require(part)
            kept = self.ring.is_stored(part["serials"])
            rows = self.ring.rows_of(part["serials"][kept])
            for key in self.format.observations:
                self._observations[key][rows] = part[f"observation/{key}"][kept]
            for name in self.format.facts:
                self.facts[name][rows] = part[f"fact/{name}"][kept]
            missing.difference_update(part["serials"].tolist())
        if missing:
            raise ValueError(f"{len(missing)} rows of replay are missing, the first is {min(missing)}")
