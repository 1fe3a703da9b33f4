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
    """Linear -> LayerNorm -> SiLU -> logit. d_t is read from the prediction of block t + 1, like the reward.

    Args:
        width: E.
        num_logits: 1, or 2 (of going on and of the end) whose difference is the logit: the same distribution, in the
            form that the published agent keeps it.
    """

    loss_name = "termination"
    positions = SUMMARY
    arrives_with_next = True

    def __init__(self, width: int, *, num_logits: int = 1) -> None:
        super().__init__()
        self.net = head(width, width, num_logits)

    def forward(self, latents: Tensor) -> Bernoulli:
        logits: Tensor = self.net(latents)
        return Bernoulli(logits.squeeze(-1) if logits.shape[-1] == 1 else logits[..., 1] - logits[..., 0])

    def target(self, batch: Batch) -> Tensor:
        return batch.terminated.unsqueeze(-1)
