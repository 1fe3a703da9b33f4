"""Blocks of tokens to blocks of embeddings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from worldstream.nn.layers import ChannelTables, FactoredEmbedding
from worldstream.types import Features, Tokens
from worldstream.world_model.block import BlockLayout

CodesOf = Callable[[Tokens], Features]
"""Tokens (..., K, C) by key -> learned codes (..., K, F) by key, without gradient."""


class CodeEmbedding(nn.Module):
    """Learned codes (..., K, F) -> (..., K, E), through a linear map where the widths differ.

    With ``unit_scale`` they are divided by their root mean square first, an average over the batches of training: codes
    of a few hundredths would not be heard beside slot embeddings of unit deviation. A linear map begins at 0.58 of it.
    """

    mean_square: Tensor
    count: Tensor

    def __init__(self, feature_size: int, width: int, *, unit_scale: bool) -> None:
        super().__init__()
        self.unit_scale = unit_scale
        self.map = nn.Identity() if feature_size == width else nn.Linear(feature_size, width)
        if unit_scale:
            self.register_buffer("mean_square", torch.ones(()))
            self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, codes: Tensor) -> Tensor:
        if self.unit_scale:
            if self.training:
                self._measure(codes)
            codes = codes * self.mean_square.clamp(min=1e-12).rsqrt()
        mapped: Tensor = self.map(codes)
        return mapped

    @torch.no_grad()
    def _measure(self, codes: Tensor) -> None:
        """Average over all batches at first, over about the last hundred in the end."""
        self.count += 1
        self.mean_square.lerp_(codes.square().mean(), 1.0 / self.count.clamp(max=100))


class BlockEmbedder(nn.Module):
    """One factored table a key, one table an action token, plus a learned embedding a slot.

    Keys whose tokens have learned codes are embedded by these, through a linear map where the widths differ (shared
    embeddings; docs/method.md, "embedding of a block"): what the tokenizer learned about likeness of tokens need not
    be learned again.

    The published model tells the features of one key apart by rotary phase alone; the slot embedding makes that
    immediate for narrow models. ``slot_embedding=False`` restores the published form.
    """

    def __init__(
        self,
        layout: BlockLayout,
        width: int,
        *,
        slot_embedding: bool,
        codes_of: CodesOf | None = None,
        unit_codes: bool = True,
        max_frequency: float = 1.0,
    ) -> None:
        super().__init__()
        self.keys = list(layout.token_specs)
        self._codes_of = codes_of
        self._coded = [key for key, spec in layout.token_specs.items() if codes_of is not None and spec.coded]
        self.observation = nn.ModuleList(
            CodeEmbedding(spec.feature_size, width, unit_scale=unit_codes)
            if key in self._coded
            else FactoredEmbedding(spec, width, max_frequency=max_frequency)
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

    def written_while_training(self) -> list[Tensor]:
        """Tensors that ``forward`` writes in training mode, so that an update that is skipped can put them back."""
        return [buffer for part in self.observation if isinstance(part, CodeEmbedding) for buffer in part.buffers()]
