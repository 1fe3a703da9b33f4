"""Scale of returns, by which advantages are divided (docs/method.md, "return scale")."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ReturnScale(nn.Module):
    """max(1, (Q(0.975) - Q(0.025)) / 2) over the lambda returns of the latest updates.

    Of each update ``num_samples`` are kept. The published agent keeps all returns and sorts half a million values at
    each update (P12); an evenly spaced subset of a batch in random order has the same quantiles in expectation.
    """

    returns: Tensor
    count: Tensor
    levels: Tensor

    def __init__(self, num_updates: int = 501, num_samples: int = 128) -> None:
        super().__init__()
        self.register_buffer("returns", torch.zeros(num_updates, num_samples))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("levels", torch.tensor([0.025, 0.975]), persistent=False)

    @torch.no_grad()
    def update(self, returns: Tensor) -> Tensor:
        """Remember returns (any shape), unless one is not finite, and give the scale, a scalar tensor."""
        self.remember(returns)
        return (self.spread() / 2).clamp(min=1.0)

    @torch.no_grad()
    def remember(self, returns: Tensor) -> None:
        """Keep returns (any shape) in the place of the oldest, unless one is not finite."""
        capacity, num_samples = self.returns.shape
        flat = returns.detach().transpose(0, -1).flatten().float()  # time-major: every imagined step counts alike
        picked = torch.linspace(0, flat.numel() - 1, num_samples, device=flat.device).round().long()
        finite = flat[picked].isfinite().all()
        slot = self.count % capacity
        self.returns[slot] = torch.where(finite, flat[picked], self.returns[slot])
        self.count += finite

    def spread(self) -> Tensor:
        """Distance between the two quantiles of what is remembered, a scalar tensor."""
        filled = self.returns[: int(self.count.clamp(1, len(self.returns)))]  # a host read, once an update
        low, high = filled.flatten().quantile(self.levels)
        return high - low
