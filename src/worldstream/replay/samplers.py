"""Samplers: which segments are trained on. They draw anchors, read the store and never write to it.

While fewer anchors exist than a batch asks for, they are drawn *with* repetition, as they are where they are weighted:
the probability of a draw is known then. Otherwise none occurs twice.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, final

import numpy as np

from worldstream.options import Between
from worldstream.replay.segments import AnchorRule, Anchors
from worldstream.replay.store import ReplayStore

_MAX_EXPONENT = 60.0
_MIN_EXPONENT = -600.0


class Sampler(ABC):
    """Draws anchors, as serial numbers."""

    learns: bool
    """Whether ``update`` changes what is drawn."""

    @property
    @abstractmethod
    def num_anchors(self) -> int:
        """Anchors that may be drawn now."""

    @abstractmethod
    def sample(self, batch_size: int) -> np.ndarray:
        """(B,) int64 anchors. Raises LookupError when there is none."""

    def sample_weighted(self, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """As ``sample``, but drawn independently, with importance weights 1 / (N P(i)), (B,) float64: with these a
        batch teaches what a uniform one would."""
        return self.sample(batch_size), np.ones(batch_size)

    @abstractmethod
    def update(self, anchors: np.ndarray, values: np.ndarray) -> None:
        """Report what training found at anchors (n,), such as losses (n,), at any later time.

        Anchors that were evicted since they were drawn are ignored. Raises ValueError for values that are not finite.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that decides future samples, the state of the generator included."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``; load the store first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplerConfig(ABC):
    """Options of one sampler."""

    @abstractmethod
    def build(self, store: ReplayStore, rng: np.random.Generator, rule: AnchorRule) -> Sampler:
        """A sampler over the rows of ``store`` that are anchors by ``rule``; it alone draws from ``rng``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UniformConfig(SamplerConfig):
    """Every anchor is equally likely."""

    def build(self, store: ReplayStore, rng: np.random.Generator, rule: AnchorRule) -> Sampler:
        return UniformSampler(store, rng, rule)


@dataclass(frozen=True, kw_only=True, slots=True)
class PrioritizedConfig(SamplerConfig):
    """A share of each batch by soft-max over what training reported, the rest uniform."""

    uniform_fraction: Annotated[float, Between(0, 1)] = 0.7
    """Share of a batch that ignores priorities."""
    initial_priority: float = 10.0
    """Priority of an anchor that was never trained on, in the unit of what is reported: nats of loss for segments, the
    logarithm of a mean absolute advantage for starts."""
    temperature: Annotated[float, Between(0.001)] = 1.0
    """Divides the priorities before the soft-max."""

    def build(self, store: ReplayStore, rng: np.random.Generator, rule: AnchorRule) -> Sampler:
        return PrioritizedSampler(store, rng, rule, self)


@final
class UniformSampler(Sampler):
    """Every anchor is equally likely."""

    learns = False

    def __init__(self, store: ReplayStore, rng: np.random.Generator, rule: AnchorRule) -> None:
        self._rng = rng
        self._anchors = Anchors(store, rule)

    @property
    def num_anchors(self) -> int:
        self._anchors.refresh()
        return self._anchors.count

    def sample(self, batch_size: int) -> np.ndarray:
        count = _positive(self.num_anchors)
        # Generator.choice costs O(batch) where the batch is a small share of the anchors.
        return self._anchors.at(self._rng.choice(count, batch_size, replace=count < batch_size))

    def update(self, anchors: np.ndarray, values: np.ndarray) -> None:
        _checked(anchors, values)

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._anchors.reset()


@final
class PrioritizedSampler(Sampler):
    """ceil((1 - uniform_fraction) * B) anchors by soft-max of priorities, the others uniform among the remaining.

        P(i) = exp(l_i / temperature) / sum_j exp(l_j / temperature)          l_i: last value reported at anchor i

    An anchor that was never trained on weighs about e^(10 - l) times one that was, so the prioritised share first
    sweeps the unseen ones. No decay with age.

    Numerics: a sum tree keeps exp((l - offset) / temperature). The offset is moved to the largest priority, which
    costs one pass over all anchors, only when an exponent rises above 60 or all have sunk below -60. Exponents far
    below are cut at -600: such anchors keep a weight that is positive but never drawn in practice.
    """

    learns = True

    def __init__(
        self, store: ReplayStore, rng: np.random.Generator, rule: AnchorRule, config: PrioritizedConfig
    ) -> None:
        self._store = store
        self._ring = store.ring
        self._rng = rng
        self._rule = rule
        self._config = config
        self._offset = config.initial_priority
        self._anchors = Anchors(store, rule)
        self._priorities = np.zeros(self._ring.capacity)  # by row, as the weights; untouched pages cost nothing
        self._weights = SumTree(self._ring.capacity)

    @property
    def num_anchors(self) -> int:
        self._refresh()
        return self._anchors.count

    def num_prioritized(self, batch_size: int) -> int:
        """How many of a batch are drawn by priority."""
        # 0.3 * 10 is 3.0000000000000004 when written as (1 - 0.7) * 10; that must stay 3.
        return math.ceil((1 - self._config.uniform_fraction) * batch_size - 1e-9)

    def sample(self, batch_size: int) -> np.ndarray:
        count = _positive(self.num_anchors)
        by_priority = self.num_prioritized(batch_size)
        if count < batch_size:
            return self._independent(by_priority, batch_size - by_priority)
        drawn = self._ring.serials_of(self._weights.draw_distinct(by_priority, self._rng))
        # A random order of all, cut after B and freed of those drawn already, begins with a random order of the
        # remaining ones: uniform without looking at the others.
        candidates = self._anchors.at(self._rng.choice(count, batch_size, replace=False))
        others = candidates[~np.isin(candidates, drawn)][: batch_size - by_priority]
        return self._rng.permutation(np.concatenate([drawn, others]))

    def sample_weighted(self, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        count, by_priority = _positive(self.num_anchors), self.num_prioritized(batch_size)
        anchors = self._independent(by_priority, batch_size - by_priority)
        shares = self._weights.get(self._ring.rows_of(anchors)) / self._weights.total
        relative = (batch_size - by_priority + by_priority * shares * count) / batch_size  # N P(i)
        return anchors, 1 / relative

    def _independent(self, by_priority: int, uniform: int) -> np.ndarray:
        """Anchors that were drawn without regard to each other."""
        drawn = self._ring.serials_of(self._weights.draw(by_priority, self._rng))
        others = self._anchors.at(self._rng.integers(self._anchors.count, size=uniform))
        return self._rng.permutation(np.concatenate([drawn, others]))

    def update(self, anchors: np.ndarray, values: np.ndarray) -> None:
        values = _checked(anchors, values)
        self._refresh()
        accepted = self._rule.accepts(self._store, anchors)
        self._set(anchors[accepted], values[accepted])

    def priorities(self, anchors: np.ndarray) -> np.ndarray:
        """(n,) float64 current priorities of anchors (n,); NaN where a row is no anchor."""
        self._refresh()
        accepted = self._rule.accepts(self._store, anchors)
        return np.where(accepted, self._priorities[self._ring.rows_of(anchors)], np.nan)

    def state_dict(self) -> dict[str, Any]:
        self._refresh()
        priorities = self._priorities[self._all_rows()]
        return {"rng": self._rng.bit_generator.state, "offset": self._offset, "priorities": priorities}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._weights = SumTree(self._ring.capacity)
        self._anchors.reset()
        self._anchors.refresh()  # in the same order as ever
        self._priorities[self._all_rows()] = state["priorities"]
        self._recentre(float(state["offset"]))  # with the same offset, weights are the same to the last bit

    def _refresh(self) -> None:
        """Give new anchors the initial priority and take the evicted ones out of the tree."""
        removed, added = self._anchors.refresh()
        if len(removed):
            self._weights.set(self._ring.rows_of(removed), 0)
        self._set(added, np.full(len(added), self._config.initial_priority))
        if len(removed):
            self._recentre_if_sunk()  # what was evicted may have been the largest

    def _set(self, anchors: np.ndarray, priorities: np.ndarray) -> None:
        if not len(anchors):
            return
        rows = self._ring.rows_of(anchors)
        self._priorities[rows] = priorities
        if (priorities.max() - self._offset) / self._config.temperature > _MAX_EXPONENT:
            self._recentre()
        else:
            self._weights.set(rows, self._weights_of(priorities))
            self._recentre_if_sunk()

    def _weights_of(self, priorities: np.ndarray) -> np.ndarray:
        return np.exp(np.maximum((priorities - self._offset) / self._config.temperature, _MIN_EXPONENT))

    def _recentre_if_sunk(self) -> None:
        # The logarithm of the sum is at least the largest exponent and exceeds it by at most log(number of anchors).
        if 0 < self._weights.total < math.exp(-_MAX_EXPONENT):
            self._recentre()

    def _recentre(self, offset: float | None = None) -> None:
        """Compute all weights anew, relative to ``offset``; None: the largest priority."""
        rows = self._all_rows()
        if len(rows):
            priorities = self._priorities[rows]
            self._offset = float(priorities.max()) if offset is None else offset
            self._weights.set(rows, self._weights_of(priorities))

    def _all_rows(self) -> np.ndarray:
        return self._ring.rows_of(self._anchors.at(np.arange(self._anchors.count)))


def _positive(count: int) -> int:
    if count == 0:
        raise LookupError("replay has no segment to draw yet: collect more steps, or ask for shorter segments")
    return count


def _checked(anchors: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``values`` as float64 (n,). Raises ValueError for another shape than that of anchors (n,), or not finite ones."""
    values = np.asarray(values, np.float64)
    if values.shape != anchors.shape:
        raise ValueError(f"{anchors.shape} anchors but {values.shape} values")
    if not np.isfinite(values).all():
        raise ValueError(f"values are not finite at anchors {anchors[~np.isfinite(values)].tolist()}")
    return values


