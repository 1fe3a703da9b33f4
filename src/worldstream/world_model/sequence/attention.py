"""Attention with parallel observation prediction (docs/method.md, "attention layer"): exact memory at a growing cost.

Every layer runs context and prediction tokens through the same weights, side by side in one tensor
(B, T, L + n, E); see ``nn/attention.py`` for who sees whom. States that follow each other share one cache, of the
size that the run's configuration asks for; each appends to it what is new.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, final

import torch
from torch import Tensor, nn

from worldstream.errors import ConfigError
from worldstream.nn.attention import BlockAttention, BlockMasks, QueryChunk
from worldstream.nn.rotary import Pairing, Phases, axial_frequencies, rotary_frequencies, rotary_phases
from worldstream.world_model.block import BlockLayout
from worldstream.world_model.sequence.base import SequenceConfig, SequenceModel, Stack
from worldstream.world_model.sequence.readout import Readout, SummaryOfPredictions

NUM_AXES = 3
"""Axes of grid positions: block, row, column."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionOptions(SequenceConfig):
    """Options of attention layers."""

    norm: Literal["pre", "post"] = "pre"
    """LayerNorm on the way into a branch ("pre", trains without warm-up) or after adding it ("post", published)."""
    positions: Literal["sequence", "grid"] = "sequence"
    """Rotary positions: the running number of a token, or its block, row and column."""
    pairing: Pairing = "half"
    """Which features the rotary phases turn together: i and i + d/2, or 2i and 2i + 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionConfig(AttentionOptions):
    """Attention: an exact memory, whose cost grows with its length."""

    slots: Literal["causal", "full"] = "causal"
    """Whether a prediction token sees the prediction tokens before it in its block, or all of them."""
    summary: SummaryOfPredictions = "last"
    """Which prediction tokens rewards and ends are read from."""

    def build(self, layout: BlockLayout, *, max_blocks: int) -> AttentionModel:
        return AttentionModel(self, layout, max_blocks=max_blocks)


class KeyValueCache:
    """Keys and values of every layer, append-only: (2, B, H, tokens, d) each, of which ``filled`` tokens are taken.

    A state names how many tokens of the cache are its own. The one that names all of them may append in place;
    where another state has appended before it, it continues on a copy.
    """

    def __init__(self, layers: list[Tensor], filled: int) -> None:
        self.layers = layers
        self.filled = filled

    def writable(self, past: int, *, capacity: int, dtype: torch.dtype) -> KeyValueCache:
        """A cache with ``past`` tokens that may be written behind them: this one, or a copy."""
        has_room = self.layers[0].shape[3] >= capacity and self.layers[0].dtype == dtype
        if has_room and self.filled == past and not torch.is_grad_enabled():
            return self
        copies = []
        for layer in self.layers:
            copy = layer.new_empty((*layer.shape[:3], capacity, layer.shape[4]), dtype=dtype)
            copy[..., :past, :] = layer[..., :past, :]
            copies.append(copy)
        return KeyValueCache(copies, past)


@dataclass(frozen=True, slots=True)
class AttentionState:
    """What has been seen so far."""

    cache: KeyValueCache
    num_blocks: int
    """Blocks in the cache, masked ones included."""
    real: Tensor | None
    """(B, tokens) bool, context tokens that count; None: all."""


class AttentionLayer(nn.Module):
    """Attention, then a GELU feed-forward of four times the width, each with a residual and a LayerNorm."""

    def __init__(self, config: AttentionOptions, *, block_length: int) -> None:
        super().__init__()
        width = config.width
        self.attention = BlockAttention(
            width, config.num_heads, block_length=block_length, pairing=config.pairing, dropout=config.dropout
        )
        self.pre_norm = config.norm == "pre"
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(config.dropout)

    def _enter(self, x: Tensor, norm: nn.LayerNorm) -> Tensor:
        """What a branch reads."""
        return norm(x) if self.pre_norm else x

    def _leave(self, x: Tensor, branch: Tensor, norm: nn.LayerNorm) -> Tensor:
        """The residual stream after a branch."""
        x = x + self.dropout(branch)
        return x if self.pre_norm else norm(x)

    def _finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add what attention gave, then the feed-forward, to the residual stream x."""
        x = self._leave(x, attended, self.attention_norm)
        hidden = nn.functional.gelu(self.up(self._enter(x, self.feed_forward_norm)))
        return self._leave(x, self.down(hidden), self.feed_forward_norm)

    def parallel(self, x: Tensor, phases: Phases, past: Tensor, chunks: list[QueryChunk]) -> tuple[Tensor, Tensor]:
        """See ``BlockAttention.parallel``."""
        attended, context = self.attention.parallel(self._enter(x, self.attention_norm), phases, past, chunks)
        return self._finish(x, attended), context

    def append(self, x: Tensor, phases: Phases, buffer: Tensor, past: int, visible: Tensor) -> Tensor:
        """See ``BlockAttention.append``."""
        entered = self._enter(x, self.attention_norm)
        return self._finish(x, self.attention.append(entered, phases, buffer, past, visible))


