"""Blocks of tokens to blocks of embeddings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from worldstream.nn.layers import ChannelTables, FactoredEmbedding
from worldstream.specs import TokenSpec
from worldstream.types import Features, Tokens
from worldstream.world_model.block import BlockLayout

CodesOf = Callable[[Tokens], Features]
"""Tokens (..., K, C) by key -> learned codes (..., K, F) by key, without gradient."""


def _code_map(spec: TokenSpec, width: int) -> nn.Module:
    return nn.Identity() if spec.feature_size == width else nn.Linear(spec.feature_size, width)


class BlockEmbedder(nn.Module):
    """One factored table a key, one table an action token, plus a learned embedding a slot.

    Keys whose tokens have learned codes are embedded by these, through a linear map where the widths differ (shared
    embeddings; docs/method.md, "embedding of a block"): what the tokenizer learned about likeness of tokens need not
    be learned again.

    The published model tells the features of one key apart by rotary phase alone; the slot embedding makes that
    immediate for narrow models. ``slot_embedding=False`` restores the published form.
    """

    def __init__(
        self, layout: BlockLayout, width: int, *, slot_embedding: bool, codes_of: CodesOf | None = None
    ) -> None:
        super().__init__()
        self.keys = list(layout.token_specs)
        self._codes_of = codes_of
        self._coded = [key for key, spec in layout.token_specs.items() if codes_of is not None and spec.coded]
        self.observation = nn.ModuleList(
            _code_map(spec, width) if key in self._coded else FactoredEmbedding(spec, width)
            for key, spec in layout.token_specs.items()
        )
        self.action = ChannelTables(layout.action_spec.sizes, width, ordered=layout.action_spec.ordinal)
        self.slots = nn.Parameter(torch.randn(layout.length, width)) if slot_embedding else None

    def forward(self, tokens: Tokens, actions: Tensor) -> Tensor:
        """tokens: (..., K, C) by key, actions: (..., M) -> (..., L, E)."""
        if self._codes_of is not None and self._coded:
            tokens = {**tokens, **self._codes_of({key: tokens[key] for key in self._coded})}
        parts = [embed(tokens[key]) for key, embed in zip(self.keys, self.observation, strict=True)]
        block = torch.cat((*parts, self.action(actions)), -2)
        return block if self.slots is None else block + self.slots
