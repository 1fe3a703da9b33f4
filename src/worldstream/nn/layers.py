"""Small feed-forward blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def mlp(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear -> LayerNorm -> SiLU for each pair of consecutive sizes, also after the last."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out), nn.LayerNorm(fan_out), nn.SiLU()]
    return nn.Sequential(*layers)


def head(width: int, hidden: int, out: int, *, norm: bool = True) -> nn.Sequential:
    """Linear(width -> hidden) -> [LayerNorm] -> SiLU -> Linear(hidden -> out): the shape of every head."""
    middle: list[nn.Module] = [nn.LayerNorm(hidden)] if norm else []
    return nn.Sequential(nn.Linear(width, hidden), *middle, nn.SiLU(), nn.Linear(hidden, out))


class FactoredEmbedding(nn.Module):
    """Embeds tokens of C channels as the sum of C lookups over sqrt(C), one table a channel, in a single gather.

    The published agent takes the mean. The sum over sqrt(C) differs by a constant factor that tables could absorb, but
    keeps the scale at one from the start: in a token of 21 channels the mean drowns what one channel says.

    Args:
        vocabulary: (C,) number of values of each channel.
        width: E.
    """

    offsets: Tensor

    def __init__(self, vocabulary: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(vocabulary), width)
        self.scale = len(vocabulary) ** -0.5
        starts = torch.tensor((0, *vocabulary[:-1])).cumsum(0)
        self.register_buffer("offsets", starts, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        """(..., C) int64 -> (..., E)."""
        return self.table(ids + self.offsets).sum(-2) * self.scale


class EnsembleLinear(nn.Module):
    """P independent linear maps applied by one batched product: (P, N, in) -> (P, N, out)."""

    def __init__(self, num_members: int, fan_in: int, fan_out: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in)
        self.weight = nn.Parameter(torch.empty(num_members, fan_in, fan_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_members, 1, fan_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class EnsembleHead(nn.Module):
    """P independent copies of ``head(width, hidden, out)``, batched."""

    def __init__(self, num_members: int, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.num_members = num_members
        self.first = EnsembleLinear(num_members, width, hidden)
        self.gain = nn.Parameter(torch.ones(num_members, 1, hidden))
        self.shift = nn.Parameter(torch.zeros(num_members, 1, hidden))
        self.last = EnsembleLinear(num_members, hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """(P, N, width) -> (P, N, out); member p sees only x[p]."""
        hidden = self.first(x)
        hidden = nn.functional.layer_norm(hidden, hidden.shape[-1:]) * self.gain + self.shift
        return self.last(nn.functional.silu(hidden))
