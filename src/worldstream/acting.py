"""Acting: stored observations in, action ids out. Collection, evaluation and ``Agent.act`` all go through here."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from worldstream.tokenizers.bundle import TokenizerBundle
from worldstream.types import Observations, Policy


@torch.no_grad()
def act(
    tokenizers: TokenizerBundle,
    policy: Policy,
    observations: Observations,
    carry: Any,
    generator: torch.Generator | None = None,
) -> tuple[np.ndarray, Any]:
    """Choose actions for N environments.

    Args:
        tokenizers: encode the observations.
        policy: (features, carry, generator) -> (action, carry, info).
        observations: stored arrays (N, ...) by key.
        carry: memory of the policy, batch size N.
        generator: of the tokenizers' device.

    Returns:
        action ids (N, M), and the carry in which these actions count as executed.
    """
    features = tokenizers.features(tokenizers.encode(observations))
    action, carry, _ = policy(features, carry, generator)
    return action.cpu().numpy(), carry
