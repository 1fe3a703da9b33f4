"""Random observations and batches of a given shape: for estimates before a run, and for speed benchmarks."""

from __future__ import annotations

import numpy as np
import torch

from worldstream.specs import ActionSpec, KeySpec, TokenSpec
from worldstream.types import Batch, Observations


def synthetic_observations(specs: dict[str, KeySpec], *leading: int) -> Observations:
    """Random stored arrays (*leading, *shape) by key."""
    rng = np.random.default_rng(0)

    def values(spec: KeySpec) -> np.ndarray:
        shape = (*leading, *spec.shape)
        if spec.vocabulary or spec.dtype == "uint8":
            return rng.integers(0, spec.vocabulary or 256, shape)
        return rng.normal(size=shape)

    return {key: values(spec).astype(spec.dtype) for key, spec in specs.items()}


def synthetic_batch(
    token_specs: dict[str, TokenSpec], action_spec: ActionSpec, *, batch_size: int, length: int, device: torch.device
) -> Batch:
    """A batch (B, T) of uniformly random tokens and actions without ends or padding."""
    shape = (batch_size, length)
    tokens = {
        key: torch.stack(
            [torch.randint(size, (*shape, spec.num_tokens), device=device) for size in spec.vocabulary], -1
        )
        for key, spec in token_specs.items()
    }
    actions = torch.stack([torch.randint(size, shape, device=device) for size in action_spec.sizes], -1)
    everywhere = torch.ones(shape, dtype=torch.bool, device=device)
    return Batch(
        anchors=np.arange(batch_size),
        tokens=tokens,
        actions=actions,
        rewards=torch.randn(shape, device=device),
        terminated=~everywhere,
        observed=everywhere,
        acted=everywhere,
    )
