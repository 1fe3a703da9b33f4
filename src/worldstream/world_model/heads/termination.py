"""Predicts whether the episode ended with the next observation; truncation is not an end (method.md 5, C1)."""

from __future__ import annotations

from typing import final

from torch import Tensor

from worldstream.nn.layers import head
from worldstream.nn.outputs import Bernoulli
from worldstream.types import Batch
from worldstream.world_model.block import SUMMARY
from worldstream.world_model.heads.base import Head


@final
class TerminationHead(Head):
    """Linear -> LayerNorm -> SiLU -> one logit. d_t is read from the prediction of block t + 1, like the reward."""

    loss_name = "termination"
    positions = SUMMARY
    arrives_with_next = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = head(width, width, 1)

    def forward(self, latents: Tensor) -> Bernoulli:
        return Bernoulli(self.net(latents).squeeze(-1))

    def target(self, batch: Batch) -> Tensor:
        return batch.terminated.unsqueeze(-1)
