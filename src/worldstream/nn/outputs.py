"""Outputs: what a head returns. A distribution or estimate that carries its own loss, sampling and entropy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import groupby

import torch
from torch import Tensor, nn

NEVER = -1e4
"""Logit of a probability of zero whose logarithm is finite."""
TINY = 1e-30
"""Least value of an exponential variable whose logarithm is taken."""


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


class Categoricals(Output):
    """C independent categorical variables per position.

    Samples and targets are int64 (..., C). Log-probability and entropy are *sums* over the variables, which is the
    joint log-probability (the published agent averages over action dimensions, C11 in docs/method.md).
    """

    @property
    @abstractmethod
    def log_probs(self) -> list[Tensor]:
        """Normalised log-probabilities, one (..., channels, size) tensor per run of equal channels."""

    @property
    def mean(self) -> Tensor:
        """Probabilities (..., sum(vocabulary)), one variable after the other."""
        return torch.cat([group.exp().flatten(-2) for group in self.log_probs], -1)

    @property
    def mode(self) -> Tensor:
        return torch.cat([group.argmax(-1) for group in self.log_probs], -1)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return torch.cat([draw_index(group.exp(), generator) for group in self.log_probs], -1)

    def sample_sticky(self, previous: Tensor, bonus: float, generator: torch.Generator | None = None) -> Tensor:
        """A draw that keeps all C values of ``previous`` (..., C) at a position where these are nearly as probable.

        The draw is the maximum of log-probabilities with Gumbel noise. Their soft-max gives probabilities of what was
        there and of what is drawn, geometric means over the variables (products of many would both vanish beside any
        bonus): the first stays if it is not more than ``bonus`` below the second. For one variable this is what the
        token correspondence of Kim et al. 2026 (arXiv 2605.16457) comes to where moving a token costs more than the
        bonus.
        """
        drawn, of_drawn, of_previous = [], [], []
        for group, before in zip(self.log_probs, self._by_group(previous), strict=True):
            noise = -torch.empty_like(group).exponential_(generator=generator).clamp(min=TINY).log()
            noisy = (group + noise).log_softmax(-1)
            best = noisy.max(-1)
            drawn.append(best.indices)
            of_drawn.append(best.values.sum(-1))
            of_previous.append(noisy.gather(-1, before.unsqueeze(-1)).sum((-1, -2)))
        channels = previous.shape[-1]
        probability, of_keeping = ((torch.stack(parts).sum(0) / channels).exp() for parts in (of_drawn, of_previous))
        return torch.where((of_keeping + bonus >= probability).unsqueeze(-1), previous, torch.cat(drawn, -1))

    def log_prob(self, x: Tensor) -> Tensor:
        picked = [
            group.gather(-1, part.unsqueeze(-1)).flatten(-2)
            for group, part in zip(self.log_probs, self._by_group(x), strict=True)
        ]
        return torch.cat(picked, -1).sum(-1)

    def entropy(self) -> Tensor:
        return torch.stack([-(group.exp() * group).sum((-1, -2)) for group in self.log_probs]).sum(0)

    def _by_group(self, x: Tensor) -> tuple[Tensor, ...]:
        """(..., C) cut into the runs of ``log_probs``."""
        return x.split([group.shape[-2] for group in self.log_probs], dim=-1)


class FactoredCategorical(Categoricals):
    """Categorical variables from one vector of concatenated logits.

    Args:
        logits: (..., sum(vocabulary)), one run of equal variables after the other; inside a run of n variables the
            logits of value 0 of all n come first, then those of value 1: along an axis of few values a softmax is an
            order of magnitude slower than across it.
        vocabulary: (C,) number of values of each variable.
    """

    def __init__(self, logits: Tensor, vocabulary: tuple[int, ...]) -> None:
        self.logits = logits
        self.vocabulary = vocabulary
        self._groups: list[Tensor] | None = None

    @property
    def log_probs(self) -> list[Tensor]:
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


class CopyCategorical(Categoricals):
    """Each variable is what it was before with probability g, or else a fresh draw: p(v) = g 1[v = u] + (1 - g) q(v).

    Args:
        fresh: q.
        previous: (..., C) u.
        logit: (..., C) of g; -inf: never a copy.
    """

    def __init__(self, fresh: Categoricals, previous: Tensor, logit: Tensor) -> None:
        logit = logit.clamp(min=NEVER)  # of an infinite one there would be no gradient
        copied, drawn = nn.functional.logsigmoid(logit), nn.functional.logsigmoid(-logit)
        sizes = [group.shape[-2] for group in fresh.log_probs]
        parts = zip(*(x.unsqueeze(-1).split(sizes, -2) for x in (previous, copied, drawn)), strict=True)
        self._groups = []
        for group, (before, log_copy, log_fresh) in zip(fresh.log_probs, parts, strict=True):
            others = group + log_fresh
            kept = torch.logaddexp(log_copy, others.gather(-1, before))
            self._groups.append(others.scatter(-1, before, kept))

    @property
    def log_probs(self) -> list[Tensor]:
        return self._groups


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
        return -nn.functional.binary_cross_entropy_with_logits(self.logit, target, reduction="none")

    def entropy(self) -> Tensor:
        p = self.mean
        return nn.functional.binary_cross_entropy_with_logits(self.logit, p, reduction="none")
