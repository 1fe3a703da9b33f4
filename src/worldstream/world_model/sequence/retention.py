"""Retention with parallel observation prediction (docs/method.md, "retention layer"): constant cost per imagined step.

Every layer runs context and prediction tokens through the same weights, side by side in one tensor
(B, T, L + n, E); only the retention itself tells them apart. See ``nn/retention.py`` for the mathematics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast, final

import torch
from torch import Tensor, nn

from worldstream.nn.retention import BlockRetention, decay_rates
from worldstream.nn.rotary import Phases, rotary_frequencies, rotary_phases
from worldstream.options import Between
from worldstream.world_model.block import BlockLayout
from worldstream.world_model.sequence.base import SequenceConfig, SequenceModel, Stack
from worldstream.world_model.sequence.readout import Readout, SummaryOfPredictions


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionOptions(SequenceConfig):
    """Options of retention layers."""

    decay_blocks: tuple[Annotated[float, Between(1)], Annotated[float, Between(1)]] = (2.0, 16.0)
    """Memory spans of the first and the last head, in blocks; the others lie geometrically between."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetentionConfig(RetentionOptions):
    """Retention: a memory of constant size that fades."""

    summary: SummaryOfPredictions = "last"
    """Which prediction tokens rewards and ends are read from."""

    def build(self, layout: BlockLayout, *, max_blocks: int) -> RetentionModel:
        return RetentionModel(self, layout)  # which holds any number of blocks


@dataclass(frozen=True, slots=True)
class RetentionState:
    """memory: one (B, H, d, d) tensor per layer; position: () int64, tokens seen since the first block."""

    memory: tuple[Tensor, ...]
    position: Tensor


class RetentionLayer(nn.Module):
    """Pre-norm residual block: retention, then a SiLU feed-forward of four times the width."""

    def __init__(self, config: RetentionOptions, *, block_length: int, num_predictions: int, full: bool) -> None:
        super().__init__()
        width = config.width
        self.retention = BlockRetention(
            width,
            decay_rates(config.num_heads, block_length, config.decay_blocks),
            block_length=block_length,
            num_predictions=num_predictions,
            full=full,
            dropout=config.dropout,
        )
        self.retention_norm = nn.LayerNorm(width, eps=1e-6)
        self.feed_forward_norm = nn.LayerNorm(width, eps=1e-6)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(config.dropout)
        for linear in (self.up, self.down):
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)

    def feed_forward(self, x: Tensor, retained: Tensor) -> Tensor:
        """Add the retained values, then the feed-forward, to the residual stream x."""
        x = x + self.dropout(retained)
        hidden = self.dropout(nn.functional.silu(self.up(self.feed_forward_norm(x))))
        return x + self.dropout(self.down(hidden))

    def parallel(self, x: Tensor, phases: Phases, memory: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """See ``BlockRetention.parallel``."""
        retained, memory = self.retention.parallel(self.retention_norm(x), phases, memory, mask)
        return self.feed_forward(x, retained), memory

    def step(self, x: Tensor, phases: Phases, memory: Tensor) -> tuple[Tensor, Tensor]:
        """See ``BlockRetention.step``."""
        retained, memory = self.retention.step(self.retention_norm(x), phases, memory)
        return self.feed_forward(x, retained), memory


class RetentionStack(Stack[RetentionState]):
    """Retention layers without a final norm, over blocks of L context tokens and ``num_predictions`` others.

    With ``full`` the order of context tokens in a block does not matter. Raises ConfigError when the width does not
    split into heads of even size.
    """

    frequencies: Tensor
    parallel_age: Tensor
    step_age: Tensor

    def __init__(
        self, config: RetentionOptions, layout: BlockLayout, *, num_predictions: int, full: bool = False
    ) -> None:
        super().__init__()
        self.block_length = block_length = layout.length
        self.head_width = config.head_width
        self.num_heads = config.num_heads
        self.layers = nn.ModuleList(
            RetentionLayer(config, block_length=block_length, num_predictions=num_predictions, full=full)
            for _ in range(config.num_layers)
        )
        frequencies = rotary_frequencies(self.head_width // 2, last_included=True)
        self.register_buffer("frequencies", frequencies, persistent=False)
        context, prediction = torch.arange(block_length), torch.arange(num_predictions)
        # A prediction token has the age of the observation token that it predicts: of its own block in training,
        # of the block after the one just observed in a fused step.
        self.register_buffer("parallel_age", torch.cat((context, prediction)), persistent=False)
        self.register_buffer("step_age", torch.cat((context, prediction + block_length)), persistent=False)

    @property
    def _layers(self) -> list[RetentionLayer]:
        return cast(list[RetentionLayer], list(self.layers))

    def init_state(self, batch_size: int) -> RetentionState:
        shape = (batch_size, self.num_heads, self.head_width, self.head_width)
        memory = tuple(self.frequencies.new_zeros(shape) for _ in self.layers)
        return RetentionState(memory, torch.zeros((), dtype=torch.int64, device=self.frequencies.device))

    def run(self, x: Tensor, state: RetentionState, mask: Tensor | None = None) -> tuple[Tensor, RetentionState]:
        """See ``Stack``; N may also be L, without the other tokens."""
        num_blocks, num_tokens = x.shape[1:3]
        starts = state.position + self.block_length * torch.arange(num_blocks, device=x.device)
        phases = rotary_phases((starts[:, None] + self.parallel_age[:num_tokens])[:, None], self.frequencies)
        memories = []
        for layer, memory in zip(self._layers, state.memory, strict=True):
            x, memory = layer.parallel(x, phases, memory, mask)
            memories.append(memory)
        return x, RetentionState(tuple(memories), state.position + num_blocks * self.block_length)

    def append(self, x: Tensor, state: RetentionState) -> tuple[Tensor, RetentionState]:
        phases = rotary_phases((state.position + self.step_age)[None], self.frequencies)
        memories = []
        for layer, memory in zip(self._layers, state.memory, strict=True):
            x, memory = layer.step(x, phases, memory)
            memories.append(memory)
        return x, RetentionState(tuple(memories), state.position + self.block_length)


@final
class RetentionModel(RetentionStack, SequenceModel[RetentionState]):
    """A stack that reads prediction tokens along with each block; see ``SequenceModel`` for the contract."""

    def __init__(self, config: RetentionConfig, layout: BlockLayout) -> None:
        num_predictions = layout.num_observation_tokens
        tokens = torch.randn(num_predictions, config.width)
        super().__init__(config, layout, num_predictions=num_predictions)
        self.prediction_tokens = nn.Parameter(tokens)
        self.readout = Readout(config, layout, num_positions=num_predictions, summary=config.summary)

    def parallel(
        self, blocks: Tensor, state: RetentionState, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, RetentionState]:
        tokens = self.prediction_tokens.expand(*blocks.shape[:2], -1, -1)
        x, state = self.run(torch.cat((blocks, tokens), -2), state, mask)
        return x[..., : self.block_length, :], self.readout(x[..., self.block_length :, :]), state

    def remember(self, blocks: Tensor, state: RetentionState, mask: Tensor | None = None) -> RetentionState:
        """Without the prediction tokens, which nothing else reads."""
        return self.run(blocks, state, mask)[1]

    def step(self, block: Tensor, state: RetentionState) -> tuple[Tensor, RetentionState]:
        tokens = self.prediction_tokens.expand(len(block), -1, -1)
        x, state = self.append(torch.cat((block, tokens), -2), state)
        return self.readout(x[:, self.block_length :]), state
