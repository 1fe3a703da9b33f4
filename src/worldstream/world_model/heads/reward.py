"""Predicts the reward that arrives with the next observation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from worldstream.nn import SCALAR_OUTPUTS
from worldstream.nn.numerics import symexp, symlog
from worldstream.nn.outputs import Output
from worldstream.nn.scalars import NUM_BINS
from worldstream.types import EXTRINSIC, Batch, Tokens
from worldstream.world_model.block import SUMMARY, BlockLayout
from worldstream.world_model.heads.base import Head, HeadConfig

REWARD_LIMIT = 10.39486
"""Range of the reward bins in symlog space: symlog(symexp(15) / 100), raw rewards up to +-32,690."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardConfig(HeadConfig):
    """The environment's reward."""

    output: str = "hl_gauss"
    """Scalar output."""

    yields: ClassVar[tuple[str, ...]] = (EXTRINSIC,)

    def build(self, layout: BlockLayout, width: int) -> list[Head]:
        return [RewardHead(self, width)]


@final
class RewardHead(Head):
    """Linear -> SiLU -> scalar output. The reward r_t is read from the prediction of block t + 1."""

    positions = SUMMARY
    arrives_with_next = True

    def __init__(self, config: RewardConfig, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU())
        support = symlog(symexp(torch.linspace(-15, 15, NUM_BINS)) / 100)
        self.scalar = SCALAR_OUTPUTS[config.output](2 * width, limit=REWARD_LIMIT, bias_support=support)

    def forward(self, latents: Tensor) -> Output:
        output: Output = self.scalar(self.net(latents))
        return output

    def loss(self, latents: Tensor, batch: Batch) -> Tensor:
        target = batch.rewards.unsqueeze(-1).to(torch.float32)
        if self.training:
            self.scalar.remember(target)
        return self.forward(latents).loss(target).squeeze(-1)

    def predict(self, latents: Tensor, previous: Tokens, generator: torch.Generator | None) -> dict[str, Tensor]:
        """(B, 1, E) -> (B,) expected rewards."""
        return {EXTRINSIC: self.forward(latents).mean.squeeze(-1)}