class AttentionStack(Stack[AttentionState]):
    """Attention layers, whose masks say what a block is made of and how many of them can be remembered.

    Raises ConfigError when the width does not split into heads of even size, when grid positions find less than three
    pairs of features in a head, and when a state would have to hold more blocks than there is room for.
    """

    phases: Tensor

    def __init__(self, config: AttentionOptions, layout: BlockLayout, masks: BlockMasks) -> None:
        super().__init__()
        self.block_length, self.num_predictions = layout.length, masks.num_predictions
        self.num_heads, self.head_width = config.num_heads, config.head_width
        self.max_blocks = masks.max_blocks
        self.layers = nn.ModuleList(
            AttentionLayer(config, block_length=self.block_length) for _ in range(config.num_layers)
        )
        self.masks = masks
        # One block more than can be held: the prediction of the block after the last.
        table = rotary_table(config, layout, num_blocks=masks.max_blocks + 1)
        self.register_buffer("phases", torch.stack(table), persistent=False)  # (2, blocks, L, d/2)

    @property
    def _precision(self) -> torch.dtype:
        """Type of keys and values: that of the products which make them."""
        device = self.phases.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.phases.dtype

    @property
    def _layers(self) -> list[AttentionLayer]:
        return cast(list[AttentionLayer], list(self.layers))

    def init_state(self, batch_size: int) -> AttentionState:
        shape = (2, batch_size, self.num_heads, 0, self.head_width)
        layers = [self.phases.new_zeros(shape, dtype=self._precision) for _ in self.layers]
        return AttentionState(KeyValueCache(layers, 0), 0, None)

    def run(self, x: Tensor, state: AttentionState, mask: Tensor | None = None) -> tuple[Tensor, AttentionState]:
        num_blocks, first = x.shape[1], state.num_blocks
        self._check_capacity(first + num_blocks)
        cos, sin = self.phases[:, first : first + num_blocks]
        phases = tuple(torch.cat((part, part[:, : self.num_predictions]), 1) for part in (cos, sin))
        past, past_real, real = first * self.block_length, state.real, None
        if mask is not None or past_real is not None:
            real = mask if mask is not None else x.new_ones(x.shape[:2], dtype=torch.bool)
            past_real = past_real if past_real is not None else real.new_ones(len(x), past)
        chunks = self.masks.chunks(past, num_blocks, past_real, real)
        layers = []
        for layer, cached in zip(self._layers, state.cache.layers, strict=True):
            x, context = layer.parallel(x, (phases[0], phases[1]), cached[..., :past, :], chunks)
            layers.append(context)
        if past_real is not None and real is not None:
            past_real = torch.cat((past_real, real.repeat_interleave(self.block_length, 1)), 1)
        return x, AttentionState(KeyValueCache(layers, layers[0].shape[3]), first + num_blocks, past_real)

    def append(self, x: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        num_blocks, past = state.num_blocks + 1, state.num_blocks * self.block_length
        self._check_capacity(num_blocks)
        # Behind the context tokens there is always room for one more set of prediction tokens.
        capacity = self.masks.max_blocks * self.block_length + self.num_predictions
        cache = state.cache.writable(past, capacity=capacity, dtype=self._precision)
        visible = self.masks.one(past, state.real)
        of_block, of_next = self.phases[:, state.num_blocks], self.phases[:, num_blocks, : self.num_predictions]
        cos, sin = torch.cat((of_block, of_next), 1)
        for layer, buffer in zip(self._layers, cache.layers, strict=True):
            x = layer.append(x, (cos, sin), buffer, past, visible)
        cache.filled = past + self.block_length  # the next step overwrites the prediction tokens
        real = state.real
        if real is not None:
            real = torch.cat((real, real.new_ones(len(real), self.block_length)), 1)
        return x, AttentionState(cache, num_blocks, real)

    def _check_capacity(self, num_blocks: int) -> None:
        room = self.masks.max_blocks
        if num_blocks > room:
            raise ConfigError(
                f"the attention model would have to remember {num_blocks} blocks; it has room for {room} "
                "(segment_length + imagination.context_length + imagination.horizon). Raise one of them, or use "
                "--world-model.sequence retention, whose memory has no limit."
            )


@final
class AttentionModel(AttentionStack, SequenceModel[AttentionState]):
    """A stack that reads prediction tokens along with each block; see ``SequenceModel`` for the contract."""

    def __init__(self, config: AttentionConfig, layout: BlockLayout, *, max_blocks: int) -> None:
        num_predictions = layout.num_observation_tokens
        tokens = 0.02 * torch.randn(num_predictions, config.width)
        masks = BlockMasks(layout.length, num_predictions, max_blocks=max_blocks, full_slots=config.slots == "full")
        super().__init__(config, layout, masks)
        self.prediction_tokens = nn.Parameter(tokens)
        self.readout = Readout(config, layout, num_positions=num_predictions, summary=config.summary)

    def parallel(
        self, blocks: Tensor, state: AttentionState, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, AttentionState]:
        tokens = self.prediction_tokens.expand(*blocks.shape[:2], -1, -1)
        x, state = self.run(torch.cat((blocks, tokens), -2), state, mask)
        return x[:, :, : self.block_length], self.readout(x[:, :, self.block_length :]), state

    def step(self, block: Tensor, state: AttentionState) -> tuple[Tensor, AttentionState]:
        tokens = self.prediction_tokens.expand(len(block), -1, -1)
        x, state = self.append(torch.cat((block, tokens), 1), state)
        return self.readout(x[:, self.block_length :]), state


def rotary_table(config: AttentionOptions, layout: BlockLayout, *, num_blocks: int) -> Phases:
    """cos and sin (blocks, L, d/2) of every position. Raises ConfigError when the heads are too narrow."""
    pairs, block = config.head_width // 2, torch.arange(num_blocks)[:, None]
    if config.positions == "sequence":
        position = block * layout.length + torch.arange(layout.length)
        return rotary_phases(position, rotary_frequencies(pairs))
    if pairs < NUM_AXES:
        raise ConfigError(
            f"grid positions need heads of at least {2 * NUM_AXES} features, but width {config.width} over "
            f"{config.num_heads} heads gives {2 * pairs}. Use fewer heads, a larger width, or "
            "--world-model.sequence.positions sequence."
        )
    places = torch.tensor(layout.coordinates())
    positions = torch.cat((block.expand(-1, len(places))[..., None], places.expand(num_blocks, -1, -1)), -1)
    return rotary_phases(positions, axial_frequencies(pairs, NUM_AXES))
