"""The seam of sequence models: all tokens of the next observation are predicted at once, how it is done is private.

State goes in and comes out; nothing is kept on the module between calls, so the same inputs give the same outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from torch import Tensor, nn

from worldstream.errors import ConfigError
from worldstream.options import Between
from worldstream.world_model.block import BlockLayout

State = TypeVar("State")


class SequenceModel(nn.Module, ABC, Generic[State]):
    """Reads blocks of embeddings and predicts all observation tokens of the next block at once.

    Shapes: B batch, T blocks, L positions of a block, n predictions, E width. The n predictions are those of the
    observation tokens, after which one of the summary may follow; else the last of them is read as the summary.
    """

    max_blocks: int | None = None
    """Blocks that a state can hold; None: any number."""

    @abstractmethod
    def init_state(self, batch_size: int) -> State:
        """State before the first block, on the module's device."""

    @abstractmethod
    def parallel(self, blocks: Tensor, state: State, mask: Tensor | None = None) -> tuple[Tensor, Tensor, State]:
        """Training: all blocks at once.

        Args:
            blocks: (B, T, L, E).
            state: state before block 0.
            mask: (B, T) bool; blocks where it is false leave no trace in anything later. None: all are real.

        Returns:
            context (B, T, L, E); predictions (B, T, n, E), where [:, t] predicts the observation of block t from
            what came *before* block t; state after block T - 1.
        """

    def remember(self, blocks: Tensor, state: State, mask: Tensor | None = None) -> State:
        """The state that ``parallel`` returns. Models that can do without predictions override this."""
        return self.parallel(blocks, state, mask)[2]

    @abstractmethod
    def step(self, block: Tensor, state: State) -> tuple[Tensor, State]:
        """The hot path of imagination: append one block (B, L, E), predict the observation of the next.

        Returns latents (B, n, E) of every observation token, at once; and the new state.
        """


AnySequenceModel = SequenceModel[Any]


class Stack(nn.Module, ABC, Generic[State]):
    """Layers over blocks of N tokens each, and what they remember: what a sequence model may be made of."""

    max_blocks: int | None = None
    """See ``SequenceModel``."""

    @abstractmethod
    def init_state(self, batch_size: int) -> State:
        """State before the first block, on the module's device."""

    @abstractmethod
    def run(self, x: Tensor, state: State, mask: Tensor | None = None) -> tuple[Tensor, State]:
        """All blocks (B, T, N, E) at once, masked as in ``SequenceModel.parallel``: what they become, and the state."""

    @abstractmethod
    def append(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One block (B, N, E): what it becomes, and the state after it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceConfig(ABC):
    """Options that all sequence models share."""

    num_layers: Annotated[int, Between(1, 1024)] = 2
    width: Annotated[int, Between(2, 65_536)] = 64
    """E, features per token."""
    num_heads: Annotated[int, Between(1, 4096)] = 4
    """Heads; twice their number must divide the width."""
    dropout: Annotated[float, Between(0, 1)] = 0.0
    """Probability, on residual branches, feed-forward and retained values."""

    @property
    def head_width(self) -> int:
        """d = E / H. Raises ConfigError when it is not an even number."""
        if self.width % (2 * self.num_heads):
            raise ConfigError(
                f"sequence width {self.width} must be a multiple of 2 x num_heads = {2 * self.num_heads}: "
                "rotary phases act on pairs of features of a head. Change width or num_heads."
            )
        return self.width // self.num_heads

    @abstractmethod
    def build(self, layout: BlockLayout, *, max_blocks: int) -> AnySequenceModel:
        """The sequence model of such blocks, whose states hold at most ``max_blocks`` of them."""
