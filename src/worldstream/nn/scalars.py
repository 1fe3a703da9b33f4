"""Heads for unbounded scalars (rewards, returns): regression as classification, and plain regression to compare.

HL-Gauss puts a truncated Gaussian around the symlog of the target onto equally spaced bins and trains with
cross-entropy (Farebrother et al. 2024, "Stop Regressing"; docs/method.md, "HL-Gauss"). All heads share one call
signature, so that the choice is a name in the configuration.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldstream.errors import ConfigError
from worldstream.nn.numerics import symexp, symlog
from worldstream.nn.outputs import Output, draw_index

NUM_BINS = 129
"""Bins of a value histogram. Odd, so that one is centred on zero."""
FEWEST_BINS = 65
"""Bins from which a target between two of them is read within 0.75 % of 1 + |target|."""
TARGET_REACH = 6.0
"""Standard deviations from a target within which bins have any of its mass to speak of."""


@dataclass(frozen=True)
class Bins:
    """N equally spaced bins of symlog space onto which a target is spread."""

    edges: Tensor  # (N + 1,) in symlog space
    sigma: float  # standard deviation of a target's Gaussian, in symlog space

    @property
    def centres(self) -> Tensor:
        """(N,) in symlog space."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    def spread(self, x: Tensor) -> Tensor:
        """(..., N) probabilities of the bins for scalars x (...,). Clamped into the range, so never 0/0 (C13)."""
        y = torch.maximum(torch.minimum(symlog(x), self.edges[-1]), self.edges[0]).unsqueeze(-1)
        cdf = torch.erf((self.edges - y) / (math.sqrt(2.0) * self.sigma))
        mass = cdf[..., 1:] - cdf[..., :-1]
        return mass / mass.sum(-1, keepdim=True)

    def values(self) -> Tensor:
        """(N,) scalars v with sum_i spread(x)_i v_i = x for every x at the centre of a bin, and nearly between them.

        symexp of the centres would not do: symexp is convex, so the mean over a spread target exceeds the target by up
        to 1.8 % of 1 + |x|, which times a discount of 0.99 makes a value grow on its own.
        """
        centres = self.centres.double()
        exact = Bins(self.edges.double(), self.sigma)
        solved = torch.linalg.solve(exact.spread(symexp(centres)), symexp(centres))
        return ((solved - solved.flip(0)) / 2).to(self.edges.dtype)  # odd to the last bit


class SymlogHLGauss(Output):
    """Histogram over bins in symlog space, read as published: symexp of the mean in symlog space.

    That is far below the expected value of what is rare: a reward of 1 with probability 0.03 is read as 0.02.

    Args:
        logits: (..., N) over the bins.
        bins: the bins.
    """

    def __init__(self, logits: Tensor, bins: Bins) -> None:
        self.logits, self._bins = logits, bins

    @property
    def mean(self) -> Tensor:
        """symexp of the expected bin centre (...,)."""
        return symexp(self.logits.softmax(-1) @ self._bins.centres)

    @property
    def mode(self) -> Tensor:
        return symexp(self._bins.centres)[self.logits.argmax(-1)]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return symexp(self._bins.centres)[draw_index(self.logits.softmax(-1), generator)]

    def target(self, x: Tensor) -> Tensor:
        """(..., N) probabilities of the bins for scalars x (...,)."""
        return self._bins.spread(x)

    def log_prob(self, x: Tensor) -> Tensor:
        """Negative cross-entropy between the target histogram of x (...,) and the prediction."""
        return (self.target(x) * self.logits.log_softmax(-1)).sum(-1)

    def entropy(self) -> Tensor:
        log_probs = self.logits.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)


class HLGauss(SymlogHLGauss):
    """The same histogram, read in raw space.

    Args:
        logits: (..., N) over the bins.
        bins: the bins.
        values: (N,) scalar that each bin stands for.
        readable: (N,) bool, bins that the mean counts.
    """

    def __init__(self, logits: Tensor, bins: Bins, values: Tensor, readable: Tensor) -> None:
        super().__init__(logits, bins)
        self._values, self._readable = values, readable

    @property
    def _read(self) -> Tensor:
        """Logits (..., N) of the readable bins."""
        return self.logits.masked_fill(~self._readable, -math.inf)

    @property
    def mean(self) -> Tensor:
        """Expected value (...,): sum of p_i v_i over the readable bins."""
        return self._read.softmax(-1) @ self._values

    @property
    def mode(self) -> Tensor:
        return symexp(self._bins.centres)[self._read.argmax(-1)]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self._values[draw_index(self._read.softmax(-1), generator)]


