"""An ensemble of token heads whose disagreement is the intrinsic reward (method.md 5.2).

Each member trains on its own share of the batch, on latents without gradient. The reward of an imagined step is the
Jensen-Shannon divergence of the members' predictions, computed *per channel* (C6), summed over the channels of a token
as its loss is, and averaged over the tokens of a key. Joining cells into tokens (``cells_per_token``) therefore raises
the share of a key by the number of cells that a token holds.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from worldstream.nn.layers import EnsembleHead
from worldstream.nn.outputs import FactoredCategorical
from worldstream.specs import TokenSpec
from worldstream.types import Batch
from worldstream.world_model.heads.base import Head


@final
class DisagreementHead(Head):
    """P batched copies of a TokenHead.

    ``loss`` needs a batch that the number of members divides; sampled batches are in random order, so contiguous
    shares are random shares.
    """

    loss_name = "disagreement"
    arrives_with_next = False

    def __init__(self, key: str, spec: TokenSpec, width: int, *, num_members: int) -> None:
        super().__init__()
        self.positions = key
        self.vocabulary = spec.vocabulary
        self.net = EnsembleHead(num_members, width, 2 * width, sum(spec.vocabulary))

    def forward(self, latents: Tensor) -> FactoredCategorical:
        """(P, ..., K, E), one share per member -> P x ... x K factored categoricals."""
        members = latents.flatten(1, -2)
        return FactoredCategorical(self.net(members).float().unflatten(1, latents.shape[1:-1]), self.vocabulary)

    def target(self, batch: Batch) -> Tensor:
        return batch.tokens[self.positions]

    def loss(self, latents: Tensor, target: Tensor) -> Tensor:
        """(B, T) cross-entropy of the member that owns the row. latents: (B, T, K, E); target: (B, T, K, C)."""
        share = (self.net.num_members, -1)
        output = self.forward(latents.detach().unflatten(0, share))
        return output.loss(target.unflatten(0, share)).mean(-1).flatten(0, 1)

    @torch.no_grad()
    def divergence(self, latents: Tensor) -> Tensor:
        """(B,) mean over tokens of the members' Jensen-Shannon divergence, in nats; at most C ln P.

        Args:
            latents: (B, K, E).
        """
        return self.token_divergence(latents).mean(-1)

    @torch.no_grad()
    def token_divergence(self, latents: Tensor) -> Tensor:
        """The same for each token: (..., K, E) -> (..., K)."""
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
