"""Block attention: attention in the form that a stream of blocks needs, with parallel observation prediction.

A block holds L context tokens and n *prediction* tokens that stand for the next thing to be predicted::

    block t:   | o_1 ... o_n  a_1 ... a_m |  u_1 ... u_n |
               '---------- L -------------' '---- n -----'

A context token sees every context token up to itself. A prediction token of block t sees the context of the blocks
before t and the prediction tokens of its own block, never those of others; nothing else ever sees it
(docs/method.md, "attention"). Block teacher forcing has no prediction tokens, n = 0, and the context tokens of a block
all see each other.

In training the queries go through in chunks of a few blocks, each against the context before its end: the work is
half of that of a full score matrix, and at most a chunk's worth of scores is masked in vain. The masks are slices of
two constant tensors. Keys are rotated when they are made, once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldstream.nn.rotary import Pairing, Phases, rotate

CHUNK_TOKENS = 512
"""Most tokens (context and prediction) of a chunk of queries, unless one block alone has more."""


@dataclass(frozen=True, slots=True)
class QueryChunk:
    """Blocks ``first`` to ``last`` (exclusive) of a segment, which are computed together."""

    first: int
    last: int
    visible: Tensor
    """(q, keys) or (B, 1, q, keys) bool; keys are all context tokens before the chunk, then the chunk's own tokens."""


class BlockMasks(nn.Module):
    """Who sees whom, as slices of constants, where at most ``max_blocks`` are to be remembered.

    With ``full_slots`` the prediction tokens of one block all see each other, with ``full_context`` its context tokens.
    """

    chunk: Tensor
    step: Tensor
    own: Tensor

    def __init__(
        self,
        block_length: int,
        num_predictions: int,
        *,
        max_blocks: int,
        full_slots: bool = False,
        full_context: bool = False,
    ) -> None:
        super().__init__()
        self.block_length, self.tokens = block_length, block_length + num_predictions
        self.num_predictions, self.max_blocks = num_predictions, max_blocks
        self.chunk_blocks = max(1, min(max_blocks, CHUNK_TOKENS // self.tokens))
        block = torch.arange(self.chunk_blocks).repeat_interleave(self.tokens)
        age = torch.cat((torch.arange(block_length), torch.arange(num_predictions))).repeat(self.chunk_blocks)
        predicts = (torch.arange(self.tokens) >= block_length).repeat(self.chunk_blocks)
        same = (block[:, None] == block) & (predicts[:, None] == predicts)
        own = same & ((age[:, None] >= age) | torch.where(predicts, full_slots, full_context))
        within = own | ((block[:, None] > block) & ~predicts)
        self.past = max_blocks * block_length
        one = slice(0, self.tokens)
        ahead = own[one, one] | (predicts[one, None] & ~predicts[one])  # predictions of the block *after* this one
        for name, mask in (("chunk", within), ("step", ahead), ("own", own)):
            seen = torch.ones(len(mask), 0 if name == "own" else self.past, dtype=torch.bool)
            self.register_buffer(name, torch.cat((seen, mask), 1), persistent=False)

    def chunks(self, past: int, num_blocks: int, past_real: Tensor | None, real: Tensor | None) -> list[QueryChunk]:
        """The chunks of a segment.

        Args:
            past: context tokens before the segment.
            num_blocks: T.
            past_real: (B, past) bool; None: all are real.
            real: (B, T) bool; a block where it is false is seen by its own tokens only. None: all are real.
        """
        found = []
        for first in range(0, num_blocks, self.chunk_blocks):
            last = min(first + self.chunk_blocks, num_blocks)
            size, seen = (last - first) * self.tokens, past + first * self.block_length
            visible = self.chunk[:size, self.past - seen : self.past + size]
            if past_real is not None and real is not None:
                context = real[:, :first].repeat_interleave(self.block_length, 1)
                chunk = real[:, first:last].repeat_interleave(self.tokens, 1)
                visible = visible & torch.cat((past_real, context, chunk), 1)[:, None, None]
                visible[..., seen:] |= self.own[:size, :size]
            found.append(QueryChunk(first, last, visible))
        return found

    def one(self, past: int, past_real: Tensor | None) -> Tensor:
        """The L + n tokens of a block that follows ``past`` context tokens and of the prediction of the next block:
        (q, past + q), or with a batch axis (B, 1, q, past + q) where ``past_real`` (B, past) is given."""
        visible = self.step[:, self.past - past :]
        if past_real is None:
            return visible
        new = past_real.new_ones(len(past_real), self.tokens)
        return visible & torch.cat((past_real, new), 1)[:, None, None]


class BlockAttention(nn.Module):
    """Multi-head attention over blocks of L context tokens followed by n prediction tokens; d = E / H must be even."""

    def __init__(self, width: int, num_heads: int, *, block_length: int, pairing: Pairing, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.head_width = num_heads, width // num_heads
        self.block_length = block_length
        self.pairing: Pairing = pairing
        self.dropout = dropout
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def _heads(self, x: Tensor, phases: Phases) -> tuple[Tensor, Tensor]:
        """x (B, ..., E) -> rotated queries (B, H, ..., d); rotated keys, and values, (2, B, H, ..., d)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_width)).movedim((-3, -2), (0, 2))
        qk = rotate(qkv[:2], phases, self.pairing).to(qkv.dtype)
        return qk[0], torch.stack((qk[1], qkv[2]))

    def _attend(self, q: Tensor, keys_values: Tensor, visible: Tensor) -> Tensor:
        """(B, H, q, d), (2, B, H, keys, d) -> (B, q, E), before the last projection."""
        dropout = self.dropout if self.training else 0.0
        keys, values = keys_values
        seen = nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=visible, dropout_p=dropout)
        return seen.transpose(1, 2).flatten(-2)

    def parallel(self, x: Tensor, phases: Phases, past: Tensor, chunks: list[QueryChunk]) -> tuple[Tensor, Tensor]:
        """All blocks at once; the prediction tokens of block t see what came before block t.

        Args:
            x: (B, T, L + n, E).
            phases: cos, sin of (T, L + n, d/2).
            past: (2, B, H, P, d) keys and values of the context before block 0.
            chunks: of ``BlockMasks.chunks``.

        Returns what x becomes, and keys and values of the context after the last block.
        """
        q, keys_values = self._heads(x, phases)
        context = torch.cat((past.to(keys_values.dtype), keys_values[..., : self.block_length, :].flatten(3, 4)), 3)
        parts = []
        for chunk in chunks:
            seen = past.shape[3] + chunk.first * self.block_length
            own = keys_values[:, :, :, chunk.first : chunk.last].flatten(3, 4)
            together = torch.cat((context[..., :seen, :], own), 3)
            parts.append(self._attend(q[:, :, chunk.first : chunk.last].flatten(2, 3), together, chunk.visible))
        return self.out(torch.cat(parts, 1).unflatten(1, x.shape[1:3])), context

    def append(self, x: Tensor, phases: Phases, buffer: Tensor, past: int, visible: Tensor) -> Tensor:
        """Tokens (B, q, E) that follow ``past`` context tokens; their keys and values are written behind those.

        Args:
            x, phases: (B, q, E); cos, sin of (q, d/2).
            buffer: (2, B, H, >= past + q, d) keys and values; what lies beyond ``past`` is free.
            past, visible: number of context tokens; (q, past + q) or (B, 1, q, past + q).
        """
        q, keys_values = self._heads(x, phases)
        end = past + x.shape[1]
        buffer[..., past:end, :] = keys_values
        return self.out(self._attend(q, buffer[..., :end, :], visible))
