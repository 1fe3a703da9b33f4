"""Scalar quantisation: each feature of a vector becomes a token, the index of its nearest level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from worldstream.specs import KeySpec, TokenSpec
from worldstream.tokenizers.base import Tokenizer, TokenizerOptions


class LevelQuantizer(nn.Module):
    """Nearest of ``levels`` (D, V), non-decreasing along V, in symlog space; values outside of them saturate."""

    levels: Tensor

    def __init__(self, levels: Tensor) -> None:
        super().__init__()
        self.register_buffer("levels", levels)

    def encode(self, x: Tensor) -> Tensor:
        """(..., D) -> int64 (..., D). Cells meet half-way between levels; a tie goes up."""
        low, high = self.levels[:, :-1], self.levels[:, 1:]
        # Levels that occur several times (data with few distinct values) share one cell, which is the last one's.
        borders = torch.where(low == high, -torch.inf, (low + high) / 2).cummax(-1).values
        columns = x.reshape(-1, x.shape[-1]).t().contiguous()
        return torch.searchsorted(borders, columns, right=True).t().reshape(x.shape)

    def decode(self, ids: Tensor) -> Tensor:
        """int64 (..., D) -> (..., D) levels."""
        return self.levels[torch.arange(len(self.levels), device=ids.device), ids]


class LevelTokenizer(Tokenizer):
    """D features, one token each, of ``levels`` (D, V)."""

    def __init__(self, levels: Tensor) -> None:
        super().__init__()
        num_features, num_levels = levels.shape
        self.spec = TokenSpec(num_tokens=num_features, vocabulary=(num_levels,), ordered=True, feature_size=1)
        self.quantizer = LevelQuantizer(levels)

    def encode(self, x: Tensor) -> Tensor:
        return self.quantizer.encode(x).unsqueeze(-1)

    def decode(self, ids: Tensor) -> Tensor:
        return self.quantizer.decode(ids.squeeze(-1))


def published_levels() -> Tensor:
    """(125,) fixed levels of the published method, in symlog space (docs/method.md, "fixed levels").

    32 equally spaced points on [0, ln(1 + pi)] joined with 31 more up to 6, mirrored. Index 62 is zero; the range is
    +-402 in raw units, the resolution 0.046 near zero.
    """
    knee = math.log1p(math.pi)
    inner = torch.linspace(0.0, knee, 32, dtype=torch.float64)
    outer = torch.linspace(knee, 6.0, 32, dtype=torch.float64)[1:]
    positive = torch.cat((inner, outer))
    return torch.cat((-positive[1:].flip(0), positive)).float()


class LevelOptions(TokenizerOptions):
    """Options of tokenizers of vectors."""

    __slots__ = ()

    @classmethod
    def reads(cls, spec: KeySpec) -> bool:
        return spec.dtype.startswith("float") and len(spec.shape) == 1


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedLevelsConfig(LevelOptions):
    """The published level set, a constant of the method without options."""

    def make(self, spec: KeySpec) -> FixedLevels:
        return FixedLevels(spec)


@final
class FixedLevels(LevelTokenizer):
    """One level set for all features; what the agent reads is the level, in symlog units."""

    def __init__(self, spec: KeySpec) -> None:
        super().__init__(published_levels().repeat(spec.shape[0], 1))

    def features(self, ids: Tensor) -> Tensor:
        return self.decode(ids).unsqueeze(-1)
