"""Spaces, observations and actions as the published agent's golden files describe them, in our terms."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from worldstream.actions import encode, spec_from_space
from worldstream.errors import WeightsError
from worldstream.specs import ActionSpec, KeySpec

Arrays = dict[str, np.ndarray]


def prepared(inputs: Arrays) -> dict[str, Tensor]:
    """Inputs as tensors of the types that we compute with: single precision, int64 for ids, bool for masks and ends."""
    tensors = {name: torch.as_tensor(array) for name, array in inputs.items()}
    kinds = {"mask_padding": torch.bool, "ends": torch.bool, "returns_ends": torch.bool}
    kinds |= {f"observations/{kind}": torch.int64 for kind in ("token", "token_2d")}
    return {
        name: x.to(kinds[name]) if name in kinds else x.float() if x.is_floating_point() else x
        for name, x in tensors.items()
    }


def tokenizer_input(kind: str, x: Tensor) -> Tensor:
    """An observation, which is pre-processed already, as the tokenizer of its key takes it."""
    if kind == "image":
        return 255 * x  # the tokenizer takes bytes; it minds no fractions of them
    return x.unsqueeze(-1) if kind == "token" else x


def action_ids(spec: ActionSpec, raw: Tensor) -> Tensor:
    """(B, T, M) ids of actions (B, T, M)."""
    rows = (raw.float() if spec.ordinal[0] else raw.long()).flatten(0, 1).numpy()
    ids = [encode(spec, row if spec.ordinal[0] else row[0]) for row in rows]
    return torch.as_tensor(np.stack(ids)).unflatten(0, raw.shape[:2])


def key_specs(settings: dict[str, Any]) -> dict[str, KeySpec]:
    """One key for each kind of observation, called like it. Raises WeightsError for none, and an unknown kind."""
    specs = {}
    for kind, size in _described(settings, "spaces").items():
        if kind == "image":
            *_, channels, height, width = size
            specs[kind] = KeySpec(key=kind, modality="image", shape=(height, width, channels), dtype="uint8")
        elif kind == "vector":
            specs[kind] = KeySpec(key=kind, modality="vector", shape=tuple(size), dtype="float32")
        elif kind in ("token", "token_2d"):
            # The published agent takes the vocabulary of the first entry for all (C29).
            vocabulary = tuple(size[0]) if kind == "token_2d" else (size[0],)
            shape, grid = (len(size), len(vocabulary)), (len(size), 1)
            specs[kind] = KeySpec(
                key=kind, modality="grid", shape=shape, dtype="int64", vocabulary=vocabulary, grid=grid
            )
        else:
            raise WeightsError(f"observations of the kind '{kind}' are unknown.")
    return specs


def action_spec(settings: dict[str, Any], num_levels: int) -> ActionSpec:
    """The actions; continuous ones are cut into levels. Raises WeightsError for none, and an unknown kind."""
    (kind, size), *_ = _described(settings, "action_space").items()
    if kind == "discrete":
        return spec_from_space(spaces.Discrete(size))
    if kind == "continuous":
        box = spaces.Box(-1.0, 1.0, (size,), np.float32)
        return spec_from_space(box, num_levels)
    raise WeightsError(f"actions of the kind '{kind}' are unknown.")


def _described(settings: dict[str, Any], name: str) -> dict[str, Any]:
    described = settings.get(name)
    if not isinstance(described, dict) or not described:
        raise WeightsError(f"the settings describe no '{name}': give sizes by kind, such as {{'vector': [5]}}.")
    return described
