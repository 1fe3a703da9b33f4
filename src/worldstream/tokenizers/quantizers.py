"""Quantizers: rows of an encoder's outputs to ids and codes. Vector quantisation (VQ) and finite scalars (FSQ).

Gradients pass the rounding straight through: code = z + stop_gradient(quantised z - z).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from worldstream.errors import ConfigError

USAGE_DECAY = 0.99
"""Decay of the exponential average that ``usage`` is."""
MOST_CODES = 65_536
"""Ids of a channel; each has a logit."""
IN_USE = 0.01
"""Codes count as used from this share of the average usage on."""


class Quantized(NamedTuple):
    """What a quantizer makes of N rows."""

    codes: Tensor  # (N, D), with the gradient of the rows
    ids: Tensor  # (N, C) int64
    loss: Tensor  # (N,) pulls rows and codes together; zeros where nothing needs it


class Quantizer(nn.Module, ABC):
    """Rows (N, D) -> ids of C channels, each below V = ``num_codes``, and codes (N, D).

    ``usage`` (C, V): how often each id was used in training, as a multiple of the average; an exponential average over
    batches that begins at 0.
    """

    usage: Tensor

    def __init__(self, num_codes: int, num_channels: int = 1) -> None:
        super().__init__()
        self.num_codes = num_codes
        self.register_buffer("usage", torch.zeros(num_channels, num_codes))

    @property
    def vocabulary(self) -> tuple[int, ...]:
        """(C,) number of values of each channel."""
        return (self.num_codes,) * len(self.usage)

    @abstractmethod
    def forward(self, rows: Tensor) -> Quantized:
        """Quantise rows (N, D); in training mode also take notice of them."""

    @abstractmethod
    def encode(self, rows: Tensor) -> Tensor:
        """(N, D) -> ids (N, C) int64."""

    @abstractmethod
    def codes(self, ids: Tensor) -> Tensor:
        """ids (..., C) -> codes (..., D)."""

    def revived_parameters(self) -> list[nn.Parameter]:
        """Parameters that ``forward`` writes in training mode."""
        return []

    def statistics(self) -> dict[str, Tensor]:
        """Share of ids in use, and perplexity of their distribution (V: all used alike), means () over channels."""
        shares = self.usage / self.usage.sum(-1, keepdim=True).clamp(min=1e-12)
        entropy = -(shares * shares.clamp(min=1e-12).log()).sum(-1)
        return {"usage": (self.usage > IN_USE).float().mean(), "perplexity": entropy.exp().mean()}

    @torch.no_grad()
    def _count(self, ids: Tensor) -> Tensor:
        """Take ids (N, C) into the usage; returns how often each occurs among them, (C, V)."""
        first = self.num_codes * torch.arange(len(self.usage), device=ids.device)
        counts = torch.bincount((ids + first).flatten(), minlength=self.usage.numel()).view_as(self.usage)
        self.usage.lerp_(counts * (self.num_codes / len(ids)), 1 - USAGE_DECAY)
        return counts


@final
class VectorQuantizer(Quantizer):
    """The nearest of V codes of width D (docs/method.md, "VQ").

    With ``ema_decay`` 0 codes are parameters, and the loss pulls them to the rows; above 0 each is the exponential
    average of the rows that chose it, with this decay, and the loss pulls only the rows.

    Codes whose usage is below ``revive_below`` are put onto rows of the batch, drawn by their squared distance to the
    nearest code: where codes are missing. Their averages start anew there, so that the next update does not bring the
    dead code back (C16). In the first update these are nearly all codes, which thus begin on data.
    """

    codebook: Tensor
    life: Tensor
    """(V,) usage, but for codes that were just revived, which are given time."""
    totals: Tensor
    """(V, D) average over batches of the sum of a code's rows."""
    weights: Tensor
    """(V,) the same average of their number, as a multiple of the mean."""

    def __init__(self, num_codes: int, width: int, *, ema_decay: float = 0.0, revive_below: float = 0.0) -> None:
        super().__init__(num_codes)
        codebook = torch.empty(num_codes, width).uniform_(-1 / num_codes, 1 / num_codes)
        self.ema_decay = ema_decay
        self.revive_below = revive_below
        self.register_buffer("life", torch.zeros(num_codes))
        if ema_decay:
            self.register_buffer("codebook", codebook)
            self.register_buffer("totals", codebook.clone())
            self.register_buffer("weights", torch.ones(num_codes))
        else:
            self.codebook = nn.Parameter(codebook)

    def forward(self, rows: Tensor) -> Quantized:
        ids = self.encode(rows)
        chosen = self.codes(ids)
        loss = (rows - chosen.detach()).square().mean(-1)
        if not self.ema_decay:
            loss = loss + (chosen - rows.detach()).square().mean(-1)
        if self.training:
            self._learn(rows.detach(), ids, (rows - chosen).detach().square().sum(-1))
        return Quantized(rows + (chosen - rows).detach(), ids, loss)

    @torch.no_grad()
    def encode(self, rows: Tensor) -> Tensor:
        squares = self.codebook.square().sum(-1)  # |z|^2 is the same for all codes
        return torch.addmm(squares, rows, self.codebook.t(), alpha=-2.0).argmin(-1, keepdim=True)

    def codes(self, ids: Tensor) -> Tensor:
        return self.codebook[ids.squeeze(-1)]

    def revived_parameters(self) -> list[nn.Parameter]:
        return list(self.parameters()) if self.revive_below else []

    @torch.no_grad()
    def _learn(self, rows: Tensor, ids: Tensor, distances: Tensor) -> None:
        """Count, average and revive; static shapes, nothing is read by the host."""
        counts = self._count(ids).squeeze(0)
        ids = ids.squeeze(-1)
        if self.ema_decay:
            scale = self.num_codes / len(rows)
            totals = torch.zeros_like(self.totals).index_add_(0, ids, rows) * scale
            self.totals.lerp_(totals, 1 - self.ema_decay)
            self.weights.lerp_(counts * scale, 1 - self.ema_decay)
            self.codebook.copy_(self.totals / self.weights.clamp(min=1e-5).unsqueeze(-1))
        if self.revive_below:
            self.life.lerp_(counts * (self.num_codes / len(ids)), 1 - USAGE_DECAY)
            dead = self.life < self.revive_below
            chances = distances.nan_to_num(0.0, 0.0) + 1e-12  # divergence is reported elsewhere, by the gradient
            found = rows[torch.multinomial(chances, self.num_codes, replacement=True)]
            self.codebook.copy_(torch.where(dead.unsqueeze(-1), found, self.codebook))
            self.life.masked_fill_(dead, 1.0)
            if self.ema_decay:
                self.totals.copy_(torch.where(dead.unsqueeze(-1), found, self.totals))
                self.weights.masked_fill_(dead, 1.0)


