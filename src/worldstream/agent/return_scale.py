"""Scale of returns, by which advantages are divided (docs/method.md, "return scale")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from worldstream.options import Between


@dataclass(frozen=True, kw_only=True, slots=True)
class ReturnScaleConfig:
    """What advantages are divided by."""

    floor: Annotated[float, Between(1e-9)] = 0.05
    """Smallest scale: returns whose spread is smaller than twice this count as noise. It has the unit of rewards, so
    rewards much smaller than 1 want a smaller one."""
    window: Annotated[int, Between(1, 100_000)] = 501
    """Latest updates whose returns it is measured on."""


class ReturnScale(nn.Module):
    """max(floor, (Q(0.975) - Q(0.025)) / 2) over the lambda returns of the latest updates.

    Of each update ``num_samples`` are kept. The published agent keeps all returns and sorts half a million values at
    each update (P12); an evenly spaced subset of a batch in random order has the same quantiles in expectation.
    """

    returns: Tensor
    count: Tensor
    levels: Tensor

    def __init__(self, config: ReturnScaleConfig | None = None, num_samples: int = 128) -> None:
        super().__init__()
        self.config = config or ReturnScaleConfig()
        self.register_buffer("returns", torch.zeros(self.config.window, num_samples))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("levels", torch.tensor([0.025, 0.975]), persistent=False)

    @torch.no_grad()
    def update(self, returns: Tensor) -> Tensor:
        """Remember returns (any shape), unless one is not finite, and give the scale, a scalar tensor."""
        self.remember(returns)
        return (self.spread() / 2).clamp(min=self.config.floor)

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

    def range(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest of what is remembered, scalar tensors."""
        low, high = self._filled().aminmax()
        return low, high

    def _filled(self) -> Tensor:
        """Returns (updates so far, samples); this reads the device."""
        return self.returns[: int(self.count.clamp(1, len(self.returns)))]

    def spread(self) -> Tensor:
        """Distance between the two quantiles of what is remembered, a scalar tensor."""
        low, high = self._filled().flatten().quantile(self.levels)
        return high - low
