"""Random network distillation (Burda et al. 2019, arXiv 1810.12894): novelty as an intrinsic reward.

A predictor learns what a fixed random network makes of the latents of a prediction. Where it has often been trained
its error is small, so that the error, in units of its standard deviation over all training, rewards what is new. The
latents come without gradient and are normalised, in the place of the observations of the paper; while the world model
changes them, everything becomes a little newer again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, cast, final

import torch
from torch import Tensor, nn

from worldstream.nn.layers import head
from worldstream.options import Between
from worldstream.types import Batch, Tokens
from worldstream.world_model.block import SUMMARY, BlockLayout
from worldstream.world_model.heads.base import Head, HeadConfig

SILU_POWER = 0.36
"""E[silu(z)^2] of a standard normal z: what the last layer of the random network reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NoveltyConfig(HeadConfig):
    """Random network distillation."""

    num_features: Annotated[int, Between(1)] = 64
    """Outputs of the random network."""

    yields: ClassVar[tuple[str, ...]] = ("novelty",)

    def build(self, layout: BlockLayout, width: int) -> list[Head]:
        return [NoveltyHead(self, width)]


@final
class NoveltyHead(Head):
    """The random network, its predictor, and the running moments of the error."""

    positions = SUMMARY
    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, config: NoveltyConfig, width: int) -> None:
        super().__init__()
        self.target = head(width, 2 * width, config.num_features).requires_grad_(False)
        unit = (SILU_POWER * 2 * width) ** -0.5  # makes outputs of unit variance
        nn.init.normal_(cast(nn.Linear, self.target[-1]).weight, std=unit)
        self.predictor = head(width, 2 * width, config.num_features)
        for name in ("count", "mean", "squares"):  # number, mean and sum of squared deviations of the errors
            self.register_buffer(name, torch.zeros(()))

    def _error(self, latents: Tensor) -> Tensor:
        """(..., 1, E) -> (...,) squared error, averaged over the outputs."""
        x = nn.functional.layer_norm(latents.detach().squeeze(-2), latents.shape[-1:])
        return (self.predictor(x) - self.target(x)).square().mean(-1)

    def loss(self, latents: Tensor, batch: Batch) -> Tensor:
        return self._error(latents)

    def learned(self, loss: Tensor, mask: Tensor) -> None:
        """Add the errors that count to the moments (Chan et al. 1979)."""
        number = mask.sum()
        mean = torch.where(mask, loss, 0.0).sum() / number.clamp(min=1)
        squares = torch.where(mask, loss - mean, 0.0).square().sum()
        total, gap = self.count + number, mean - self.mean
        share = number / total.clamp(min=1)
        moments = (total, self.mean + gap * share, self.squares + squares + gap**2 * self.count * share)
        for buffer, value in zip((self.count, self.mean, self.squares), moments, strict=True):
            buffer.copy_(value)

    @property
    def deviation(self) -> Tensor:
        """() standard deviation of all errors of training; 1 before there are two."""
        return torch.where(self.count > 1, (self.squares / self.count.clamp(min=1)).sqrt(), 1.0).clamp(min=1e-6)

    @torch.no_grad()
    def predict(self, latents: Tensor, previous: Tokens, generator: torch.Generator | None) -> dict[str, Tensor]:
        """(B,) error in standard deviations."""
        return {"novelty": self._error(latents) / self.deviation}
