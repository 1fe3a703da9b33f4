"""Predicts the tokens of one observation key: the same head for every key, factored over channels."""

from __future__ import annotations

from typing import final

from torch import Tensor

from worldstream.nn.layers import head
from worldstream.nn.outputs import FactoredCategorical
from worldstream.specs import TokenSpec
from worldstream.types import Batch
from worldstream.world_model.heads.base import Head


@final
class TokenHead(Head):
    """Latents (..., K, E) -> K factored categoricals of C channels. Loss: cross-entropy summed over the channels."""

    loss_name = "observation"
    arrives_with_next = False

    def __init__(self, key: str, spec: TokenSpec, width: int) -> None:
        super().__init__()
        self.positions = key
        self.vocabulary = spec.vocabulary
        self.net = head(width, 2 * width, sum(spec.vocabulary))

    def forward(self, latents: Tensor) -> FactoredCategorical:
        return FactoredCategorical(self.net(latents).float(), self.vocabulary)

    def target(self, batch: Batch) -> Tensor:
        return batch.tokens[self.positions]
