"""The seam of heads."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from worldstream.nn.outputs import Output
from worldstream.types import Batch


class Head(nn.Module, ABC):
    """Maps the prediction latents at some positions of a block to an Output."""

    loss_name: str
    """Which of the world model's named losses this head adds to."""
    positions: str
    """A name known to BlockLayout: an observation key, or SUMMARY."""
    arrives_with_next: bool
    """True when the target at time t is read from the prediction of block t + 1 (rewards and ends, C1), False when
    it is read from the prediction of block t (its own observation)."""

    @abstractmethod
    def forward(self, latents: Tensor) -> Output:
        """(..., P, E) at this head's positions -> Output."""

    @abstractmethod
    def target(self, batch: Batch) -> Tensor:
        """What the output's loss is measured against; leading axes (B, T)."""

    def loss(self, latents: Tensor, target: Tensor) -> Tensor:
        """(B, T) loss, averaged over the head's positions. latents: (B, T, P, E); target: (B, T, ...)."""
        return self.forward(latents).loss(target).flatten(2).mean(-1)
