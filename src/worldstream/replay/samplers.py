"""The interface of samplers, and the uniform one.

A sampler gives ids of rows that its ``Role`` accepts; it reads the store but never writes to it. While fewer rows
are eligible than a batch asks for, rows are drawn *with* repetition; otherwise no row occurs twice in a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, final

import numpy as np

from worldstream.replay.eligibility import EligibleRows, Role
from worldstream.replay.store import ReplayStore


class Sampler(ABC):
    """Draws stable ids. Constructors take (store, rng, role) and options."""

    learns: bool
    """Whether ``update`` changes what is drawn."""

    @property
    @abstractmethod
    def num_eligible(self) -> int:
        """Rows that may be drawn now."""

    @abstractmethod
    def sample(self, batch_size: int) -> np.ndarray:
        """(B,) int64 ids. Raises LookupError when no row is eligible."""

    @abstractmethod
    def update(self, ids: np.ndarray, values: np.ndarray) -> None:
        """Report what training found at ids (n,), such as losses (n,), at any later time.

        Ids that were evicted since they were drawn are ignored. Raises ValueError for values that are not finite.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that decides future samples, the state of the generator included."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``; load the store first."""


@final
class UniformSampler(Sampler):
    """Every eligible row is equally likely.

    Args:
        store: the rows.
        rng: generator that this sampler draws from.
        role: which rows are eligible.
    """

    learns = False

    def __init__(self, store: ReplayStore, rng: np.random.Generator, role: Role) -> None:
        self._rng = rng
        self._eligible = EligibleRows(store, role)

    @property
    def num_eligible(self) -> int:
        self._eligible.refresh()
        return self._eligible.count

    def sample(self, batch_size: int) -> np.ndarray:
        count = self.num_eligible
        require_eligible(count)
        # Generator.choice costs O(batch) where the batch is a small share of the rows.
        positions = self._rng.choice(count, batch_size, replace=count < batch_size)
        return self._eligible.ids_at(positions)

    def update(self, ids: np.ndarray, values: np.ndarray) -> None:
        checked_values(ids, values)

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state["rng"]
        self._eligible.reset()


def require_eligible(count: int) -> None:
    """Raises LookupError when ``count`` is 0."""
    if count == 0:
        raise LookupError("replay has no eligible row yet: collect more steps, or ask for shorter segments")


def checked_values(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``values`` as float64 (n,). Raises ValueError when the shape is not that of ids (n,) or a value is not finite."""
    values = np.asarray(values, np.float64)
    if values.shape != ids.shape:
        raise ValueError(f"{ids.shape} ids but {values.shape} values")
    if not np.isfinite(values).all():
        raise ValueError(f"values are not finite at ids {ids[~np.isfinite(values)].tolist()}")
    return values
