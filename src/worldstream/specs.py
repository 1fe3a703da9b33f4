"""Specs: frozen, JSON-serialisable descriptions that travel instead of environments and spaces.

``KeySpec``     what one observation key is, as stored (made by ``modalities`` from a space)
``ActionSpec``  what an action is: named components, each a run of integer tokens (made by ``actions``)
``TokenSpec``   what one key looks like after tokenization; all that the world model and the agent may know

An action is *always* a vector of M integer ids, one per action token; a continuous dimension is one token with
equally spaced levels. The policy acts on exactly these levels, so nothing is lost by storing ids.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


def smallest_dtype(num_values: int) -> np.dtype:
    """The smallest dtype of {uint8, uint16, int32} that holds 0 .. num_values - 1."""
    for dtype in (np.uint8, np.uint16):
        if num_values - 1 <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    return np.dtype(np.int32)


@dataclass(frozen=True, kw_only=True)
class KeySpec:
    """One observation key as it is stored in replay."""

    key: str
    """Path of the key inside the observation space, parts joined by "/"; "observation" for a space without keys."""
    modality: str
    """Name in the registry of modalities."""
    shape: tuple[int, ...]
    """Shape of one stored item."""
    dtype: str
    """NumPy dtype of one stored item."""
    vocabulary: tuple[int, ...] = ()
    """Categorical keys: number of values of each channel. Empty for keys that are not categorical."""
    grid: tuple[int, int] | None = None
    """(rows, columns) when positions of the key form a grid."""
    offset: tuple[int, ...] = ()
    """Categorical keys: value that id 0 of each channel stands for. Empty: 0 everywhere."""
    space_shape: tuple[int, ...] | None = None
    """Shape of the value in the environment's observation. None: unknown, any shape of the right size is taken."""

    @property
    def num_bytes(self) -> int:
        """Bytes of one stored item."""
        import numpy as np

        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class ActionComponent:
    """One leaf of an action space, as a run of integer tokens."""

    path: str
    """Path inside the action space, parts joined by "/"; "action" for a space that is itself a leaf."""
    kind: str
    """Name in the registry of action kinds."""
    sizes: tuple[int, ...]
    """Number of values of each token of the component."""
    shape: tuple[int, ...]
    """Shape of the leaf in the environment's action; () for a scalar."""
    dtype: str
    """NumPy dtype of the leaf in the environment's action."""
    low: tuple[float, ...] = ()
    """Continuous: lower bound per token. Discrete: (start,) values that id 0 stands for, where they are not 0."""
    high: tuple[float, ...] = ()
    """Continuous: upper bound per token."""
    ordinal: bool = False
    """True when ids are levels on a line, so that the agent may read them as numbers in [-1, 1]."""


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """A whole action: M integer tokens, cut into named components."""

    components: tuple[ActionComponent, ...]
    structure: Any
    """How the environment nests the leaves: a path (leaf), {"dict": {name: structure}} or {"tuple": [structure]}."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of values of each of the M tokens."""
        return tuple(size for component in self.components for size in component.sizes)

    @property
    def ordinal(self) -> tuple[bool, ...]:
        """Whether the values of each of the M tokens are levels on a line."""
        return tuple(component.ordinal for component in self.components for _ in component.sizes)

    @property
    def num_tokens(self) -> int:
        """M."""
        return len(self.sizes)


Specs = tuple[dict[str, KeySpec], ActionSpec]
"""What is observed, by key, and what is done."""


@dataclass(frozen=True, kw_only=True)
class TokenSpec:
    """One observation key after tokenization: ids of shape (..., K, C)."""

    num_tokens: int
    """K, token positions of one observation."""
    vocabulary: tuple[int, ...]
    """(C,) number of values of each channel of a token."""
    grid: tuple[int, int] | None = None
    """(rows, columns), rows * columns = K, when positions form a grid."""
    ordered: bool = False
    """True when ids are levels on a line, so that neighbouring ids mean similar things."""
    feature_size: int = 0
    """F of the features that the tokenizer gives the agent per token; 0: the ids themselves, which the agent embeds."""
    coded: bool = False
    """True when these features say what a token shows (learned codes, or the picture itself), so that the world model
    may embed them instead of the ids."""

    @property
    def num_channels(self) -> int:
        """C."""
        return len(self.vocabulary)
