"""The seam of tokenizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor, nn

from worldstream.specs import TokenSpec


def _default_choice() -> dict[str, str]:
    return {"vector": "fitted_levels", "categorical": "identity", "grid": "identity"}


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerConfig:
    """Which tokenizer each modality gets, and their sizes."""

    choice: dict[str, str] = field(default_factory=_default_choice)
    """Tokenizer (a name in the registry) for each modality."""
    num_levels: int = 125
    """Fitted levels: number of levels of a feature. (The fixed level set has 125 by definition.)"""
    uniform_levels: float = 0.5
    """Fitted levels: share of the levels spread evenly over the seen range; the others sit at quantiles."""
    cells_per_token: int = 1
    """Grids: neighbouring cells, part of a row or whole rows, that share one token (more channels, shorter blocks).
    0: all cells are one token."""


class Tokenizer(nn.Module, ABC):
    """One observation key: tensors of its modality <-> ids (..., K, C).

    Constructor: ``(spec: KeySpec, config: TokenizerConfig)``.
    """

    spec: TokenSpec
    trainable: bool = False
    """True when ``losses`` returns gradients; fixed and fitted tokenizers have none."""

    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """Modality tensor (..., *shape) -> int64 ids (..., K, C)."""

    @abstractmethod
    def decode(self, ids: Tensor) -> Tensor:
        """ids (..., K, C) -> modality tensor; ``encode(decode(ids)) == ids`` for every id that encode returns."""

    @abstractmethod
    def features(self, ids: Tensor) -> Tensor:
        """What the agent reads: (..., K, F) floats, or the ids themselves when ``spec.feature_size`` is 0."""

    def losses(self, x: Tensor) -> dict[str, Tensor]:
        """Named (B, T) losses of a trainable tokenizer; empty for the others."""
        return {}

    def fit(self, x: Tensor) -> bool:
        """Adapt to data (N, *shape) without gradients; True when ids changed their meaning."""
        return False
