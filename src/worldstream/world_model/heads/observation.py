"""Predicts the tokens of one observation key: the same head for every key, factored over channels.

From one step to the next most tokens stay what they are. With a copy prior the head need not learn that: its prediction
is a mixture of "as before" and of a distribution of its own, which is then trained mostly on what changes. Sticky
sampling keeps tokens in imagination, without any training, that are nearly as probable as those drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from torch import Tensor, nn

from worldstream.nn.layers import head
from worldstream.nn.outputs import Categoricals, CopyCategorical, FactoredCategorical
from worldstream.options import Between
from worldstream.specs import TokenSpec
from worldstream.types import Batch, Tokens
from worldstream.world_model.block import BlockLayout
from worldstream.world_model.heads.base import TOKENS, Head, HeadConfig

UNCHANGED = 0.95
"""Probability that a channel of a token is copied, before anything is learned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObservationConfig(HeadConfig):
    """A head for each observation key."""

    copy_prior: bool = False
    """Whether a channel of a token stays what it was with a probability that is read from the latent, or else is drawn
    from the soft-max."""
    sticky: Annotated[float, Between(0, 1)] = 0.0
    """In imagination a token of a grid stays what it was if that is, after the noise of the draw, at most so much less
    probable than what is drawn. It biases towards standing still: stay below the probability of real rare events. 0.01
    to 0.3 in Kim et al. 2026, arXiv 2605.16457; 0: off."""

    yields: ClassVar[tuple[str, ...]] = (TOKENS,)

    def build(self, layout: BlockLayout, width: int) -> list[Head]:
        return [ObservationHead(self, key, spec, width) for key, spec in layout.token_specs.items()]


@final
class ObservationHead(Head):
    """Latents (..., K, E) -> K factored categoricals of C channels. Loss: cross-entropy summed over the channels."""

    def __init__(self, config: ObservationConfig, key: str, spec: TokenSpec, width: int) -> None:
        super().__init__()
        self.positions = key
        self.vocabulary = spec.vocabulary
        self.net = head(width, 2 * width, sum(spec.vocabulary))
        self.copies = nn.Linear(width, spec.num_channels) if config.copy_prior else None
        self.sticky = config.sticky if spec.grid is not None else 0.0
        if self.copies is not None:
            nn.init.zeros_(self.copies.weight)
            nn.init.constant_(self.copies.bias, math.log(UNCHANGED / (1 - UNCHANGED)))

    def fresh(self, latents: Tensor) -> FactoredCategorical:
        """The soft-max alone."""
        return FactoredCategorical(self.net(latents).float(), self.vocabulary)

    def forward(self, latents: Tensor, previous: Tensor, known: Tensor | None = None) -> Categoricals:
        """What follows the tokens ``previous`` (..., K, C); nothing is copied where ``known`` (...) is false."""
        if self.copies is None:
            return self.fresh(latents)
        with torch.autocast(latents.device.type, enabled=False):  # in eight bits a gate near one has few values
            logit = self.copies(latents.float())
        if known is not None:
            logit = logit.masked_fill(~known[..., None, None], -torch.inf)
        return CopyCategorical(self.fresh(latents), previous, logit)

    def loss(self, latents: Tensor, batch: Batch) -> Tensor:
        tokens = batch.tokens[self.positions]
        before = nn.functional.pad(tokens[:, :-1], (0, 0, 0, 0, 1, 0))
        known = nn.functional.pad(batch.observed[:, :-1], (1, 0))
        return self.forward(latents, before, known).loss(tokens).mean(-1)

    def predict(self, latents: Tensor, previous: Tokens, generator: torch.Generator | None) -> dict[str, Tensor]:
        before = previous[self.positions]
        output = self.forward(latents, before)
        if self.sticky:
            return {TOKENS: output.sample_sticky(before, self.sticky, generator)}
        return {TOKENS: output.sample(generator)}

    def expect(self, latents: Tensor, previous: Tokens) -> dict[str, Tensor]:
        return {TOKENS: self.forward(latents, previous[self.positions]).mode}
