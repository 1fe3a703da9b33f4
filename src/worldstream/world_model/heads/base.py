"""The seam of heads: what is read from the latents of a prediction, how it is learned, and what imagination gets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from worldstream.types import Batch, Tokens
from worldstream.world_model.block import BlockLayout

TOKENS = "tokens"
"""Prediction of the next tokens (B, K, C) of the key at the head's positions."""
TERMINATED = "terminated"
"""Prediction (B,) bool of whether the episode ends with the next observation."""


class Head(nn.Module, ABC):
    """Reads the prediction latents at some positions of a block."""

    positions: str
    """A name known to BlockLayout: an observation key, or SUMMARY."""
    arrives_with_next: bool = False
    """Whether what belongs to block t is read from the prediction of block t + 1, as what its action caused (C1),
    instead of from the prediction of block t, as its observation."""

    @abstractmethod
    def loss(self, latents: Tensor, batch: Batch) -> Tensor:
        """(B, T) loss of each block, padding included: the world model masks.

        Latents are (B, T, P, E); those at [:, t] belong to block t of the batch.
        """

    def learned(self, loss: Tensor, mask: Tensor) -> None:
        """Called in training mode with the (B, T) loss and which blocks count, of which a head may keep statistics."""

    def written_while_training(self) -> list[Tensor]:
        """Tensors that ``loss`` and ``learned`` write, so that an update that is skipped can put them back."""
        return list(self.buffers())

    def predict(self, latents: Tensor, previous: Tokens, generator: torch.Generator | None) -> dict[str, Tensor]:
        """What imagination reads from latents (B, P, E): TOKENS, TERMINATED, or rewards (B,) by name.

        Previous are the tokens (B, K, C) by key of the observation before the one that the latents predict.
        """
        return {}

    def expect(self, latents: Tensor, previous: Tokens) -> dict[str, Tensor]:
        """``predict`` without chance: the most likely tokens, the probability of the end, mean rewards."""
        return self.predict(latents, previous, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadConfig(ABC):
    """Options of one kind of head."""

    yields: ClassVar[tuple[str, ...]] = ()
    """Names of what ``Head.predict`` returns. Rewards are computed only where their weight is not zero."""

    @property
    def batch_shares(self) -> int:
        """Equal parts that a batch is split into; its size must be a multiple."""
        return 1

    @abstractmethod
    def build(self, layout: BlockLayout, width: int) -> list[Head]:
        """One head for each place that is read, of latents of ``width`` features.

        Losses of several heads are averaged by their number of positions; rewards of the same name are added.
        """
