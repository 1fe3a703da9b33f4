"""Metrics stay on the device until a logging step, then go to JSON lines, TensorBoard and whoever listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from worldstream.run_folder import RunFolder, writing


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


class MetricLog:
    """Writes records of metrics to a run folder and to listeners.

    Args:
        folder: where metrics.jsonl and events/ go.
        listeners: called with each record; the progress display is one.
        from_steps: of a run that was resumed there; TensorBoard forgets what came after.
    """

    def __init__(
        self, folder: RunFolder, listeners: list[Callable[[dict[str, Any]], None]], *, from_steps: int = 0
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        self._listeners = listeners
        with writing(folder.events):
            self._writer = SummaryWriter(str(folder.events), purge_step=from_steps + 1 if from_steps else None)

    def write(self, record: dict[str, Any]) -> None:
        """Write one record; it must hold "steps"."""
        self._folder.append(self._folder.metrics, record)
        with writing(self._folder.events):
            for name, value in record.items():
                if name != "steps" and isinstance(value, int | float):
                    self._writer.add_scalar(name, value, record["steps"])
        for listener in self._listeners:
            listener(record)

    def close(self) -> None:
        """Flush TensorBoard's files."""
        with writing(self._folder.events):
            self._writer.close()
