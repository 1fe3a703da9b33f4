"""The 125 fixed scalar levels of the published method (docs/method.md, "fixed levels").

In symlog space: 32 equally spaced points on [0, ln(1 + pi)] joined with 31 more up to 6, mirrored. Index 62 is zero;
the range is +-402 in raw units, the resolution 0.046 near zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from worldstream.specs import KeySpec
from worldstream.tokenizers.base import TokenizerOptions
from worldstream.tokenizers.levels import LevelTokenizer


def published_levels() -> Tensor:
    """(125,) levels in symlog space."""
    knee = math.log1p(math.pi)
    inner = torch.linspace(0.0, knee, 32, dtype=torch.float64)
    outer = torch.linspace(knee, 6.0, 32, dtype=torch.float64)[1:]
    positive = torch.cat((inner, outer))
    return torch.cat((-positive[1:].flip(0), positive)).float()


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedLevelsConfig(TokenizerOptions):
    """The published level set, a constant of the method without options."""

    def build(self, spec: KeySpec) -> FixedLevels:
        return FixedLevels(spec)


@final
class FixedLevels(LevelTokenizer):
    """One level set for all features; what the agent reads is the level, in symlog units."""

    def __init__(self, spec: KeySpec) -> None:
        super().__init__(published_levels().repeat(spec.shape[0], 1))

    def features(self, ids: Tensor) -> Tensor:
        return self.decode(ids).unsqueeze(-1)
