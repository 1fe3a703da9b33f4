"""Tokens of stored observations, encoded once per version of the tokenizers.

A row is fresh when it was encoded by the current version for the observation that occupies it now. The serial number
of that observation is noted beside the row, so eviction needs to clear nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from worldstream.replay.rows import Columns, GrowingArrays, bytes_per_row
from worldstream.replay.store import ReplayStore
from worldstream.specs import TokenSpec, smallest_dtype
from worldstream.types import Observations

Encode = Callable[[Observations], dict[str, np.ndarray]]
"""Observations (n, ...) by key -> integer tokens (n, K, C) by key."""

_STAMP = np.dtype(np.int64)


def token_columns(specs: Mapping[str, TokenSpec]) -> Columns:
    """What is cached for each key, in the smallest integer type that holds the vocabulary."""
    shapes = {key: (spec.num_tokens, spec.num_channels) for key, spec in specs.items()}
    return {key: (shapes[key], smallest_dtype(max(spec.vocabulary))) for key, spec in specs.items()}


def cached_bytes_per_row(specs: Mapping[str, TokenSpec]) -> int:
    """Bytes that a cache keeps for one row of the store."""
    return bytes_per_row(token_columns(specs)) + _STAMP.itemsize


class TokenCache:
    """Tokens beside the rows of a store. The cache grows with it, and is not part of its ``max_bytes``."""

    def __init__(self, store: ReplayStore, specs: Mapping[str, TokenSpec]) -> None:
        self._store = store
        self._specs = dict(specs)
        self._tokens = GrowingArrays(token_columns(specs), store.ring.capacity)
        self._version = 0
        self.clear()

    def clear(self) -> None:
        """Forget all tokens. Needed only after the store was loaded from a checkpoint: serial numbers may repeat."""
        # By row: 1 + the serial number that was encoded, so that zero means never. Untouched pages cost nothing.
        self._stamps = np.zeros(self._store.ring.capacity, _STAMP)

    def state_dict(self, version: int) -> dict[str, Any]:
        """Tokens of the stored observations that are encoded by ``version``, with the serial numbers of their rows."""
        serials = self._store.ring.stored_serials()
        rows = self._store.ring.rows_of(serials)
        fresh = self._is_fresh(rows, version)
        return {"serials": serials[fresh], "tokens": {key: self._tokens[key][rows[fresh]] for key in self._specs}}

    def load_state_dict(self, state: dict[str, Any], version: int) -> None:
        """Continue from ``state_dict``; load the store first."""
        self.clear()
        self._put(self._store.ring.rows_of(state["serials"]), state["tokens"], version)

    def tokens(self, rows: np.ndarray, version: int, encode: Encode) -> dict[str, np.ndarray]:
        """Tokens at rows, encoding those that are not fresh.

        Args:
            rows: any shape, such as the (B, T) of ``Segments.rows``.
            version: changes whenever ``encode`` does.
            encode: called at most once, with each stale observation once. ValueError for what does not fit the specs.

        Returns:
            key -> (*rows.shape, K, C) in the dtype of the cache.
        """
        fresh = self._is_fresh(rows, version)
        if not fresh.all():
            self._encode(np.unique(rows[~fresh]), version, encode)
        return {key: self._tokens[key].take(rows, axis=0) for key in self._specs}

    def _is_fresh(self, rows: np.ndarray, version: int) -> np.ndarray:
        fresh: np.ndarray = self._stamps[rows] == self._store.ring.serials_of(rows) + 1
        return fresh & (version == self._version)

    def _put(self, rows: np.ndarray, tokens: dict[str, np.ndarray], version: int) -> None:
        if tokens.keys() != self._specs.keys():
            raise ValueError(f"tokens of keys {sorted(tokens)}; expected {sorted(self._specs)}")
        for key, spec in self._specs.items():
            values, expected = tokens[key], (len(rows), spec.num_tokens, spec.num_channels)
            if values.shape != expected:
                raise ValueError(f"tokens of '{key}' have shape {values.shape}; expected {expected}")
            if math.prod(expected) and ((values < 0) | (values >= np.array(spec.vocabulary))).any():
                raise ValueError(f"tokens of '{key}' are outside of the vocabulary {spec.vocabulary}")
        if version != self._version:
            self._version = version
            self.clear()
        self._tokens.ensure(self._store.ring.num_used_rows)
        for key, values in tokens.items():
            self._tokens[key][rows] = values
        self._stamps[rows] = self._store.ring.serials_of(rows) + 1

    def _encode(self, rows: np.ndarray, version: int, encode: Encode) -> None:
        encoded = encode(self._store.observations(rows))
        self._put(rows, encoded, version)
