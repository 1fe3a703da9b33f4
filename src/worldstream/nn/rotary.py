"""Rotary phases (Su et al. 2021): features are turned in pairs by angles that grow with the position.

The product of a turned query and a turned key depends on the distance of their positions only. Two conventions of
which features form a pair are in use; either may be loaded from published weights.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Phases = tuple[Tensor, Tensor]
"""cos and sin, each (..., d/2)."""

Pairing = Literal["half", "interleaved"]
"""Feature i forms a pair with i + d/2 ("half"), or 2i with 2i + 1 ("interleaved")."""


def rotary_frequencies(num_pairs: int, *, base: float = 10_000.0, last_included: bool = False) -> Tensor:
    """(P,) radians per position, from 1 geometrically towards 1 / base, which is reached if ``last_included``."""
    exponent = torch.linspace(0.0, 1.0, num_pairs) if last_included else torch.arange(num_pairs) / num_pairs
    # Not base**-exponent, which is the same number but for its last bit: over hundreds of positions that would show.
    return 1.0 / base**exponent


def axial_frequencies(num_pairs: int, num_axes: int, *, base: float = 100.0) -> Tensor:
    """(axes, P) radians per position along each axis; every pair turns with one axis and rests with the others.

    The first axis takes the remainder of the pairs. Positions along an axis are small (blocks, rows, columns), so a
    low base leaves no pair nearly still. Raises ValueError when there are fewer pairs than axes.
    """
    if num_pairs < num_axes:
        raise ValueError(f"{num_pairs} pairs of features cannot tell {num_axes} axes apart")
    share = num_pairs // num_axes
    sizes = (num_pairs - (num_axes - 1) * share, *(num_axes - 1) * (share,))
    return torch.block_diag(*(rotary_frequencies(size, base=base) for size in sizes))


def rotary_phases(position: Tensor, frequencies: Tensor) -> Phases:
    """Phases of positions: (...) with frequencies (P,), or (..., axes) with frequencies (axes, P)."""
    if frequencies.ndim == 1:
        angle = position.unsqueeze(-1) * frequencies
    else:
        angle = position.to(frequencies.dtype) @ frequencies
    return angle.cos(), angle.sin()


def rotate(x: Tensor, phases: Phases, pairing: Pairing = "interleaved") -> Tensor:
    """Turn each pair (a, b) of x (..., d) by its phase: (a cos - b sin, b cos + a sin)."""
    cos, sin = phases
    if pairing == "half":
        first, second = x.chunk(2, -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    first, second = x[..., 0::2], x[..., 1::2]
    return torch.stack((first * cos - second * sin, second * cos + first * sin), -1).flatten(-2)