class SumTree:
    """Weights at 0 .. capacity - 1, all 0 at first, and draws proportional to them, in O(log capacity) each.

    A complete binary tree of partial sums in one array: node 1 is the root, the children of i are 2 i and 2 i + 1, the
    last half are the weights. Every parent is computed from its two children (never by adding differences), so
    rounding errors do not accumulate, and equal weights give equal trees. The capacity is rounded up to a power of two.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = 1 << max(capacity - 1, 0).bit_length()
        self._depth = self.capacity.bit_length() - 1
        self._nodes = np.zeros(2 * self.capacity, np.float64)

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self._nodes[1])

    def get(self, indices: np.ndarray) -> np.ndarray:
        """(n,) float64 weights."""
        return self._nodes[self.capacity + indices]

    def set(self, indices: np.ndarray, weights: np.ndarray | float) -> None:
        """Set the weights at indices (n,); of an index that occurs twice, the last counts. O(n log capacity).

        Raises ValueError when a weight is negative or not finite.
        """
        weights = np.asarray(weights, np.float64)
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError("weights of a sum tree must be finite and at least 0")
        nodes = self.capacity + indices
        self._nodes[nodes] = weights
        if len(indices) * self._depth > self.capacity:
            for level in reversed(range(self._depth)):  # all parents
                children = self._nodes[2 << level : 4 << level]
                self._nodes[1 << level : 2 << level] = children[0::2] + children[1::2]
            return
        for _ in range(self._depth):
            nodes = nodes >> 1
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def find(self, prefixes: np.ndarray) -> np.ndarray:
        """(n,) indices of the leaves in which the prefix sums (n,), each in [0, total], fall. Needs total > 0."""
        rest = np.array(prefixes, np.float64)
        nodes = np.ones(len(rest), np.int64)
        for _ in range(self._depth):
            nodes *= 2
            left = self._nodes[nodes]
            # The second condition keeps rounding at the upper end from leading into an empty branch.
            go_right = (rest >= left) & (self._nodes[nodes + 1] > 0)
            rest -= np.where(go_right, left, 0)
            nodes += go_right
        return nodes - self.capacity

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count,) independent indices, proportional to the weights. Raises LookupError when all weights are 0."""
        if self.total <= 0:
            raise LookupError("all weights of the sum tree are 0")
        return self.find(rng.random(count) * self.total)

    def draw_distinct(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count,) distinct indices, in the order and with the law of: draw one, set its weight to 0, repeat.

        That law is the one of independent draws of which repetitions are skipped, so whole batches are drawn at
        once. Where they repeat too much, what was found is set to 0 for the next round; the weights are restored.
        Raises LookupError when fewer than ``count`` weights are positive.
        """
        chosen = np.zeros(0, np.int64)
        weights = np.zeros(0, np.float64)
        try:
            while True:
                draws = self.draw(count, rng)
                _, first = np.unique(draws, return_index=True)
                fresh = draws[np.sort(first)]
                chosen = np.concatenate([chosen, fresh])
                if len(chosen) >= count:
                    return chosen[:count]
                weights = np.concatenate([weights, self.get(fresh)])
                self.set(fresh, 0)
        finally:
            if len(weights):
                self.set(chosen[: len(weights)], weights)
