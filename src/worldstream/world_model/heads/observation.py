"""Predicts the tokens of one observation key: the same head for every key, factored over channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from worldstream.nn.layers import head
from worldstream.nn.outputs import FactoredCategorical
from worldstream.specs import TokenSpec
from worldstream.types import Batch
from worldstream.world_model.block import BlockLayout
from worldstream.world_model.heads.base import TOKENS, Head, HeadConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class ObservationConfig(HeadConfig):
    """A head for each observation key."""

    yields: ClassVar[tuple[str, ...]] = (TOKENS,)

    def build(self, layout: BlockLayout, width: int) -> list[Head]:
        return [ObservationHead(key, spec, width) for key, spec in layout.token_specs.items()]


@final
class ObservationHead(Head):
    """Latents (..., K, E) -> K factored categoricals of C channels. Loss: cross-entropy summed over the channels."""

    def __init__(self, key: str, spec: TokenSpec, width: int) -> None:
        super().__init__()
        self.positions = key
        self.vocabulary = spec.vocabulary
        self.net = head(width, 2 * width, sum(spec.vocabulary))

    def forward(self, latents: Tensor) -> FactoredCategorical:
        return FactoredCategorical(self.net(latents).float(), self.vocabulary)

    def loss(self, latents: Tensor, batch: Batch) -> Tensor:
        return self.forward(latents).loss(batch.tokens[self.positions]).mean(-1)

    def predict(self, latents: Tensor, generator: torch.Generator | None) -> dict[str, Tensor]:
        return {TOKENS: self.forward(latents).sample(generator)}

    def expect(self, latents: Tensor) -> dict[str, Tensor]:
        return {TOKENS: self.forward(latents).mode}
