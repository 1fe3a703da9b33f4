"""Predicts whether the episode ended with the next observation; truncation is not an end (C1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from worldstream.nn.layers import head
from worldstream.nn.outputs import Bernoulli
from worldstream.types import Batch, Tokens
from worldstream.world_model.block import SUMMARY, BlockLayout
from worldstream.world_model.heads.base import TERMINATED, Head, HeadConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class TerminationConfig(HeadConfig):
    """The end of an episode."""

    num_logits: Literal[1, 2] = 1
    """1, or 2 (of going on and of the end) whose difference is the logit: the same distribution, as published."""

    yields: ClassVar[tuple[str, ...]] = (TERMINATED,)

    def build(self, layout: BlockLayout, width: int) -> list[Head]:
        return [TerminationHead(self, width)]


@final
class TerminationHead(Head):
    """Linear -> LayerNorm -> SiLU -> logit. d_t is read from the prediction of block t + 1, like the reward."""

    positions = SUMMARY
    arrives_with_next = True

    def __init__(self, config: TerminationConfig, width: int) -> None:
        super().__init__()
        self.net = head(width, width, config.num_logits)

    def forward(self, latents: Tensor) -> Bernoulli:
        logits: Tensor = self.net(latents)
        return Bernoulli(logits.squeeze(-1) if logits.shape[-1] == 1 else logits[..., 1] - logits[..., 0])

    def loss(self, latents: Tensor, batch: Batch) -> Tensor:
        return self.forward(latents).loss(batch.terminated.unsqueeze(-1)).squeeze(-1)

    def predict(self, latents: Tensor, previous: Tokens, generator: torch.Generator | None) -> dict[str, Tensor]:
        return {TERMINATED: self.forward(latents).sample(generator).squeeze(-1)}

    def expect(self, latents: Tensor, previous: Tokens) -> dict[str, Tensor]:
        return {TERMINATED: self.forward(latents).mean.squeeze(-1)}
