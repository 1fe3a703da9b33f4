"""Outputs: what a head returns. A distribution or estimate that carries its own loss, sampling and entropy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import groupby

import torch
from torch import Tensor


class Output(ABC):
    """Result of a head; leading axes are those of the head's input."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """Expected value, or class probabilities where a mean has no meaning."""

    @property
    @abstractmethod
    def mode(self) -> Tensor:
        """Most likely value."""

    @abstractmethod
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw for each leading index."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of x in nats, over the leading axes."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """Entropy in nats, over the leading axes."""

    def loss(self, target: Tensor) -> Tensor:
        """What training minimises, over the leading axes; by default the negative log-probability."""
        return -self.log_prob(target)


def channel_groups(vocabulary: tuple[int, ...]) -> list[tuple[int, int]]:
    """Runs of channels of equal size, as (number of channels, size): each run is handled by one tensor operation."""
    return [(len(list(run)), size) for size, run in groupby(vocabulary)]


def draw_index(probs: Tensor, generator: torch.Generator | None) -> Tensor:
    """One categorical draw for each row of probabilities (..., V) -> int64 (...), by inverting the distribution.

    One uniform number a row and no host synchronisation; on a CPU several times faster than V exponential ones.
    """
    cumulative = probs.cumsum(-1)
    # Scaling by the last entry instead of 1 keeps rounding from ever selecting beyond it.
    uniform = torch.rand(probs.shape[:-1], generator=generator, device=probs.device).unsqueeze(-1)
    return (cumulative <= uniform * cumulative[..., -1:]).sum(-1).clamp(max=probs.shape[-1] - 1)


class FactoredCategorical(Output):
    """C independent categorical variables per position, from one vector of concatenated logits.

    Args:
        logits: (..., sum(vocabulary)), one run of equal variables after the other; inside a run of n variables the
            logits of value 0 of all n come first, then those of value 1: along an axis of few values a softmax is an
            order of magnitude slower than across it.
        vocabulary: (C,) number of values of each variable.

    Samples and targets are int64 (..., C). Log-probability and entropy are *sums* over the variables, which is the
    joint log-probability (the published agent averages over action dimensions, C11 in docs/method.md).
    """

    def __init__(self, logits: Tensor, vocabulary: tuple[int, ...]) -> None:
        self.logits = logits
        self.vocabulary = vocabulary
        self._groups: list[Tensor] | None = None

    @property
    def log_probs(self) -> list[Tensor]:
        """Normalised log-probabilities, one (..., channels, size) tensor per run of equal channels."""
        if self._groups is None:
            groups = channel_groups(self.vocabulary)
            parts = self.logits.split([count * size for count, size in groups], dim=-1)
            self._groups = [
                part.unflatten(-1, (size, count)).log_softmax(-2).transpose(-1, -2)
                if count > 1
                else part.log_softmax(-1).unsqueeze(-2)
                for part, (count, size) in zip(parts, groups, strict=True)
            ]
        return self._groups

    def with_temperature(self, temperature: float) -> FactoredCategorical:
        """The same variables with logits divided by ``temperature``."""
        return FactoredCategorical(self.logits / temperature, self.vocabulary)

    @property
    def mean(self) -> Tensor:
        """Probabilities (..., sum(vocabulary)), one variable after the other."""
        return torch.cat([group.exp().flatten(-2) for group in self.log_probs], -1)

    @property
    def mode(self) -> Tensor:
        return torch.cat([group.argmax(-1) for group in self.log_probs], -1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return torch.cat([draw_index(group.exp(), generator) for group in self.log_probs], -1)

    def log_prob(self, x: Tensor) -> Tensor:
        parts = x.split([group.shape[-2] for group in self.log_probs], dim=-1)
        picked = [
            group.gather(-1, part.unsqueeze(-1)).flatten(-2) for group, part in zip(self.log_probs, parts, strict=True)
        ]
        return torch.cat(picked, -1).sum(-1)

    def entropy(self) -> Tensor:
        return torch.stack([-(group.exp() * group).sum((-1, -2)) for group in self.log_probs]).sum(0)


class Bernoulli(Output):
    """A yes/no variable from one logit. Samples are bool; log_prob takes bool or {0, 1} of the logit's shape."""

    def __init__(self, logit: Tensor) -> None:
        self.logit = logit

    @property
    def mean(self) -> Tensor:
        return self.logit.sigmoid()

    @property
    def mode(self) -> Tensor:
        return self.logit > 0

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return torch.rand(self.logit.shape, generator=generator, device=self.logit.device) < self.mean

    def log_prob(self, x: Tensor) -> Tensor:
        target = x.to(self.logit.dtype)
        return -torch.nn.functional.binary_cross_entropy_with_logits(self.logit, target, reduction="none")

    def entropy(self) -> Tensor:
        p = self.mean
        return torch.nn.functional.binary_cross_entropy_with_logits(self.logit, p, reduction="none")
