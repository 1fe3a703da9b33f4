"""Metrics stay on the device until a logging step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class MetricMeans:
    """Running means of named scalars, without reading the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor | float] = {}
        self._counts: dict[str, int] = {}

    def add(self, prefix: str, values: dict[str, Any]) -> None:
        """Add scalars (numbers or () tensors) under ``prefix/name``."""
        for name, value in values.items():
            key = f"{prefix}/{name}"
            self._sums[key] = self._sums.get(key, 0.0) + value
            self._counts[key] = self._counts.get(key, 0) + 1

    def pop(self) -> dict[str, float]:
        """Means since the last call; this reads the device once."""
        names = list(self._sums)
        if not names:
            return {}
        on_device = [name for name in names if isinstance(self._sums[name], Tensor)]
        read = torch.stack([self._sums[name].float() for name in on_device]).tolist() if on_device else []  # type: ignore[union-attr]
        sums = {**self._sums, **dict(zip(on_device, read, strict=True))}
        means = {name: float(sums[name]) / self._counts[name] for name in names}
        self._sums, self._counts = {}, {}
        return means

    def state_dict(self) -> dict[str, list[float]]:
        """[sum, count] by name; reads the device."""
        return {name: [float(total), self._counts[name]] for name, total in self._sums.items()}

    def load_state_dict(self, state: dict[str, list[float]]) -> None:
        """Continue from ``state_dict``."""
        self._sums = {name: total for name, (total, _) in state.items()}
        self._counts = {name: int(count) for name, (_, count) in state.items()}
