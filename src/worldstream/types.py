"""Containers that cross a seam. Axes: B batch, T time, K tokens, C channels, M action tokens, N environments.

Time: ``action[t]`` is chosen at observation t; ``reward[t]``, ``terminated[t]`` and ``truncated[t]`` are caused by
``action[t]``. An episode of T actions has T + 1 observations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

Observations = dict[str, np.ndarray]
"""Stored observations by key; every array has the same leading axes."""

Tokens = dict[str, Tensor]
"""int64 token ids by key, each of shape (..., K, C)."""

Features = dict[str, Tensor]
"""What the agent reads, by key: (..., K, F) floats, or the ids (..., K, C) where the key has no features."""

EXTRINSIC = "extrinsic"
"""Name of the environment's own reward among the rewards of imagination."""

Policy = Callable[[Features, Any, torch.Generator | None], tuple[Tensor, Any, dict[str, Any]]]
"""(features, carry, generator) -> (action ids (B, M), carry, info). The one way to choose actions."""


@dataclass(frozen=True)
class Batch:
    """Segments of replay with their tokens, on the training device. Fields as in ``replay.segments.Segments``."""

    anchors: np.ndarray  # (B,) int64
    tokens: Tokens  # (B, T, K, C) int64
    actions: Tensor  # (B, T, M) int64
    rewards: Tensor  # (B, T) float32
    terminated: Tensor  # (B, T) bool
    observed: Tensor  # (B, T) bool
    acted: Tensor  # (B, T) bool
    weights: Tensor | None = None
    """(B,) float32, how much a segment counts in means of losses; None: all alike."""
    padded: bool = True
    """Whether a row may hold padding before its last observation; on the host, since asking the device would stall."""

    def without_last(self) -> Batch:
        """All blocks but the last."""
        tensors: dict[str, Any] = {
            name: x[:, :-1] for name, x in vars(self).items() if isinstance(x, Tensor) and name != "weights"
        }
        return replace(self, tokens={key: x[:, :-1] for key, x in self.tokens.items()}, **tensors)


@dataclass(frozen=True)
class Trajectories:
    """B imagined trajectories of H steps."""

    tokens: Tokens  # (B, H + 1, K, C)
    actions: Tensor  # (B, H, M)
    rewards: dict[str, Tensor]  # (B, H) by name, those that were asked for
    terminated: Tensor  # (B, H) bool
    info: dict[str, Tensor]  # (B, H + 1, ...) what the policy reported at each state
