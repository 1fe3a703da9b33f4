"""Small feed-forward blocks."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from worldstream.specs import TokenSpec


def mlp(sizes: tuple[int, ...]) -> nn.Sequential:
    """Linear -> LayerNorm -> SiLU for each pair of consecutive sizes, also after the last."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out), nn.LayerNorm(fan_out), nn.SiLU()]
    return nn.Sequential(*layers)


def head(width: int, hidden: int, out: int) -> nn.Sequential:
    """Linear(width -> hidden) -> LayerNorm -> SiLU -> Linear(hidden -> out): the shape of every head."""
    return nn.Sequential(nn.Linear(width, hidden), nn.LayerNorm(hidden), nn.SiLU(), nn.Linear(hidden, out))


def smooth_rows(count: int, width: int, max_frequency: float = 1.0) -> Tensor:
    """(count, width) initial embeddings of ids on a line: random waves of unit variance, alike for neighbours.

    Random Fourier features of a Gaussian kernel: two ids that are a twentieth of the line apart begin with a
    correlation of about 0.8, a sixth apart with 0.2. A table of independent rows would have to learn from data that
    level 61 is next to level 62.

    With ``max_frequency`` above 1 the deviation of frequencies rises geometrically up to it over the features: the
    first ones still tell that levels are near, the last ones which of two neighbours it is.
    """
    place = torch.linspace(-1.0, 1.0, count).unsqueeze(-1)
    frequency, phase = torch.randn(width), torch.rand(width)
    frequency = frequency * torch.logspace(0.0, math.log10(max_frequency), width)
    return math.sqrt(2.0) * torch.cos(2 * math.pi * (frequency * place + phase))


class ChannelTables(nn.Module):
    """One embedding table for each of C channels, in a single gather: (..., C) int64 -> (..., C, E).

    Of a channel whose values are ``ordered``, levels on a line, neighbouring rows begin alike.
    """

    offsets: Tensor

    def __init__(
        self, sizes: tuple[int, ...], width: int, *, ordered: tuple[bool, ...], max_frequency: float = 1.0
    ) -> None:
        super().__init__()
        rows = [
            smooth_rows(size, width, max_frequency) if on_a_line else torch.randn(size, width)
            for size, on_a_line in zip(sizes, ordered, strict=True)
        ]
        self.table = nn.Embedding.from_pretrained(torch.cat(rows), freeze=False)
        self.register_buffer("offsets", torch.tensor((0, *sizes[:-1])).cumsum(0), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self.table(ids + self.offsets)
        return embedded


class FactoredEmbedding(nn.Module):
    """Embeds tokens of C channels as the sum of C lookups over sqrt(C): (..., C) int64 -> (..., E).

    The published agent takes the mean. The sum over sqrt(C) differs by a constant factor that tables could absorb, but
    keeps the scale at one from the start: in a token of 21 channels the mean drowns what one channel says.
    """

    def __init__(self, spec: TokenSpec, width: int, *, max_frequency: float = 1.0) -> None:
        super().__init__()
        self.vocabulary = spec.vocabulary
        self.scale = spec.num_channels**-0.5
        ordered = (spec.ordered,) * spec.num_channels
        self.channels = ChannelTables(spec.vocabulary, width, ordered=ordered, max_frequency=max_frequency)

    def forward(self, ids: Tensor) -> Tensor:
        rows = (ids + self.channels.offsets).flatten(0, -2)
        summed = nn.functional.embedding_bag(rows, self.channels.table.weight, mode="sum")
        return summed.unflatten(0, ids.shape[:-1]) * self.scale


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
