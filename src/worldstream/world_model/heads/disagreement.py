"""An ensemble of observation heads whose disagreement is an intrinsic reward.

Each member trains on its own share of the batch, on latents without gradient. The reward of an imagined step is the
Jensen-Shannon divergence of the members' predictions, computed *per channel* (C6), summed over the channels of a token
as its loss is, and averaged over the tokens of a key. Joining cells into tokens (``cells_per_token``) therefore raises
the share of a key by the number of cells that a token holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, final

import torch
from torch import Tensor

from worldstream.nn.layers import EnsembleHead
from worldstream.nn.outputs import FactoredCategorical
from worldstream.options import Between
from worldstream.specs import TokenSpec
from worldstream.types import Batch, Tokens
from worldstream.world_model.block import BlockLayout
from worldstream.world_model.heads.base import Head, HeadConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class DisagreementConfig(HeadConfig):
    """An ensemble for each observation key."""

    num_members: Annotated[int, Between(1)] = 4
    """Members of the ensemble (P)."""

    yields: ClassVar[tuple[str, ...]] = ("disagreement",)

    @property
    def batch_shares(self) -> int:
        return self.num_members

    def build(self, layout: BlockLayout, width: int) -> list[Head]:
        return [DisagreementHead(key, spec, width, self.num_members) for key, spec in layout.token_specs.items()]


@final
class DisagreementHead(Head):
    """P batched copies of an ObservationHead.

    ``loss`` needs a batch that the number of members divides; sampled batches are in random order, so contiguous
    shares are random shares.
    """

    def __init__(self, key: str, spec: TokenSpec, width: int, num_members: int) -> None:
        super().__init__()
        self.positions = key
        self.vocabulary = spec.vocabulary
        self.net = EnsembleHead(num_members, width, 2 * width, sum(spec.vocabulary))

    def forward(self, latents: Tensor) -> FactoredCategorical:
        """(P, ..., K, E), one share per member -> P x ... x K factored categoricals."""
        members = latents.flatten(1, -2)
        return FactoredCategorical(self.net(members).float().unflatten(1, latents.shape[1:-1]), self.vocabulary)

    def loss(self, latents: Tensor, batch: Batch) -> Tensor:
        """(B, T) cross-entropy of the member that owns the row."""
        share = (self.net.num_members, -1)
        output = self.forward(latents.detach().unflatten(0, share))
        return output.loss(batch.tokens[self.positions].unflatten(0, share)).mean(-1).flatten(0, 1)

    @torch.no_grad()
    def predict(self, latents: Tensor, previous: Tokens, generator: torch.Generator | None) -> dict[str, Tensor]:
        """(B,) mean over tokens of the members' divergence."""
        return {"disagreement": self.token_divergence(latents).mean(-1)}

    @torch.no_grad()
    def token_divergence(self, latents: Tensor) -> Tensor:
        """(..., K, E) -> (..., K) Jensen-Shannon divergence of the members, in nats; at most C ln P."""
        output = self.everybody(latents)
        total = torch.zeros(latents.shape[:-1], device=latents.device)
        for log_probs in output.log_probs:  # (P, ..., K, channels, size)
            probs = log_probs.exp()
            of_each = -(probs * log_probs).mean(0)
            total += (torch.special.entr(probs.mean(0)) - of_each).sum((-1, -2))
        return total.clamp(min=0.0)

    def everybody(self, latents: Tensor) -> FactoredCategorical:
        """What every member predicts from the same latents (..., K, E): P x ... x K factored categoricals."""
        return self.forward(latents.expand(self.net.num_members, *latents.shape))
