"""Features of all observation keys fused into one embedding.

Each key's encoder follows from its TokenSpec alone: tokens with features are read as numbers, tokens without are
embedded; codes on a grid go through convolutions when these are configured. A grid of categories does not: its tokens
are joined cells, or few enough to be read by their places, as the published agent does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldstream.nn.layers import FactoredEmbedding, mlp
from worldstream.specs import TokenSpec
from worldstream.types import Features


class KeyEncoder(nn.Module):
    """One key: (B, K, F) features or (B, K, C) ids -> (B, out_features)."""

    def __init__(self, spec: TokenSpec, *, embedding_width: int, grid_channels: tuple[int, ...]) -> None:
        super().__init__()
        self.embed = None if spec.feature_size else FactoredEmbedding(spec, embedding_width)
        self.grid = spec.grid if spec.coded and grid_channels else None
        width = spec.feature_size or embedding_width
        convolutions: list[nn.Module] = []
        if self.grid is not None:
            for channels in grid_channels:
                convolutions += [nn.Conv2d(width, channels, 3, padding=1), nn.SiLU()]
                width = channels
        self.convolutions = nn.Sequential(*convolutions)
        self.out_features = spec.num_tokens * width

    def forward(self, x: Tensor) -> Tensor:
        if self.embed is not None:
            x = self.embed(x)
        if self.grid is not None:
            x = self.convolutions(x.transpose(-1, -2).unflatten(-1, self.grid))
        return x.flatten(1)


class Encoder(nn.Module):
    """All keys, concatenated and fused (docs/method.md, "fused observation"): Linear -> LayerNorm -> SiLU, repeated."""

    def __init__(
        self,
        specs: dict[str, TokenSpec],
        *,
        hidden: tuple[int, ...],
        embedding_width: int,
        grid_channels: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.keys = list(specs)
        self.encoders = nn.ModuleList(
            KeyEncoder(spec, embedding_width=embedding_width, grid_channels=grid_channels) for spec in specs.values()
        )
        self.fuse = mlp((sum(encoder.out_features for encoder in self.encoders), *hidden))  # type: ignore[misc]

    def forward(self, features: Features) -> Tensor:
        """Features by key, (B, K, F) or ids (B, K, C) -> (B, hidden[-1])."""
        parts = [encode(features[key]) for key, encode in zip(self.keys, self.encoders, strict=True)]
        return self.fuse(torch.cat(parts, -1))