class ScalarHead(nn.Module, ABC):
    """Linear map of latents (..., E) to the raw predictions (..., N) of a scalar, read as an output over (...,).

    Constructor: ``(width, *, limit, bias_support=None, num_bins=NUM_BINS)`` as of ``SymlogHLGaussHead``, whatever N is.
    """

    linear: nn.Linear

    @property
    def num_logits(self) -> int:
        """N."""
        return self.linear.out_features

    def forward(self, x: Tensor) -> Output:
        """Latents (..., E) -> output over (...,)."""
        return self.output(self.logits(x))

    def logits(self, x: Tensor) -> Tensor:
        """Latents (..., E) -> raw predictions (..., N)."""
        raw: Tensor = self.linear(x)
        return raw

    @abstractmethod
    def output(self, logits: Tensor) -> Output:
        """Read raw predictions (..., N), for example stacked ones, as an output."""

    def remember(self, x: Tensor) -> None:
        """Targets (any shape) of an update are among those to come; those that are not finite are left out."""

    def expect(self, low: Tensor, high: Tensor) -> None:
        """Targets to come are between two scalars (); what was known of them is forgotten."""


class SymlogHLGaussHead(ScalarHead):
    """Linear(E -> N bins) read as a ``SymlogHLGauss``. The bins span [-limit, limit] in symlog space.

    The bias -0.2 |s| of the ``bias_support`` s (N,) makes the untrained prediction about zero; None: from -15 to 15 in
    equal steps.
    """

    edges: Tensor

    def __init__(
        self, width: int, *, limit: float, bias_support: Tensor | None = None, num_bins: int = NUM_BINS
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_bins)
        self.register_buffer("edges", torch.linspace(-limit, limit, num_bins + 1), persistent=False)
        self.sigma = 0.75 * (2 * limit / num_bins)
        support = torch.linspace(-15, 15, num_bins) if bias_support is None else bias_support
        with torch.no_grad():
            self.linear.bias.copy_(-0.2 * support.abs())

    @property
    def bins(self) -> Bins:
        """The bins, on the device of the head."""
        return Bins(self.edges, self.sigma)

    def output(self, logits: Tensor) -> SymlogHLGauss:
        return SymlogHLGauss(logits, self.bins)


class HLGaussHead(SymlogHLGaussHead):
    """The same, read as an ``HLGauss``.

    A mean in raw space gives far bins the weight of their value, so it counts only those near targets: what is left of
    an untrained tail there would outweigh everything else. Raises ConfigError for fewer than ``FEWEST_BINS``.
    """

    values: Tensor
    readable: Tensor
    """(N,) bool."""

    def __init__(
        self, width: int, *, limit: float, bias_support: Tensor | None = None, num_bins: int = NUM_BINS
    ) -> None:
        if num_bins < FEWEST_BINS:
            raise ConfigError(
                f"the scalar output 'hl_gauss' cannot be read from {num_bins} bins: values between them would be off "
                f"by more than a discount takes away. Take at least {FEWEST_BINS}, or the output 'hl_gauss_symlog'."
            )
        super().__init__(width, limit=limit, bias_support=bias_support, num_bins=num_bins)
        self.register_buffer("values", self.bins.values(), persistent=False)
        self.register_buffer("readable", self._near(torch.zeros(()), torch.zeros(())))

    def _near(self, low: Tensor, high: Tensor) -> Tensor:
        """(N,) bool: bins that hold mass of a target between ``low`` and ``high``."""
        reach, centres = TARGET_REACH * self.sigma, self.bins.centres
        edges = self.edges[[0, -1]]
        first, last = (symlog(x).clamp(edges[0], edges[1]) for x in (low, high))
        return (centres >= first - reach) & (centres <= last + reach)

    @torch.no_grad()
    def remember(self, x: Tensor) -> None:
        x = torch.where(x.isfinite(), x, 0.0)
        self.readable |= self._near(x.min(), x.max())

    @torch.no_grad()
    def expect(self, low: Tensor, high: Tensor) -> None:
        self.readable.copy_(self._near(low, high))

    def output(self, logits: Tensor) -> HLGauss:
        return HLGauss(logits, self.bins, self.values, self.readable)


class SquaredError(Output):
    """A point estimate in symlog space; loss (prediction - symlog(target))^2. ``logits`` is (..., 1).

    What it learns is the mean in symlog space: rare scalars are read too low.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @property
    def mean(self) -> Tensor:
        return symexp(self.logits.squeeze(-1))

    @property
    def mode(self) -> Tensor:
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.mean

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of a Gaussian with variance 1/2 around the prediction, up to its constant."""
        return -((self.logits.squeeze(-1) - symlog(x)) ** 2)

    def entropy(self) -> Tensor:
        return torch.zeros_like(self.logits.squeeze(-1))


class SquaredErrorHead(ScalarHead):
    """Linear(E -> 1) read as a ``SquaredError``."""

    def __init__(
        self, width: int, *, limit: float, bias_support: Tensor | None = None, num_bins: int = NUM_BINS
    ) -> None:
        super().__init__()
        del limit, bias_support, num_bins  # a point estimate has neither range nor bins
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def output(self, logits: Tensor) -> SquaredError:
        return SquaredError(logits)
