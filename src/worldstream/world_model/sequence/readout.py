"""Predictions from the latents that a sequence model has at the end of its layers."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from worldstream.world_model.block import BlockLayout
from worldstream.world_model.sequence.base import SequenceConfig

SHARE_WIDTH = 16
"""Features that each position contributes to a summary of all."""

SummaryOfPredictions = Literal["last", "all"]
"""What rewards, ends and novelty are read from: the last position, or all of them."""
SummaryOfBlock = Literal["last", "action", "all"]
"""The same, where there is a latent of every token of a block: the last observation token, the last action token, which
stands for nothing else, or all."""


class Readout(nn.Module):
    """Latents of P >= n positions (..., P, E), the first n those of the observation tokens -> predictions (..., n, E).

    Unless the summary is to be the last of these, it follows behind them: the latent of the last of the P positions
    ("action"), or what two linear maps make of all of them ("all"), which spares the positions of observation tokens a
    second task.
    """

    def __init__(
        self, config: SequenceConfig, layout: BlockLayout, *, num_positions: int, summary: SummaryOfBlock
    ) -> None:
        super().__init__()
        self.summary = summary
        self.num_observation_tokens = layout.num_observation_tokens
        self.num_predictions = self.num_observation_tokens + (summary != "last")
        if summary == "all":
            self.of_each = nn.Linear(config.width, SHARE_WIDTH)
            self.dropout = nn.Dropout(config.dropout)
            self.of_all = nn.Linear(num_positions * SHARE_WIDTH, config.width)

    def forward(self, latents: Tensor) -> Tensor:
        predictions = latents[..., : self.num_observation_tokens, :]
        if self.summary == "last":
            return predictions
        summary = latents[..., -1:, :] if self.summary == "action" else self._of_all(latents)
        return torch.cat((predictions, summary), -2)

    def _of_all(self, latents: Tensor) -> Tensor:
        """(..., P, E) -> (..., 1, E), in single precision: rewards are read from it."""
        with torch.autocast(latents.device.type, enabled=False):
            shares = self.dropout(self.of_each(latents.float()))
            together: Tensor = self.of_all(shares.flatten(-2)).unsqueeze(-2)
        return together
