"""Pure functions on tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def symlog(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|), elementwise: compresses large magnitudes, near-linear around zero."""
    return torch.sign(x) * torch.log1p(x.abs())


def symexp(x: Tensor) -> Tensor:
    """Inverse of ``symlog``."""
    return torch.sign(x) * torch.expm1(x.abs())


def lambda_returns(rewards: Tensor, terminated: Tensor, values: Tensor, discount: float, lambda_: float) -> Tensor:
    """TD(lambda) returns, G_t = r_t + (1 - d_t) g [(1 - l) V_{t+1} + l G_{t+1}] with G_H = V_H.

    Args:
        rewards: (B, H) r_t, caused by the action at step t.
        terminated: (B, H) d_t in {0, 1}: step t ended the episode, so nothing follows it.
        values: (B, H + 1) V_0..V_H.
        discount: g, per step.
        lambda_: l, weight of the longer return.

    Returns:
        (B, H) G_0..G_{H-1}.
    """
    following = discount * (1.0 - terminated.to(values.dtype))
    returns = values[:, -1]
    columns = []
    for t in reversed(range(rewards.shape[1])):
        bootstrap = (1.0 - lambda_) * values[:, t + 1] + lambda_ * returns
        returns = rewards[:, t] + following[:, t] * bootstrap
        columns.append(returns)
    return torch.stack(columns[::-1], dim=1)


def masked_mean(x: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of x (B, ...) where mask is true, a scalar; 0 when it is true nowhere. x and mask have the same shape.

    Rows count in proportion to ``weights`` (B,); None: all alike.
    """
    weight = mask.to(x.dtype)
    if weights is not None:
        weight = weight * weights.view(-1, *[1] * (x.ndim - 1))
    # Not a product alone: what is masked may be infinite.
    return (torch.where(mask, x, 0.0) * weight).sum() / weight.sum().clamp(min=1e-6)
