"""Features of all observation keys fused into one embedding.

Each key's encoder follows from its TokenSpec alone: tokens with features are read as numbers, tokens without are
embedded; codes on a grid go through convolutions when these are configured. A grid of categories does not: its tokens
are joined cells, or few enough to be read by their places, as the published agent does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from worldstream.nn.layers import FactoredEmbedding, mlp
from worldstream.options import Between
from worldstream.specs import TokenSpec
from worldstream.types import Features


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Sizes of the encoder."""

    hidden: Annotated[tuple[Annotated[int, Between(1)], ...], Between(1)] = (128,)
    """Sizes of the fusing layers; the last is also the width of the LSTM."""
    embedding_width: Annotated[int, Between(1)] = 32
    """Width of the embedding of tokens that have no features."""
    code_width: Annotated[int, Between(0)] = 0
    """Width to which the features of each token are mapped first, where they say what it shows; 0: as they are. Wide
    ones would make the convolutions, or the fusing layer, large."""
    grid_channels: tuple[Annotated[int, Between(1)], ...] = ()
    """Channels of 3x3 convolutions over keys whose tokens are learned codes on a grid; empty: flatten."""


class KeyEncoder(nn.Module):
    """One key: (B, K, F) features or tokens (B, K, C) -> (B, out_features)."""

    def __init__(self, spec: TokenSpec, config: EncoderConfig) -> None:
        super().__init__()
        self.embed = None if spec.feature_size else FactoredEmbedding(spec, config.embedding_width)
        self.grid = spec.grid if spec.coded and config.grid_channels else None
        width = spec.feature_size or config.embedding_width
        self.narrow: nn.Module = nn.Identity()
        if spec.coded and config.code_width:
            self.narrow, width = nn.Linear(width, config.code_width), config.code_width
        convolutions: list[nn.Module] = []
        if self.grid is not None:
            for channels in config.grid_channels:
                convolutions += [nn.Conv2d(width, channels, 3, padding=1), nn.SiLU()]
                width = channels
        self.convolutions = nn.Sequential(*convolutions)
        self.out_features = spec.num_tokens * width

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(x if self.embed is None else self.embed(x))
        if self.grid is not None:
            x = self.convolutions(x.transpose(-1, -2).unflatten(-1, self.grid))
        return x.flatten(1)


class Encoder(nn.Module):
    """All keys, concatenated and fused (docs/method.md, "fused observation"): Linear -> LayerNorm -> SiLU, repeated."""

    def __init__(self, specs: dict[str, TokenSpec], config: EncoderConfig) -> None:
        super().__init__()
        self.keys = list(specs)
        self.encoders = nn.ModuleList(KeyEncoder(spec, config) for spec in specs.values())
        self.fuse = mlp((sum(encoder.out_features for encoder in self.encoders), *config.hidden))  # type: ignore[misc]

    def forward(self, features: Features) -> Tensor:
        """Features by key, (B, K, F) or tokens (B, K, C) -> (B, hidden[-1])."""
        parts = [encode(features[key]) for key, encode in zip(self.keys, self.encoders, strict=True)]
        return self.fuse(torch.cat(parts, -1))
