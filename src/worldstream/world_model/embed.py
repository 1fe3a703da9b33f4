"""Blocks of tokens to blocks of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldstream.nn.layers import ChannelTables, FactoredEmbedding
from worldstream.types import Tokens
from worldstream.world_model.block import BlockLayout


class BlockEmbedder(nn.Module):
    """One factored table a key, one table an action token, plus a learned embedding a slot.

    The published model tells the features of one key apart by rotary phase alone; the slot embedding makes that
    immediate for narrow models. ``slot_embedding=False`` restores the published form.
    """

    def __init__(self, layout: BlockLayout, width: int, *, slot_embedding: bool) -> None:
        super().__init__()
        self.keys = list(layout.token_specs)
        self.observation = nn.ModuleList(FactoredEmbedding(spec, width) for spec in layout.token_specs.values())
        self.action = ChannelTables(layout.action_spec.sizes, width, ordered=layout.action_spec.ordinal)
        self.slots = nn.Parameter(torch.randn(layout.length, width)) if slot_embedding else None

    def forward(self, tokens: Tokens, actions: Tensor) -> Tensor:
        """tokens: (..., K, C) by key, actions: (..., M) -> (..., L, E)."""
        parts = [embed(tokens[key]) for key, embed in zip(self.keys, self.observation, strict=True)]
        block = torch.cat((*parts, self.action(actions)), -2)
        return block if self.slots is None else block + self.slots
