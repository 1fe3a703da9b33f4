"""Prioritised replay: a share of each batch by soft-max over priorities, the rest uniform.

    P(i) = exp(l_i / temperature) / sum_j exp(l_j / temperature)          l_i: last loss of row i, first 10

A row that was never trained on weighs about e^(10 - l) times one that was, so the prioritised share first sweeps the
unseen rows. No importance correction, no decay with age.

Numerics: a sum tree keeps exp((l - offset) / temperature). The offset is moved to the largest priority, which costs
one pass over all rows, only when an exponent rises above 60 or all have sunk below -60. Exponents far below are cut
at -600: such rows keep a weight that is positive but never drawn in practice.
"""

from __future__ import annotations

import math
from typing import Any, final

import numpy as np

from worldstream.replay.arrays import GrowingArrays
from worldstream.replay.eligibility import EligibleRows, Role
from worldstream.replay.samplers import Sampler, checked_values, require_eligible
from worldstream.replay.store import ReplayStore
from worldstream.replay.sum_tree import SumTree

_MAX_EXPONENT = 60.0
_MIN_EXPONENT = -600.0


@final
class PrioritizedSampler(Sampler):
    """ceil((1 - uniform_fraction) * B) rows by soft-max of priorities, the others uniform among the remaining.

    Args:
        store: the rows.
        rng: generator that this sampler draws from.
        role: which rows are eligible.
        uniform_fraction: share of a batch that ignores priorities, in [0, 1].
        initial_priority: priority of a row that was never reported.
        temperature: of the soft-max, > 0.
    """

    learns = True

    def __init__(
        self,
        store: ReplayStore,
        rng: np.random.Generator,
        role: Role,
        uniform_fraction: float = 0.7,
        initial_priority: float = 10.0,
        temperature: float = 1.0,
    ) -> None:
        if not 0 <= uniform_fraction <= 1 or temperature <= 0:
            raise ValueError(f"need 0 <= {uniform_fraction=} <= 1 and {temperature=} > 0")
        self._store = store
        self._rng = rng
        self._role = role
        self._uniform_fraction = uniform_fraction
        self._initial_priority = initial_priority
        self._temperature = temperature
        self._offset = initial_priority
        self._eligible = EligibleRows(store, role)
        self._columns = GrowingArrays({"priority": ((), np.float64)}, store.ring.capacity)
        self._tree = SumTree(1)

    @property
    def num_eligible(self) -> int:
        self._refresh()
        return self._eligible.count

    def num_prioritized(self, batch_size: int) -> int:
        """How many of a batch are drawn by priority."""
        # 0.3 * 10 is 3.0000000000000004 when written as (1 - 0.7) * 10; that must stay 3.
        return math.ceil((1 - self._uniform_fraction) * batch_size - 1e-9)

    def sample(self, batch_size: int) -> np.ndarray:
        count = self.num_eligible
        require_eligible(count)
        by_priority = self.num_prioritized(batch_size)
        if count < batch_size:
            ids = self._store.ring.ids(self._tree.draw(by_priority, self._rng))
            others = self._eligible.ids_at(self._rng.integers(count, size=batch_size - by_priority))
        else:
            ids = self._store.ring.ids(self._tree.draw_distinct(by_priority, self._rng))
            # A random order of all, cut after B and freed of the rows drawn already, begins with a random order of
            # the remaining rows: uniform without looking at the other rows.
            candidates = self._eligible.ids_at(self._rng.choice(count, batch_size, replace=False))
            others = candidates[~np.isin(candidates, ids)][: batch_size - by_priority]
        return self._rng.permutation(np.concatenate([ids, others]))

    def update(self, ids: np.ndarray, values: np.ndarray) -> None:
        values = checked_values(ids, values)
        self._refresh()
        eligible = self._role.accepts(self._store, ids)
        self._set(self._store.ring.rows(ids[eligible]), values[eligible])

    def priorities(self, ids: np.ndarray) -> np.ndarray:
        """(n,) float64 current priorities of ids (n,); NaN where a row is not eligible."""
        self._refresh()
        eligible = self._role.accepts(self._store, ids)
        result = np.full(ids.shape, np.nan)
        result[eligible] = self._columns["priority"][self._store.ring.rows(ids[eligible])]
        return result

    def state_dict(self) -> dict[str, Any]:
        ids = self._eligible.ids_at(np.arange(self.num_eligible))
        return {
            "rng": self._rng.bit_generator.state,
            "offset": self._offset,
            "ids": ids,
            "priorities": self._columns["priority"][self._store.ring.rows(ids)],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._tree = SumTree(1)
        self._eligible.reset()
        self._refresh()
        self.update(state["ids"], state["priorities"])
        # The offset on the way here may be another one; with the saved one the weights are the same to the last bit.
        self._recentre(float(state["offset"]))

    def _refresh(self) -> None:
        """Give new rows the initial priority and take the evicted ones out of the tree."""
        removed, added = self._eligible.refresh()
        if not len(removed) + len(added):
            return
        self._columns.ensure(self._store.num_allocated_rows)
        self._tree.grow(self._store.num_allocated_rows)
        if len(removed):
            self._tree.set(self._store.ring.rows(removed), 0)
        self._set(self._store.ring.rows(added), np.full(len(added), self._initial_priority))
        self._recentre_if_sunk()  # what was evicted may have been the largest

    def _set(self, rows: np.ndarray, priorities: np.ndarray) -> None:
        if not len(rows):
            return
        self._columns["priority"][rows] = priorities
        if (priorities.max() - self._offset) / self._temperature > _MAX_EXPONENT:
            self._recentre()
        else:
            self._tree.set(rows, self._weights(priorities))
            self._recentre_if_sunk()

    def _weights(self, priorities: np.ndarray) -> np.ndarray:
        return np.exp(np.maximum((priorities - self._offset) / self._temperature, _MIN_EXPONENT))

    def _recentre_if_sunk(self) -> None:
        # The logarithm of the sum is at least the largest exponent and exceeds it by at most log(number of rows).
        if 0 < self._tree.total < math.exp(-_MAX_EXPONENT):
            self._recentre()

    def _recentre(self, offset: float | None = None) -> None:
        """Compute all weights anew, relative to ``offset``; None: the largest priority."""
        rows = self._store.ring.rows(self._eligible.ids_at(np.arange(self._eligible.count)))
        if len(rows):
            priorities = self._columns["priority"][rows]
            self._offset = float(priorities.max()) if offset is None else offset
            self._tree.set(rows, self._weights(priorities))
