"""A complete binary tree of partial sums over non-negative weights, with draws proportional to them.

Nodes are one array: node 1 is the root, the children of i are 2 i and 2 i + 1, the leaves are the last half. Every
parent is always computed from its two children (never by adding differences), so rounding errors do not accumulate
and equal leaves give equal trees.
"""

from __future__ import annotations

import numpy as np


class SumTree:
    """Weights at indices 0 .. capacity - 1, all 0 at first.

    Args:
        capacity: number of leaves, at least 1; rounded up to a power of two.
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

        Raises:
            ValueError: a weight is negative or not finite.
        """
        weights = np.asarray(weights, np.float64)
        if not (np.isfinite(weights) & (weights >= 0)).all():
            raise ValueError("weights of a sum tree must be finite and at least 0")
        nodes = self.capacity + indices
        self._nodes[nodes] = weights
        if len(indices) * self._depth > self.capacity:
            self._rebuild()
            return
        for _ in range(self._depth):
            nodes = nodes >> 1
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def grow(self, capacity: int) -> None:
        """Make room for at least ``capacity`` leaves; weights stay."""
        if capacity <= self.capacity:
            return
        leaves = self._nodes[self.capacity :]
        self.capacity = 1 << (capacity - 1).bit_length()
        self._depth = self.capacity.bit_length() - 1
        self._nodes = np.zeros(2 * self.capacity, np.float64)
        self._nodes[self.capacity : self.capacity + len(leaves)] = leaves
        self._rebuild()

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

        Raises:
            LookupError: fewer than ``count`` weights are positive.
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

    def _rebuild(self) -> None:
        for level in reversed(range(self._depth)):
            children = self._nodes[2 << level : 4 << level]
            self._nodes[1 << level : 2 << level] = children[0::2] + children[1::2]