@final
class FiniteScalarQuantizer(Quantizer):
    """Each of a few scalars is rounded to one of its levels; an id numbers their combination (docs/method.md, "FSQ").

    With several channels a token says more without a larger vocabulary: each channel numbers the combination of
    scalars of its own, and the code depends on all of them. (Published: one channel.) Linear maps lead from D to the
    scalars and back. Raises ConfigError for fewer than two levels, and more than 65,536 combinations.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: tuple[int, ...], width: int, num_channels: int = 1) -> None:
        if not levels or min(levels) < 2:
            raise ConfigError(f"tokenizers.by_modality.image.levels must be numbers of at least 2, not {levels}.")
        if prod(levels) > MOST_CODES:
            raise ConfigError(
                f"tokenizers.by_modality.image.levels {levels} make {prod(levels)} ids, more than {MOST_CODES}: use "
                "fewer, and more ids_per_token."
            )
        super().__init__(prod(levels), num_channels)
        self.shrink = nn.Linear(width, num_channels * len(levels))
        self.expand = nn.Linear(num_channels * len(levels), width)
        sizes = torch.tensor(levels)
        self.register_buffer("levels", sizes, persistent=False)
        self.register_buffer("basis", torch.cat((torch.ones(1), sizes[:-1])).cumprod(0).long(), persistent=False)

    def forward(self, rows: Tensor) -> Quantized:
        bounded = self._bounded(rows)
        rounded = bounded + (bounded.round() - bounded).detach()
        ids = self._number(rounded.detach())
        if self.training:
            self._count(ids)
        return Quantized(self._code(rounded), ids, torch.zeros_like(rows[:, 0]))

    @torch.no_grad()
    def encode(self, rows: Tensor) -> Tensor:
        return self._number(self._bounded(rows).round())

    def codes(self, ids: Tensor) -> Tensor:
        return self._code(ids.unsqueeze(-1) // self.basis % self.levels - self.levels // 2)

    def _bounded(self, rows: Tensor) -> Tensor:
        """(N, D) -> (N, C, scalars), between the lowest and the highest step of each scalar."""
        half = (self.levels - 1) * (1 - 1e-3) / 2
        offset = 0.5 * (self.levels % 2 == 0)
        scalars = self.shrink(rows).unflatten(-1, (len(self.usage), -1))
        return torch.tanh(scalars + torch.tan(offset / half)) * half - offset

    def _number(self, steps: Tensor) -> Tensor:
        """Steps (N, C, scalars) -> ids (N, C)."""
        steps = steps.nan_to_num(0.0)  # divergence is reported elsewhere, by the gradient
        return ((steps.long() + self.levels // 2) * self.basis).sum(-1)

    def _code(self, steps: Tensor) -> Tensor:
        """Steps (..., C, scalars) -> codes (..., D)."""
        codes: Tensor = self.expand((steps / (self.levels // 2)).flatten(-2))
        return codes
