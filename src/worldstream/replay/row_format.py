"""What one replay row consists of, and the checks of what is written into it."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike

from worldstream.replay.arrays import Columns, GrowingArrays
from worldstream.types import Observations


class RowFormat:
    """Columns of a row: one per observation key, and the facts about the action taken there.

    Args:
        arrays: observation key -> (shape of one item, dtype), as stored.
        num_action_tokens: M.
        action_dtype: integer dtype of stored action ids.
        num_streams: N, leading axis of everything that is written.
    """

    def __init__(self, arrays: Columns, num_action_tokens: int, action_dtype: DTypeLike, num_streams: int) -> None:
        self.num_streams = num_streams
        self.observations: Columns = {key: (tuple(shape), np.dtype(dtype)) for key, (shape, dtype) in arrays.items()}
        self.facts: Columns = {
            "actions": ((num_action_tokens,), np.dtype(action_dtype)),
            "rewards": ((), np.dtype(np.float32)),
            "terminated": ((), np.dtype(np.bool_)),
            "truncated": ((), np.dtype(np.bool_)),
            "acted": ((), np.dtype(np.bool_)),
            # The observation that ends a terminated episode. A column of its own, because the row before it, whose
            # ``terminated`` says the same, may be evicted first.
            "terminal": ((), np.dtype(np.bool_)),
            "episode": ((), np.dtype(np.int64)),
        }
        self.bytes_per_row = sum(map(GrowingArrays.bytes_per_row_of, (self.observations, self.facts)))

    def describe(self) -> str:
        """One line that is equal for equal formats."""
        columns = {**self.observations, "action": self.facts["actions"]}
        return ", ".join(f"{name}: {dtype}{list(shape)}" for name, (shape, dtype) in sorted(columns.items()))

    # NumPy would broadcast a wrong shape and wrap a wrong dtype without a word; hence the checks.

    def check_observations(self, observations: Observations) -> None:
        """Raises ValueError unless the keys, shapes (N, ...) and dtypes are those of the format."""
        if observations.keys() != self.observations.keys():
            raise ValueError(f"observation keys {sorted(observations)}; the store has {sorted(self.observations)}")
        for key, (shape, dtype) in self.observations.items():
            value = observations[key]
            if value.shape != (self.num_streams, *shape) or value.dtype != dtype:
                raise ValueError(
                    f"observation '{key}' is {value.dtype} {value.shape}; "
                    f"the store expects {dtype} {(self.num_streams, *shape)}"
                )

    def check_transition(
        self, actions: np.ndarray, rewards: np.ndarray, terminated: np.ndarray, truncated: np.ndarray
    ) -> None:
        """Raises ValueError unless actions are (N, M) ids that fit their dtype and the others are (N,)."""
        shape, dtype = self.facts["actions"]
        limits = np.iinfo(np.dtype(dtype))
        if actions.shape != (self.num_streams, *shape) or actions.dtype.kind not in "iu":
            raise ValueError(f"actions are {actions.dtype} {actions.shape}; expected ids {(self.num_streams, *shape)}")
        if actions.size and (actions.min() < limits.min or actions.max() > limits.max):
            raise ValueError(f"action ids {actions.min()} .. {actions.max()} do not fit the store's {limits.dtype}")
        for name, value in (("rewards", rewards), ("terminated", terminated), ("truncated", truncated)):
            if value.shape != (self.num_streams,):
                raise ValueError(f"{name} has shape {value.shape}; expected {(self.num_streams,)}")
        if terminated.dtype != np.bool_ or truncated.dtype != np.bool_:
            raise ValueError(f"terminated and truncated must be bool; got {terminated.dtype}, {truncated.dtype}")
