"""Heads for unbounded scalars (rewards, returns): regression as classification, and plain regression to compare.

``HLGaussHead`` puts a truncated Gaussian around the symlog of the target onto equally spaced bins and trains with
cross-entropy (Farebrother et al. 2024, "Stop Regressing"; docs/method.md, "HL-Gauss"). Both heads share one call
signature, so that the choice is a name in the configuration.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from worldstream.nn.numerics import symexp, symlog
from worldstream.nn.outputs import Output, draw_index

NUM_BINS = 129
"""Bins of a value histogram. Odd, so that one is centred on zero."""


class HLGauss(Output):
    """Histogram over symlog space; see ``HLGaussHead``.

    Args:
        logits: (..., N) over the bins.
        edges: (N + 1,) bin edges in symlog space.
        sigma: standard deviation of the target's Gaussian, in symlog units.
    """

    def __init__(self, logits: Tensor, edges: Tensor, sigma: float) -> None:
        self.logits, self._edges, self._sigma = logits, edges, sigma

    @property
    def _centres(self) -> Tensor:
        return (self._edges[1:] + self._edges[:-1]) / 2

    @property
    def mean(self) -> Tensor:
        """symexp of the expected bin centre (...,)."""
        return symexp(self.logits.softmax(-1) @ self._centres)

    @property
    def mode(self) -> Tensor:
        return symexp(self._centres[self.logits.argmax(-1)])

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return symexp(self._centres[draw_index(self.logits.softmax(-1), generator)])

    def target(self, x: Tensor) -> Tensor:
        """(..., N) probabilities of the bins for scalars x (...,). Clamped into the range, so never 0/0 (C13)."""
        y = torch.maximum(torch.minimum(symlog(x), self._edges[-1]), self._edges[0]).unsqueeze(-1)
        cdf = torch.erf((self._edges - y) / (math.sqrt(2.0) * self._sigma))
        mass = cdf[..., 1:] - cdf[..., :-1]
        return mass / mass.sum(-1, keepdim=True)

    def log_prob(self, x: Tensor) -> Tensor:
        """Negative cross-entropy between the target histogram of x (...,) and the prediction."""
        return (self.target(x) * self.logits.log_softmax(-1)).sum(-1)

    def entropy(self) -> Tensor:
        log_probs = self.logits.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)


class ScalarHead(nn.Module, ABC):
    """Linear map of latents (..., E) to the raw predictions (..., N) of a scalar, read as an output over (...,).

    Constructor: ``(width, *, limit, bias_support=None, num_bins=NUM_BINS)`` as of ``HLGaussHead``, whatever N is.
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


class HLGaussHead(ScalarHead):
    """Linear(E -> N bins) read as an ``HLGauss``. The bins span [-limit, limit] in symlog space.

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

    def output(self, logits: Tensor) -> HLGauss:
        return HLGauss(logits, self.edges, self.sigma)


class SquaredError(Output):
    """A point estimate in symlog space; loss (prediction - symlog(target))^2. ``logits`` is (..., 1)."""

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
