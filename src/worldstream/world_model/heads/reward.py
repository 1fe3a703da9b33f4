"""Predicts the reward that arrives with the next observation (method.md section 5)."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from worldstream.nn import SCALAR_OUTPUTS
from worldstream.nn.numerics import symexp, symlog
from worldstream.nn.outputs import Output
from worldstream.nn.scalars import NUM_BINS
from worldstream.types import Batch
from worldstream.world_model.block import SUMMARY
from worldstream.world_model.heads.base import Head

REWARD_LIMIT = 10.39486
"""Range of the reward bins in symlog space: symlog(symexp(15) / 100), raw rewards up to +-32,690."""


@final
class RewardHead(Head):
    """Linear -> SiLU -> scalar output. The reward r_t is read from the prediction of block t + 1.

    Args:
        width: E.
        output: name of the scalar output.
        scale: the output is about this many times the reward. Bins are 0.16 apart at zero in symlog space, so that a
            reward of 0.3 lies two bins from none, and the tails of "none" add up to a sizeable part of it.
    """

    loss_name = "reward"
    positions = SUMMARY
    arrives_with_next = True

    def __init__(self, width: int, *, output: str, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.net = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU())
        support = symlog(symexp(torch.linspace(-15, 15, NUM_BINS)) / 100)
        self.scalar = SCALAR_OUTPUTS[output](2 * width, limit=REWARD_LIMIT, bias_support=support)

    def forward(self, latents: Tensor) -> Output:
        output: Output = self.scalar(self.net(latents))
        return output

    def predict(self, latents: Tensor) -> Tensor:
        """(B, 1, E) -> (B,) expected rewards."""
        return self.forward(latents).mean.squeeze(-1) / self.scale

    def target(self, batch: Batch) -> Tensor:
        return self.scale * batch.rewards.unsqueeze(-1).to(torch.float32)
