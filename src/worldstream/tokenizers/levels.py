"""Scalar quantisation: each feature of a vector becomes a token, the index of its nearest level."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldstream.specs import TokenSpec
from worldstream.tokenizers.base import Tokenizer


class LevelQuantizer(nn.Module):
    """Nearest-level quantiser of D features with V levels each; values outside of the levels saturate.

    Args:
        levels: (D, V), non-decreasing along V, in symlog space.
    """

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
    """D features, one token each, with V levels.

    Args:
        levels: (D, V), see ``LevelQuantizer``.
    """

    def __init__(self, levels: Tensor) -> None:
        super().__init__()
        num_features, num_levels = levels.shape
        self.spec = TokenSpec(num_tokens=num_features, vocabulary=(num_levels,), ordered=True, feature_size=1)
        self.quantizer = LevelQuantizer(levels)

    def encode(self, x: Tensor) -> Tensor:
        return self.quantizer.encode(x).unsqueeze(-1)

    def decode(self, ids: Tensor) -> Tensor:
        return self.quantizer.decode(ids.squeeze(-1))
