"""Block teacher forcing (Dedieu et al. 2025, arXiv 2502.01591; docs/method.md, "block teacher forcing").

There are no prediction tokens. All tokens of a block see each other and every earlier block, and what the layers make
of the observation token at place j of block t - 1, its action included, predicts the token at place j of block t::

    block t - 1:   | o_1 ... o_n  a_1 ... a_m |
                      |       |            |
    predicts       | o_1 ... o_n |    the summary        of block t

"Nothing changes" is then the identity map of the residual stream, and a block costs L tokens instead of L + n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, final

import torch
from torch import Tensor, nn

from worldstream.world_model.sequence.base import SequenceModel, Stack, State
from worldstream.world_model.sequence.readout import Readout


@dataclass(frozen=True, slots=True)
class ForcedState(Generic[State]):
    """What the layers remember, and what the latest block predicts of the next one."""

    inner: State
    latents: Tensor
    """(B, n, E)."""


@final
class BlockTeacherForcing(SequenceModel[ForcedState[State]]):
    """A stack whose tokens of a block all see each other, read where the observation tokens stand."""

    first: Tensor

    def __init__(self, stack: Stack[State], readout: Readout, width: int) -> None:
        super().__init__()
        self.stack = stack
        self.readout = readout
        self.max_blocks = stack.max_blocks
        # With no block before. Nothing trains it: a prediction that counts has one.
        self.register_buffer("first", torch.zeros(readout.num_predictions, width), persistent=False)

    def init_state(self, batch_size: int) -> ForcedState[State]:
        return ForcedState(self.stack.init_state(batch_size), self.first.expand(batch_size, -1, -1))

    def parallel(
        self, blocks: Tensor, state: ForcedState[State], mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, ForcedState[State]]:
        context, inner = self.stack.run(blocks, state.inner, mask)
        latents = torch.cat((state.latents.unsqueeze(1), self.readout(context)), 1)
        if mask is not None:
            latents = latents[torch.arange(len(mask), device=mask.device)[:, None], _latest(mask)]
        return context, latents[:, :-1], ForcedState(inner, latents[:, -1])

    def step(self, block: Tensor, state: ForcedState[State]) -> tuple[Tensor, ForcedState[State]]:
        context, inner = self.stack.append(block, state.inner)
        latents = self.readout(context)
        return latents, ForcedState(inner, latents)


def _latest(mask: Tensor) -> Tensor:
    """(B, T) -> (B, T + 1): number of the latest real block before block t, counted from 1; 0: there is none."""
    number = torch.arange(1, mask.shape[1] + 1, device=mask.device) * mask
    return nn.functional.pad(number.cummax(1).values, (1, 0))
