"""Data-fitted scalar levels: resolution goes where the data is.

The fixed level set spends 125 levels on +-402; a pole angle of +-0.2 gets nine of them (C18). Here each feature has its
own levels: a share at quantiles of the data seen so far, the rest spread evenly over the seen range and a margin, so
that rare and slightly new values keep a usable resolution. Levels live in symlog space, which bounds the effect of
outliers. Features are standardised with the mean and deviation of the same data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

import torch
from torch import Tensor

from worldstream.options import Between
from worldstream.specs import KeySpec
from worldstream.tokenizers.levels import LevelOptions, LevelTokenizer, published_levels

RANGE_MARGIN = 0.25
"""How far the evenly spread levels reach beyond the seen range, as a share of it, on each side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedLevelsConfig(LevelOptions):
    """Levels that are fitted to the data."""

    num_levels: Annotated[int, Between(2)] = 125
    """Levels of a feature. (The fixed level set has 125 by definition.)"""
    uniform_share: Annotated[float, Between(0, 1)] = 0.5
    """Share of the levels spread evenly over the seen range; the others sit at quantiles."""

    def make(self, spec: KeySpec) -> FittedLevels:
        return FittedLevels(spec, self)


@final
class FittedLevels(LevelTokenizer):
    """Levels of each feature's own. Before the first ``fit`` they are evenly spread over +-6 in symlog space."""

    adaptive = True
    location: Tensor
    scale: Tensor

    def __init__(self, spec: KeySpec, config: FittedLevelsConfig) -> None:
        num_features, limit = spec.shape[0], float(published_levels()[-1])
        super().__init__(torch.linspace(-limit, limit, config.num_levels).repeat(num_features, 1))
        self.num_quantiles = config.num_levels - round(config.uniform_share * config.num_levels)
        self.register_buffer("location", torch.zeros(num_features))
        self.register_buffer("scale", torch.ones(num_features))

    def features(self, ids: Tensor) -> Tensor:
        return ((self.decode(ids) - self.location) / self.scale).unsqueeze(-1)

    @torch.no_grad()
    def fit(self, x: Tensor) -> bool:
        """Place the levels of each feature from data x (N, D) in symlog space. Always changes the ids' meaning."""
        num_levels = self.spec.vocabulary[0]
        low, high = x.amin(0), x.amax(0)
        spread = torch.where(high > low, high - low, torch.ones_like(low)) * RANGE_MARGIN
        steps = torch.linspace(0.0, 1.0, num_levels - self.num_quantiles, device=x.device)
        even = torch.lerp((low - spread)[:, None], (high + spread)[:, None], steps)
        # Mid-point quantiles, nearest data point: a feature with few distinct values gets exactly these as levels.
        ranks = (torch.arange(self.num_quantiles, device=x.device) + 0.5) / max(self.num_quantiles, 1) * (len(x) - 1)
        quantiles = x.sort(0).values[ranks.round().long()].t()
        self.quantizer.levels.copy_(torch.cat((even, quantiles), 1).sort(1).values)
        self.location.copy_(x.mean(0))
        deviation = x.std(0, correction=0)
        self.scale.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))
        return True
